#include "reference/mapped_file.hpp"

#include "reference/error.hpp"
#include "reference/printable.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

namespace dsv4::reference {
namespace {

std::string reason(int error) { return std::generic_category().message(error); }

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

std::string printable_path(const std::filesystem::path& path) { return printable(path.native(), 4096); }

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const std::string name = printable_path(path);
  // O_NONBLOCK: opening a named pipe must not wait for a writer; it is refused below.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) throw InputError(fmt::format("{}: cannot open: {}", name, reason(errno)));
  struct stat info {};
  if (::fstat(file.fd, &info) != 0)
    throw InputError(fmt::format("{}: cannot read its size: {}", name, reason(errno)));
  if (S_ISDIR(info.st_mode)) throw InputError(fmt::format("{}: is a directory, not a file", name));
  if (!S_ISREG(info.st_mode)) throw InputError(fmt::format("{}: is not a regular file", name));
  const auto size = static_cast<std::size_t>(info.st_size);
  std::span<const std::byte> bytes;
  if (size > 0) {  // an empty mapping is an error of mmap, not of the file
    void* const data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (data == MAP_FAILED)
      throw InputError(fmt::format("{}: cannot map {} bytes: {}", name, size, reason(errno)));
    bytes = {static_cast<const std::byte*>(data), size};
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(bytes, name));
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

std::string read_text(const std::filesystem::path& path, std::size_t max_bytes) {
  const auto file = MappedFile::open(path);
  const auto bytes = file->bytes();
  if (bytes.size() > max_bytes)
    throw InputError(
        fmt::format("{}: {} bytes exceed the limit of {}", file->name(), bytes.size(), max_bytes));
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace dsv4::reference
