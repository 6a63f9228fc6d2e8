// A file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace dsv4::reference {

/// The bytes of one regular file, mapped until the object dies. Nobody may truncate the file meanwhile
/// (promised: the operating system answers a read beyond the new end with SIGBUS).
class MappedFile {
 public:
  /// Maps `path`. Throws InputError when it cannot be opened or is no regular file; an empty file is legal
  /// here.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  /// Page-aligned.
  std::span<const std::byte> bytes() const { return bytes_; }
  /// The path as messages print it.
  const std::string& name() const { return name_; }

 private:
  MappedFile(std::span<const std::byte> bytes, std::string name) : bytes_(bytes), name_(std::move(name)) {}

  std::span<const std::byte> bytes_;
  std::string name_;
};

/// Path as messages print it: escaped, on one line.
std::string printable_path(const std::filesystem::path& path);

/// The whole of a small text file. Throws InputError when it cannot be read or holds more than `max_bytes`.
std::string read_text(const std::filesystem::path& path, std::size_t max_bytes);

}  // namespace dsv4::reference
