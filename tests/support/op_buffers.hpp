// Buffers that ops are called with in tests: rows at any legal stride and alignment, everything around them
// poisoned and watched; comparison bit for bit.
#pragma once

#include <dsv4/core/status.hpp>
#include <dsv4/core/types.hpp>
#include <dsv4/ops/common.hpp>

#include "tests/support/catch.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace dsv4::test {

/// Where the rows of a buffer lie. stride counts elements, 0 = contiguous. The first row starts at an odd
/// multiple of `align` bytes: aligned to that and to nothing more.
struct RowLayout {
  std::int64_t stride = 0;
  std::size_t align = 16;
};

/// [rows, cols] T inside a larger allocation. Every byte outside the rows (a red zone on either side, the
/// padding between strided rows) is 0xff, a NaN in each of our formats: an op that reads there gives NaNs,
/// one that writes there fails intact(). The rows themselves start as 0xff too, so that an output which was
/// not written is seen.
template <class T>
class Rows {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Rows(std::int64_t rows, std::int64_t cols, RowLayout layout = {})
      : rows_(rows), cols_(cols), stride_(layout.stride != 0 ? layout.stride : cols) {
    if (rows < 0 || cols < 1 || stride_ < cols || layout.align % alignof(T) != 0 || layout.align > kZone ||
        (layout.align & (layout.align - 1)) != 0)
      throw std::invalid_argument("Rows: sizes, a stride of at least a row, a legal alignment");
    const std::size_t span =
        rows == 0 ? 0 : static_cast<std::size_t>((rows - 1) * stride_ + cols) * sizeof(T);
    bytes_.assign(span + 5 * kZone, std::byte{0xff});
    const auto base = reinterpret_cast<std::uintptr_t>(bytes_.data());
    // Up to a multiple of 2 * align beyond the first red zone, then one align more.
    const std::uintptr_t twice = 2 * layout.align;
    const std::uintptr_t start = (base + kZone + twice - 1) / twice * twice + layout.align;
    first_ = start - base;
  }
  /// Filled with `values`, row after row.
  Rows(std::int64_t rows, std::int64_t cols, const std::vector<T>& values, RowLayout layout = {})
      : Rows(rows, cols, layout) {
    set(values);
  }
  Rows(const Rows&) = delete;  // a copy would lie at another alignment
  Rows& operator=(const Rows&) = delete;

  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  std::int64_t stride() const { return stride_; }

  T* data() { return reinterpret_cast<T*>(bytes_.data() + first_); }
  const T* data() const { return reinterpret_cast<const T*>(bytes_.data() + first_); }
  T* row(std::int64_t r) { return data() + r * stride_; }
  const T* row(std::int64_t r) const { return data() + r * stride_; }

  void set(const std::vector<T>& values) {
    if (static_cast<std::int64_t>(values.size()) != rows_ * cols_)
      throw std::invalid_argument("Rows: rows * cols values");
    for (std::int64_t r = 0; r < rows_; ++r)
      std::memcpy(static_cast<void*>(row(r)), values.data() + r * cols_,
                  static_cast<std::size_t>(cols_) * sizeof(T));
  }
  std::vector<T> values() const {
    std::vector<T> out(static_cast<std::size_t>(rows_ * cols_));
    for (std::int64_t r = 0; r < rows_; ++r)
      std::memcpy(static_cast<void*>(out.data() + r * cols_), row(r),
                  static_cast<std::size_t>(cols_) * sizeof(T));
    return out;
  }

  /// Empty where every byte outside the rows is as it was, else which one is not.
  std::string intact() const {
    const auto row_bytes = static_cast<std::size_t>(cols_) * sizeof(T);
    const auto stride_bytes = static_cast<std::size_t>(stride_) * sizeof(T);
    for (std::size_t i = 0; i < bytes_.size(); ++i) {
      const bool inside = i >= first_ && static_cast<std::int64_t>((i - first_) / stride_bytes) < rows_ &&
                          (i - first_) % stride_bytes < row_bytes;
      if (inside) {  // on to the end of this row
        i += row_bytes - (i - first_) % stride_bytes - 1;
      } else if (bytes_[i] != std::byte{0xff}) {
        std::ostringstream text;
        text << "byte " << static_cast<std::int64_t>(i) - static_cast<std::int64_t>(first_)
             << " from the start of the rows was written (rows of " << row_bytes << " bytes, one every "
             << stride_bytes << ')';
        return text.str();
      }
    }
    return {};
  }

 private:
  static constexpr std::size_t kZone = 256;
  std::int64_t rows_, cols_, stride_;
  std::vector<std::byte> bytes_;
  std::size_t first_ = 0;
};

/// Empty where the rows hold exactly the bits of `want`, else the first element that does not.
template <class T>
std::string difference(const Rows<T>& got, const std::vector<T>& want) {
  if (static_cast<std::int64_t>(want.size()) != got.rows() * got.cols()) return "sizes differ";
  for (std::int64_t r = 0; r < got.rows(); ++r)
    for (std::int64_t c = 0; c < got.cols(); ++c) {
      const T &g = got.row(r)[c], &w = want[static_cast<std::size_t>(r * got.cols() + c)];
      if (std::memcmp(&g, &w, sizeof(T)) == 0) continue;
      std::ostringstream text;
      text << "row " << r << " column " << c << ": got 0x" << std::hex;
      const auto hex = [&](const T& v) {
        std::uint64_t bits = 0;
        static_assert(sizeof(T) <= sizeof bits);
        std::memcpy(&bits, &v, sizeof(T));
        text << bits;
      };
      hex(g);
      text << ", want 0x";
      hex(w);
      return text.str();
    }
  return {};
}

/// Slots as int64. Those outside [0, slots) become numbers that no int32 holds, half of them such that their
/// lower half alone would be a slot.
inline std::vector<std::int64_t> wide_slots(const std::vector<std::int32_t>& narrow, std::int64_t slots) {
  constexpr std::int64_t k33 = std::int64_t{1} << 33;
  const std::int64_t none[] = {k33, INT64_MIN, 1 - k33, INT64_MAX, k33 + slots - 1, INT64_MIN + 1};
  std::vector<std::int64_t> wide;
  for (const std::int32_t s : narrow) {
    const bool exists = s >= 0 && s < slots;
    wide.push_back(exists ? s : none[wide.size() % 6]);
  }
  return wide;
}

/// The DType that names T.
template <class T>
inline constexpr ops::DType kDType = ops::DType::kBf16;
template <>
inline constexpr ops::DType kDType<float> = ops::DType::kF32;

}  // namespace dsv4::test

/// The op returned ok; its message otherwise.
#define REQUIRE_OK(call)                                                                                 \
  do {                                                                                                   \
    const ::dsv4::Status dsv4_status = (call);                                                           \
    INFO(dsv4_status.what << " (value " << dsv4_status.value << ", limit " << dsv4_status.limit << ')'); \
    REQUIRE(dsv4_status.ok());                                                                           \
  } while (0)

/// Rows<T> equal to a vector bit for bit, nothing around them written.
#define REQUIRE_ROWS(rows, want)                         \
  do {                                                   \
    INFO(#rows);                                         \
    REQUIRE(::dsv4::test::difference(rows, want) == ""); \
    REQUIRE((rows).intact() == "");                      \
  } while (0)

/// The op refused its parameters with this code, value and limit, and a message that contains `text`.
#define REQUIRE_REFUSED(call, expected_code, expected_value, expected_limit, text) \
  do {                                                                             \
    const ::dsv4::Status dsv4_status = (call);                                     \
    INFO(dsv4_status.what);                                                        \
    REQUIRE(dsv4_status.code == (expected_code));                                  \
    REQUIRE(dsv4_status.value == static_cast<std::int64_t>(expected_value));       \
    REQUIRE(dsv4_status.limit == static_cast<std::int64_t>(expected_limit));       \
    REQUIRE(std::string(dsv4_status.what).find(text) != std::string::npos);        \
  } while (0)
