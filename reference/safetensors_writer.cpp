// SafetensorsWriter: the container written, in memory or atomically to a file.
#include "reference/error.hpp"
#include "reference/mapped_file.hpp"
#include "reference/printable.hpp"
#include "reference/safetensors.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>

namespace dsv4::reference {

namespace fs = std::filesystem;
using nlohmann::json;

void SafetensorsWriter::metadata(std::string key, std::string value) {
  metadata_.insert_or_assign(std::move(key), std::move(value));
}

void SafetensorsWriter::add(std::string name, DType dtype, std::vector<std::int64_t> shape,
                            std::vector<std::byte> bytes) {
  const auto refuse = [&](const std::string& reason) {
    throw InputError(fmt::format("writer: tensor '{}': {}", printable(name), reason));
  };
  if (name == kMetadataKey) refuse("the name is reserved");
  if (names_.contains(name)) refuse("added twice");
  if (std::any_of(shape.begin(), shape.end(), [](std::int64_t n) { return n < 0; }))
    refuse(fmt::format("negative dimension in {}", shape_text(shape)));
  const auto needed = checked_bytes(dtype, shape);
  if (!needed || *needed != static_cast<std::int64_t>(bytes.size()))
    refuse(fmt::format("{} bytes do not fit {} {}", bytes.size(), name_of(dtype), shape_text(shape)));
  names_.insert(name);
  entries_.push_back({std::move(name), dtype, std::move(shape), std::move(bytes)});
}

std::vector<const SafetensorsWriter::Entry*> SafetensorsWriter::order() const {
  std::vector<const Entry*> order;
  order.reserve(entries_.size());
  for (const Entry& e : entries_) order.push_back(&e);
  std::stable_sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
    return size_bytes(a->dtype) > size_bytes(b->dtype);
  });
  return order;
}

std::string SafetensorsWriter::header(std::span<const Entry* const> order) const {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata_.empty()) header[kMetadataKey] = metadata_;
  std::string text;
  std::uint64_t offset = 0;
  try {
    // Appended by hand: inserting into an ordered_json object takes time linear in its size.
    text = header.dump();
    text.pop_back();
    for (const Entry* e : order) {
      const nlohmann::ordered_json value = {{"dtype", name_of(e->dtype)},
                                            {"shape", e->shape},
                                            {"data_offsets", {offset, offset + e->bytes.size()}}};
      if (text.size() > 1) text += ',';
      text += nlohmann::ordered_json(e->name).dump() + ':' + value.dump();
      offset += e->bytes.size();
    }
  } catch (const json::exception&) {
    throw InputError("writer: a tensor's name or a metadata text is not valid UTF-8");
  }
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

namespace {

std::array<std::byte, 8> little_endian(std::uint64_t value) {
  std::array<std::byte, 8> out;
  for (std::byte& b : out) b = static_cast<std::byte>(value & 255), value >>= 8;
  return out;
}

}  // namespace

std::vector<std::byte> SafetensorsWriter::bytes() const {
  const auto entries = order();
  const std::string text = header(entries);
  const auto length = little_endian(text.size());
  std::size_t total = length.size() + text.size();
  for (const Entry* e : entries) total += e->bytes.size();
  std::vector<std::byte> out(total);
  auto* at = std::copy(length.begin(), length.end(), out.data());
  const auto text_bytes = std::as_bytes(std::span(text));
  at = std::copy(text_bytes.begin(), text_bytes.end(), at);
  for (const Entry* e : entries) at = std::copy(e->bytes.begin(), e->bytes.end(), at);
  return out;
}

void SafetensorsWriter::write(const fs::path& path) const {
  const auto entries = order();
  const std::string text = header(entries);
  const auto length = little_endian(text.size());
  std::vector<std::span<const std::byte>> chunks = {length, std::as_bytes(std::span(text))};
  for (const Entry* e : entries) chunks.emplace_back(e->bytes);
  write_atomically(path, chunks);
}

void write_atomically(const fs::path& path, std::span<const std::span<const std::byte>> chunks) {
  static std::atomic<unsigned> counter{0};
  fs::path temporary = path;
  temporary += fmt::format(".tmp-{}-{}", ::getpid(), counter.fetch_add(1));
  const auto refuse = [&](const char* action, int error) {
    throw InputError(fmt::format("{}: cannot {}: {}", printable_path(path), action,
                                 std::generic_category().message(error)));
  };
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0) refuse("create", errno);
  const auto fail = [&](const char* action, int error) {
    ::unlink(temporary.c_str());
    refuse(action, error);
  };
  for (std::span<const std::byte> rest : chunks) {
    while (!rest.empty()) {
      const ssize_t n = ::write(fd, rest.data(), std::min<std::size_t>(rest.size(), 1 << 30));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        const int error = n < 0 ? errno : ENOSPC;
        ::close(fd);
        fail("write", error);
      }
      rest = rest.subspan(static_cast<std::size_t>(n));
    }
  }
  if (::close(fd) != 0) fail("write", errno);
  if (::rename(temporary.c_str(), path.c_str()) != 0) fail("replace", errno);
}

}  // namespace dsv4::reference
