// Recordings for tests: files changed tensor by tensor, and inputs to record from.
#pragma once

#include "reference/config.hpp"
#include "reference/safetensors.hpp"
#include "reference/validate/recording.hpp"
#include "tests/support/random.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dsv4::test {

/// A safetensors file in memory whose tensors can be changed.
struct EditableFile {
  struct Entry {
    reference::DType dtype;
    std::vector<std::int64_t> shape;
    std::vector<std::byte> bytes;
  };
  std::map<std::string, std::string> metadata;
  std::map<std::string, Entry> tensors;

  EditableFile() = default;
  explicit EditableFile(const reference::SafetensorsFile& file) : metadata(file.metadata()) {
    for (const reference::StoredTensor& t : file.tensors())
      tensors[t.name] = {t.dtype, t.shape, {t.bytes.begin(), t.bytes.end()}};
  }

  template <class T>
  void put(const std::string& name, std::vector<std::int64_t> shape, const std::vector<T>& elements) {
    const auto* data = reinterpret_cast<const std::byte*>(elements.data());
    tensors[name] = {
        reference::StoredAs<T>::value, std::move(shape), {data, data + elements.size() * sizeof(T)}};
  }
  template <class T>
  T get(const std::string& name, std::int64_t element) const {
    T value;
    std::memcpy(&value, tensors.at(name).bytes.data() + element * static_cast<std::int64_t>(sizeof(T)),
                sizeof(T));
    return value;
  }
  template <class T>
  void set(const std::string& name, std::int64_t element, T value) {
    std::memcpy(tensors.at(name).bytes.data() + element * static_cast<std::int64_t>(sizeof(T)), &value,
                sizeof(T));
  }

  reference::SafetensorsWriter writer() const {
    reference::SafetensorsWriter out;
    for (const auto& [key, value] : metadata) out.metadata(key, value);
    for (const auto& [name, t] : tensors) out.add(name, t.dtype, t.shape, t.bytes);
    return out;
  }
  reference::SafetensorsFile parse() const {
    auto bytes = std::make_shared<std::vector<std::byte>>(writer().bytes());
    return reference::SafetensorsFile::parse(*bytes, "edited.safetensors", bytes);
  }
  reference::validation::Recording recording() const {
    return reference::validation::read_recording(parse());
  }
};

/// Start and count of the tokens of each call.
using Calls = std::vector<std::pair<std::int64_t, std::int64_t>>;

/// A recording of inputs alone: random tokens, the given calls.
inline EditableFile inputs_to_record(const ModelConfig& config, reference::NumericMode mode,
                                     const Calls& calls, std::uint64_t seed, bool mtp = true) {
  EditableFile file;
  file.metadata["config"] = reference::config_to_json(config, mode);
  std::int64_t number = 0;
  for (const auto& [start, count] : calls) {
    std::string prefix = std::to_string(number++);
    prefix = "call." + std::string(3 - prefix.size(), '0') + prefix + ".";
    const std::vector<std::int32_t> ids =
        integers(count + 1, seed + static_cast<std::uint64_t>(number), 0, config.vocab - 1);
    const std::vector<std::int64_t> wide(ids.begin(), ids.end());
    file.put<std::int64_t>(prefix + "tokens", {count}, {wide.begin(), wide.end() - 1});
    file.put<std::int64_t>(prefix + "start_pos", {1}, {start});
    if (mtp && config.mtp_layers > 0)
      file.put<std::int64_t>(prefix + "next_tokens", {count}, {wide.begin() + 1, wide.end()});
  }
  return file;
}

}  // namespace dsv4::test
