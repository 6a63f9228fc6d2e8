// Reader and writer of the safetensors container, and checkpoints of several such files.
//
// A file is: u64 length of the header (little-endian), the header (a JSON object), the data. The header
// gives every tensor's dtype, shape and data_offsets [begin, end) into the data; together the tensors cover
// the data without holes or overlaps. Every violation throws InputError: one line with file, tensor, reason.
#pragma once

#include <dsv4/core/types.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace dsv4::reference {

/// Element types a file may name.
enum class DType : std::uint8_t {
  kF64,
  kF32,
  kF16,
  kBf16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool,
  kF8E4m3,
  kF8E5m2,
  kF8E8m0,
};

/// As the header spells it: "BF16", "F8_E4M3", ...
std::string_view name_of(DType dtype);
int size_bytes(DType dtype);

/// Bytes of a tensor, or nothing when they exceed int64. Zero dimensions do not excuse absurd ones.
std::optional<std::int64_t> checked_bytes(DType dtype, std::span<const std::int64_t> shape);

/// Header entry that holds the metadata instead of a tensor.
inline constexpr char kMetadataKey[] = "__metadata__";

/// The DType that stores a C++ type.
template <class T>
struct StoredAs;
template <>
struct StoredAs<double> : std::integral_constant<DType, DType::kF64> {};
template <>
struct StoredAs<float> : std::integral_constant<DType, DType::kF32> {};
template <>
struct StoredAs<bf16> : std::integral_constant<DType, DType::kBf16> {};
template <>
struct StoredAs<std::int64_t> : std::integral_constant<DType, DType::kI64> {};
template <>
struct StoredAs<std::int32_t> : std::integral_constant<DType, DType::kI32> {};
template <>
struct StoredAs<std::uint8_t> : std::integral_constant<DType, DType::kU8> {};
template <>
struct StoredAs<e4m3> : std::integral_constant<DType, DType::kF8E4m3> {};
template <>
struct StoredAs<e2m1x2> : std::integral_constant<DType, DType::kI8> {};  // published: nibble pairs as I8
template <>
struct StoredAs<e8m0> : std::integral_constant<DType, DType::kF8E8m0> {};

/// One tensor of a file. Valid while the file (or a copy of its SafetensorsFile) lives.
///   bytes  the data, row-major; NOT necessarily aligned for the dtype: read it through values() or memcpy
struct StoredTensor {
  std::string name;
  DType dtype = DType::kU8;
  std::vector<std::int64_t> shape;  // empty: a scalar
  std::span<const std::byte> bytes;
  std::shared_ptr<const std::string> file;  // as messages print it

  std::int64_t count() const;  // elements; 0 where a dimension is 0
};

/// "FILE: tensor 'NAME'", escaped: the beginning of every message about a tensor.
std::string where(const StoredTensor& tensor);

/// "[2, 3]".
std::string shape_text(std::span<const std::int64_t> shape);

/// Throws InputError unless the tensor's dtype is `expected`.
void require_dtype(const StoredTensor& tensor, DType expected);

/// Elements as they are stored. Throws InputError unless the dtype is T's.
template <class T>
std::vector<T> values(const StoredTensor& tensor) {
  require_dtype(tensor, StoredAs<T>::value);
  std::vector<T> out(tensor.bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
  return out;
}

/// Elements of an F32 or BF16 tensor, exactly. Throws InputError for another dtype.
std::vector<float> floats(const StoredTensor& tensor);

/// Elements of an I64, I32, I16, I8, U8 or BOOL tensor. Throws InputError for another dtype.
std::vector<std::int64_t> integers(const StoredTensor& tensor);

/// One file. Copies share the mapping.
class SafetensorsFile {
 public:
  /// Maps and checks `path`; the data itself is not read.
  static SafetensorsFile open(const std::filesystem::path& path);

  /// Checks a file that is in memory already.
  ///   name        for messages
  ///   keep_alive  owner of `bytes`; null: the caller keeps them alive
  static SafetensorsFile parse(std::span<const std::byte> bytes, const std::string& name,
                               std::shared_ptr<const void> keep_alive = nullptr);

  const std::string& name() const { return *content_->name; }
  /// The header's "__metadata__".
  const std::map<std::string, std::string>& metadata() const { return content_->metadata; }
  /// In the order of their data.
  const std::vector<StoredTensor>& tensors() const { return content_->tensors; }
  /// Null when there is none.
  const StoredTensor* find(std::string_view name) const;
  /// Throws InputError when there is none.
  const StoredTensor& at(std::string_view name) const;

 private:
  struct Content {
    std::shared_ptr<const std::string> name;
    std::shared_ptr<const void> keep_alive;
    std::map<std::string, std::string> metadata;
    std::vector<StoredTensor> tensors;
    std::unordered_map<std::string_view, std::size_t> index;  // keys view tensors[i].name
  };
  explicit SafetensorsFile(std::shared_ptr<const Content> content) : content_(std::move(content)) {}

  std::shared_ptr<const Content> content_;
};

/// All tensors of a model: one file, or a folder of shards. Copies share the mappings.
class Checkpoint {
 public:
  /// `path` is a .safetensors file; an index JSON ("weight_map": {tensor: shard}); or a folder with such an
  /// index (*.index.json, model.safetensors.index.json first) or, without one, with any *.safetensors.
  static Checkpoint open(const std::filesystem::path& path);
  /// A checkpoint of files that are open already; a tensor may be in one of them only.
  static Checkpoint of(std::vector<SafetensorsFile> files, const std::string& name);

  const std::string& name() const { return name_; }
  const std::vector<SafetensorsFile>& files() const { return files_; }
  /// Folder that holds the files; empty for files in memory.
  const std::filesystem::path& folder() const { return folder_; }
  /// Every tensor: by shard, in the order of its data.
  const std::vector<const StoredTensor*>& tensors() const { return tensors_; }
  const StoredTensor* find(std::string_view name) const;
  /// Value of a metadata key, from the first file that has it; null when none does. Throws InputError when
  /// two files disagree.
  const std::string* metadata(const std::string& key) const;

 private:
  std::string name_;
  std::filesystem::path folder_;
  std::vector<SafetensorsFile> files_;
  std::vector<const StoredTensor*> tensors_;  // point into files_' shared content
  std::unordered_map<std::string_view, const StoredTensor*> index_;
};

/// Collects tensors and writes them as one file. Holds copies of their bytes.
class SafetensorsWriter {
 public:
  void metadata(std::string key, std::string value);

  /// Throws InputError for a name given twice and for bytes that do not fit dtype and shape.
  void add(std::string name, DType dtype, std::vector<std::int64_t> shape, std::vector<std::byte> bytes);
  void add(std::string name, DType dtype, std::vector<std::int64_t> shape, std::span<const std::byte> bytes) {
    add(std::move(name), dtype, std::move(shape), std::vector<std::byte>(bytes.begin(), bytes.end()));
  }
  template <class T>
  void add(std::string name, std::vector<std::int64_t> shape, std::span<const T> elements) {
    add(std::move(name), StoredAs<T>::value, std::move(shape), std::as_bytes(elements));
  }

  /// The file's bytes. Tensors are laid out by falling element size, then in order of add(), so that each
  /// is aligned for its dtype; the header is padded so that the data begins at a multiple of 8.
  std::vector<std::byte> bytes() const;

  /// Writes a temporary file beside `path` and renames it: whoever opens `path` sees the old file, the
  /// whole new one, or none. Throws InputError, leaving nothing behind.
  void write(const std::filesystem::path& path) const;

 private:
  struct Entry {
    std::string name;
    DType dtype;
    std::vector<std::int64_t> shape;
    std::vector<std::byte> bytes;
  };
  std::string header(std::span<const Entry* const> order) const;
  std::vector<const Entry*> order() const;

  std::map<std::string, std::string> metadata_;
  std::vector<Entry> entries_;
  std::unordered_set<std::string> names_;
};

/// Writes `chunks`, one after the other, to `path` by way of a temporary file and a rename. Throws
/// InputError, leaving nothing behind.
void write_atomically(const std::filesystem::path& path, std::span<const std::span<const std::byte>> chunks);

}  // namespace dsv4::reference
