// Temporary folders and the one-line errors of unusable files.
#pragma once

#include "reference/error.hpp"
#include "tests/support/catch.hpp"

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>

namespace dsv4::test {

/// A folder of its own, removed with all it holds.
class TempFolder {
 public:
  TempFolder() {
    std::random_device random;
    do {
      path_ = std::filesystem::temp_directory_path() / ("dsv4-test-" + std::to_string(random()));
    } while (!std::filesystem::create_directory(path_));
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline void write_file(const std::filesystem::path& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  REQUIRE(file.flush());
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A safetensors file: header length, header, data.
inline std::string safetensors(std::string_view header, std::string_view data = "") {
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>(header.size() >> (8 * i) & 255);
  return out.append(header).append(data);
}

/// The InputError that `f` throws; it must be one line of printable text.
template <class F>
std::string input_error(F&& f) {
  try {
    f();
  } catch (const reference::InputError& e) {
    const std::string what = e.what();
    CAPTURE(what);
    REQUIRE(!what.empty());
    for (const char c : what) REQUIRE((static_cast<unsigned char>(c) >= 0x20 && c != 0x7f));
    return what;
  }
  FAIL("no InputError");
  return {};
}

}  // namespace dsv4::test
