// What the safetensors fuzzer does with one input; the ordinary tests replay the corpus through it.
#pragma once

#include "reference/config.hpp"
#include "reference/error.hpp"
#include "reference/safetensors.hpp"
#include "reference/weights.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4::fuzz {

/// Runs `f`; an InputError is a legal outcome if its text is one line. Everything else gets out.
template <class F>
void refused_or_done(F&& f) {
  try {
    f();
  } catch (const reference::InputError& e) {
    const std::string_view what = e.what();
    bool one_line = !what.empty() && what.size() < 2000;
    for (const char c : what) one_line = one_line && static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
    if (!one_line) throw std::logic_error("the message of an InputError is not one line");
  }
}

inline void require(bool condition, const char* what) {
  if (!condition) throw std::logic_error(what);
}

/// A file, from header to model: what parses can be read in full and written again.
inline void check_file(std::span<const std::byte> bytes) {
  const auto file = reference::SafetensorsFile::parse(bytes, "input");
  reference::SafetensorsWriter writer;
  for (const auto& [key, value] : file.metadata()) writer.metadata(key, value);
  for (const reference::StoredTensor& tensor : file.tensors()) {
    require(file.find(tensor.name) == &tensor, "a tensor is not found by its name");
    require(tensor.count() * reference::size_bytes(tensor.dtype) ==
                static_cast<std::int64_t>(tensor.bytes.size()),
            "a tensor's bytes are not those of its elements");
    refused_or_done([&] { (void)reference::floats(tensor); });
    refused_or_done([&] { (void)reference::integers(tensor); });
    writer.add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes);
  }
  const auto written = writer.bytes();
  const auto again = reference::SafetensorsFile::parse(written, "written");
  require(again.metadata() == file.metadata(), "metadata changes when written");
  require(again.tensors().size() == file.tensors().size(), "tensors are lost when written");
  for (const reference::StoredTensor& tensor : file.tensors()) {
    const reference::StoredTensor& copy = again.at(tensor.name);
    require(copy.dtype == tensor.dtype && copy.shape == tensor.shape &&
                std::equal(copy.bytes.begin(), copy.bytes.end(), tensor.bytes.begin(), tensor.bytes.end()),
            "a tensor changes when written");
  }
  (void)reference::load_model(reference::Checkpoint::of({file}, "input"));
}

/// A config.json: what parses comes back the same from config_to_json.
inline void check_config(std::string_view text) {
  const auto parsed = reference::parse_config(text, "input");
  require(validate(parsed.config).ok(), "parse_config gives an invalid configuration");
  const auto again =
      reference::parse_config(reference::config_to_json(parsed.config, parsed.mode), "written");
  require(again.config == parsed.config && again.mode == parsed.mode, "a configuration changes when written");
  require(reference::difference(again.config, parsed.config).empty(), "a configuration differs from itself");
}

}  // namespace dsv4::fuzz

/// The entry: the input as a file and as a config.json. Throws std::logic_error, or whatever the code under
/// test should not throw, when it finds something.
inline void dsv4_fuzz_safetensors(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::uint8_t> input(data, size);
  dsv4::fuzz::refused_or_done([&] { dsv4::fuzz::check_file(std::as_bytes(input)); });
  dsv4::fuzz::refused_or_done([&] { dsv4::fuzz::check_config({reinterpret_cast<const char*>(data), size}); });
  dsv4::fuzz::refused_or_done([&] {
    (void)dsv4::reference::canonical_name({reinterpret_cast<const char*>(data), size});
  });
}
