#include "reference/safetensors.hpp"

#include "reference/error.hpp"
#include "reference/json.hpp"
#include "reference/mapped_file.hpp"
#include "reference/printable.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace dsv4::reference {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // as in the format's reference implementation
constexpr std::size_t kMaxRank = 32;
constexpr std::int64_t kMaxBytes = std::numeric_limits<std::int64_t>::max();

struct DTypeRow {
  DType dtype;
  std::string_view name;
  int bytes;
};
constexpr std::array kDTypes = {
    DTypeRow{DType::kF64, "F64", 8},        DTypeRow{DType::kF32, "F32", 4},
    DTypeRow{DType::kF16, "F16", 2},        DTypeRow{DType::kBf16, "BF16", 2},
    DTypeRow{DType::kI64, "I64", 8},        DTypeRow{DType::kI32, "I32", 4},
    DTypeRow{DType::kI16, "I16", 2},        DTypeRow{DType::kI8, "I8", 1},
    DTypeRow{DType::kU64, "U64", 8},        DTypeRow{DType::kU32, "U32", 4},
    DTypeRow{DType::kU16, "U16", 2},        DTypeRow{DType::kU8, "U8", 1},
    DTypeRow{DType::kBool, "BOOL", 1},      DTypeRow{DType::kF8E4m3, "F8_E4M3", 1},
    DTypeRow{DType::kF8E5m2, "F8_E5M2", 1}, DTypeRow{DType::kF8E8m0, "F8_E8M0", 1},
};
static_assert([] {
  for (std::size_t i = 0; i < kDTypes.size(); ++i)
    if (static_cast<std::size_t>(kDTypes[i].dtype) != i) return false;
  return true;
}());

const DTypeRow& row(DType dtype) { return kDTypes[static_cast<std::size_t>(dtype)]; }

// One entry of the header, its offsets checked on their own.
struct Entry {
  StoredTensor tensor;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

Entry parse_entry(const std::string& name, const json& value, std::int64_t data_bytes,
                  const std::shared_ptr<const std::string>& file) {
  Entry entry;
  entry.tensor.name = name;
  entry.tensor.file = file;
  const std::string at = where(entry.tensor);
  if (!value.is_object())
    throw InputError(fmt::format("{}: its header entry must be an object, got {}", at, quoted_json(value)));
  const auto member = [&](const char* key) -> const json& {
    const auto it = value.find(key);
    if (it == value.end())
      throw InputError(fmt::format("{}: '{}' is missing from its header entry", at, key));
    return *it;
  };

  const json& dtype = member("dtype");
  if (!dtype.is_string())
    throw InputError(fmt::format("{}: dtype must be a string, got {}", at, quoted_json(dtype)));
  const auto known = std::find_if(kDTypes.begin(), kDTypes.end(), [&](const DTypeRow& r) {
    return r.name == dtype.get_ref<const std::string&>();
  });
  if (known == kDTypes.end()) throw InputError(fmt::format("{}: unknown dtype {}", at, quoted_json(dtype)));
  entry.tensor.dtype = known->dtype;

  const json& shape = member("shape");
  if (!shape.is_array())
    throw InputError(fmt::format("{}: shape must be an array, got {}", at, quoted_json(shape)));
  if (shape.size() > kMaxRank)
    throw InputError(fmt::format("{}: shape has {} dimensions, the limit is {}", at, shape.size(), kMaxRank));
  for (const json& n : shape) {
    if (!n.is_number_unsigned() || n.get<std::uint64_t>() > static_cast<std::uint64_t>(kMaxBytes))
      throw InputError(fmt::format("{}: shape {} must hold integers in [0, 2^63)", at, quoted_json(shape)));
    entry.tensor.shape.push_back(n.get<std::int64_t>());
  }
  const auto bytes = checked_bytes(entry.tensor.dtype, entry.tensor.shape);
  if (!bytes)
    throw InputError(fmt::format("{}: {} {} needs more than 2^63 - 1 bytes", at, known->name,
                                 shape_text(entry.tensor.shape)));

  const json& offsets = member("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned())
    throw InputError(
        fmt::format("{}: data_offsets must be two non-negative integers, got {}", at, quoted_json(offsets)));
  const auto begin = offsets[0].get<std::uint64_t>();
  const auto end = offsets[1].get<std::uint64_t>();
  if (begin > end)
    throw InputError(fmt::format("{}: data_offsets [{}, {}] end before they begin", at, begin, end));
  if (end > static_cast<std::uint64_t>(data_bytes))
    throw InputError(
        fmt::format("{}: data_offsets [{}, {}] reach beyond the {} bytes of data in the file "
                    "(truncated?)",
                    at, begin, end, data_bytes));
  if (end - begin != static_cast<std::uint64_t>(*bytes))
    throw InputError(fmt::format("{}: data_offsets [{}, {}] hold {} bytes, {} {} needs {}", at, begin, end,
                                 end - begin, known->name, shape_text(entry.tensor.shape), *bytes));
  entry.begin = static_cast<std::int64_t>(begin);
  entry.end = static_cast<std::int64_t>(end);
  return entry;
}

std::map<std::string, std::string> parse_metadata(const json& value, const std::string& file) {
  if (!value.is_object())
    throw InputError(fmt::format("{}: {} must be an object, got {}", file, kMetadataKey, quoted_json(value)));
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string())
      throw InputError(fmt::format("{}: {} '{}' must be a string, got {}", file, kMetadataKey, printable(key),
                                   quoted_json(text)));
    metadata.emplace(key, text.get<std::string>());
  }
  return metadata;
}

// The tensors, in order of their data, must tile [0, data_bytes).
void check_tiling(std::span<const Entry> entries, std::int64_t data_bytes, const std::string& file) {
  std::int64_t reached = 0;
  const Entry* previous = nullptr;
  for (const Entry& e : entries) {
    if (e.begin < reached)
      throw InputError(fmt::format("{}: its data begins at {}, inside tensor '{}' [{}, {}]", where(e.tensor),
                                   e.begin, printable(previous->tensor.name), previous->begin,
                                   previous->end));
    if (e.begin > reached)
      throw InputError(fmt::format("{}: its data begins at {}, leaving a hole of {} bytes before it",
                                   where(e.tensor), e.begin, e.begin - reached));
    reached = e.end;
    previous = &e;
  }
  if (reached != data_bytes)
    throw InputError(
        fmt::format("{}: {} bytes of data, but the tensors end at {}", file, data_bytes, reached));
}

}  // namespace

std::string_view name_of(DType dtype) { return row(dtype).name; }
int size_bytes(DType dtype) { return row(dtype).bytes; }

std::optional<std::int64_t> checked_bytes(DType dtype, std::span<const std::int64_t> shape) {
  std::int64_t bytes = size_bytes(dtype);
  bool empty = false;
  for (const std::int64_t n : shape) {
    if (n == 0) {
      empty = true;
    } else if (bytes > kMaxBytes / n) {
      return std::nullopt;
    } else {
      bytes *= n;
    }
  }
  return empty ? 0 : bytes;
}

std::int64_t StoredTensor::count() const {
  return static_cast<std::int64_t>(bytes.size()) / size_bytes(dtype);
}

std::string where(const StoredTensor& tensor) {
  return fmt::format("{}: tensor '{}'", *tensor.file, printable(tensor.name));
}

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (const std::int64_t n : shape) text.append(text.size() > 1 ? ", " : "").append(std::to_string(n));
  return text + "]";
}

void require_dtype(const StoredTensor& tensor, DType expected) {
  if (tensor.dtype != expected)
    throw InputError(
        fmt::format("{}: dtype is {}, expected {}", where(tensor), name_of(tensor.dtype), name_of(expected)));
}

std::vector<float> floats(const StoredTensor& tensor) {
  if (tensor.dtype == DType::kF32) return values<float>(tensor);
  if (tensor.dtype != DType::kBf16)
    throw InputError(
        fmt::format("{}: dtype is {}, expected F32 or BF16", where(tensor), name_of(tensor.dtype)));
  const auto stored = values<bf16>(tensor);
  std::vector<float> out(stored.size());
  std::transform(stored.begin(), stored.end(), out.begin(), [](bf16 x) { return to_float(x); });
  return out;
}

std::vector<std::int64_t> integers(const StoredTensor& tensor) {
  const auto widened = [&]<class T>(T) {
    std::vector<std::int64_t> out(static_cast<std::size_t>(tensor.count()));
    for (std::size_t i = 0; i < out.size(); ++i) {
      T value;
      std::memcpy(&value, tensor.bytes.data() + i * sizeof(T), sizeof(T));
      out[i] = value;
    }
    return out;
  };
  switch (tensor.dtype) {
    case DType::kI64:
      return values<std::int64_t>(tensor);
    case DType::kI32:
      return widened(std::int32_t{});
    case DType::kI16:
      return widened(std::int16_t{});
    case DType::kI8:
      return widened(std::int8_t{});
    case DType::kU8:
    case DType::kBool:
      return widened(std::uint8_t{});
    default:
      throw InputError(
          fmt::format("{}: dtype is {}, expected an integer type", where(tensor), name_of(tensor.dtype)));
  }
}

SafetensorsFile SafetensorsFile::open(const fs::path& path) {
  auto file = MappedFile::open(path);
  const auto bytes = file->bytes();
  const std::string name = file->name();
  return parse(bytes, name, std::move(file));
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes, const std::string& name,
                                       std::shared_ptr<const void> keep_alive) {
  auto content = std::make_shared<Content>();
  content->name = std::make_shared<const std::string>(name);
  content->keep_alive = std::move(keep_alive);

  if (bytes.size() < 8)
    throw InputError(
        fmt::format("{}: {} bytes are too few for the 8-byte header length", name, bytes.size()));
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("version https://git-lfs"))
    throw InputError(fmt::format("{}: is a Git LFS pointer, not the file it stands for", name));
  std::uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i)
    header_bytes = header_bytes << 8 | static_cast<std::uint8_t>(text[static_cast<std::size_t>(i)]);
  if (header_bytes > bytes.size() - 8)
    throw InputError(
        fmt::format("{}: header length {} reaches beyond the {} bytes that follow it (truncated?)", name,
                    header_bytes, bytes.size() - 8));
  if (header_bytes > kMaxHeaderBytes)
    throw InputError(
        fmt::format("{}: header length {} exceeds the limit of {}", name, header_bytes, kMaxHeaderBytes));
  const json header = parse_json(text.substr(8, header_bytes), fmt::format("{}: header", name));
  if (!header.is_object())
    throw InputError(fmt::format("{}: header: must be a JSON object, got {}", name, quoted_json(header)));

  const auto data = bytes.subspan(8 + header_bytes);
  const auto data_bytes = static_cast<std::int64_t>(data.size());
  std::vector<Entry> entries;
  entries.reserve(header.size());
  for (const auto& [key, value] : header.items()) {
    if (key == kMetadataKey) {
      content->metadata = parse_metadata(value, name);
    } else {
      entries.push_back(parse_entry(key, value, data_bytes, content->name));
    }
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  check_tiling(entries, data_bytes, name);

  content->tensors.reserve(entries.size());
  for (Entry& e : entries) {
    e.tensor.bytes =
        data.subspan(static_cast<std::size_t>(e.begin), static_cast<std::size_t>(e.end - e.begin));
    content->tensors.push_back(std::move(e.tensor));
  }
  content->index.reserve(content->tensors.size());
  for (std::size_t i = 0; i < content->tensors.size(); ++i)
    content->index.emplace(content->tensors[i].name, i);
  return SafetensorsFile(std::move(content));
}

const StoredTensor* SafetensorsFile::find(std::string_view name) const {
  const auto it = content_->index.find(name);
  return it == content_->index.end() ? nullptr : &content_->tensors[it->second];
}

const StoredTensor& SafetensorsFile::at(std::string_view name) const {
  if (const StoredTensor* tensor = find(name)) return *tensor;
  throw InputError(fmt::format("{}: tensor '{}' is missing", this->name(), printable(name)));
}

}  // namespace dsv4::reference
