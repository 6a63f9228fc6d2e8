// Arrays and problems: see problem.hpp.
#include "reference/vectors/problem.hpp"

#include "reference/error.hpp"
#include "reference/printable.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace dsv4::reference::vectors {

namespace {

template <class T>
double read(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return static_cast<double>(value);
}

template <class T>
void put(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof value);
}

std::int64_t product_of(const std::vector<std::int64_t>& shape) {
  std::int64_t n = 1;
  for (const std::int64_t d : shape) n *= d;
  return n;
}

}  // namespace

std::int64_t Array::count() const { return static_cast<std::int64_t>(bytes.size()) / size_bytes(dtype); }

std::int64_t Array::dim(std::size_t i) const { return i < shape.size() ? shape[i] : 1; }

double Array::at(std::int64_t i) const {
  if (i < 0 || i >= count())
    throw InputError(fmt::format("vectors: element {} of an input of {}", i, count()));
  const std::byte* p = bytes.data() + i * size_bytes(dtype);
  switch (dtype) {
    case DType::kF64:
      return read<double>(p);
    case DType::kF32:
      return read<float>(p);
    case DType::kBf16:
      return bf16_value(static_cast<std::uint16_t>(read<std::uint16_t>(p)));
    case DType::kI64:
      return read<std::int64_t>(p);
    case DType::kU64:
      return read<std::uint64_t>(p);
    case DType::kI32:
      return read<std::int32_t>(p);
    case DType::kU32:
      return read<std::uint32_t>(p);
    case DType::kI16:
      return read<std::int16_t>(p);
    case DType::kU16:
      return read<std::uint16_t>(p);
    case DType::kI8:
      return read<std::int8_t>(p);
    case DType::kU8:
    case DType::kBool:
    case DType::kF8E4m3:
    case DType::kF8E8m0:
      return read<std::uint8_t>(p);
    case DType::kF16:
    case DType::kF8E5m2:
      break;
  }
  throw InputError(fmt::format("vectors: dtype {} is not one of the kit's", name_of(dtype)));
}

Nums Array::row(std::int64_t r, std::int64_t n) const {
  Nums out;
  out.reserve(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) out.emplace_back(at(r * n + i));
  return out;
}

Array Array::make(DType dtype, std::vector<std::int64_t> shape,
                  const std::function<double(std::int64_t)>& value) {
  const std::int64_t n = product_of(shape);
  Array a{dtype, std::move(shape), std::vector<std::byte>(static_cast<std::size_t>(n * size_bytes(dtype)))};
  for (std::int64_t i = 0; i < n; ++i) {
    std::byte* p = a.bytes.data() + i * size_bytes(dtype);
    const double x = value(i);
    switch (dtype) {
      case DType::kF32:
        put(p, static_cast<float>(x));
        break;
      case DType::kBf16:
        put(p, bf16_code(x));
        break;
      case DType::kI64:
        put(p, static_cast<std::int64_t>(x));
        break;
      case DType::kI32:
        put(p, static_cast<std::int32_t>(x));
        break;
      default:
        put(p, static_cast<std::uint8_t>(x));
        break;
    }
  }
  return a;
}

Array Array::of(DType dtype, std::vector<std::int64_t> shape, const std::vector<double>& values) {
  return make(dtype, std::move(shape), [&](std::int64_t i) { return values[static_cast<std::size_t>(i)]; });
}

Array Array::of_bytes(DType dtype, std::vector<std::int64_t> shape, const std::vector<std::uint8_t>& bytes) {
  return make(dtype, std::move(shape), [&](std::int64_t i) { return bytes[static_cast<std::size_t>(i)]; });
}

const Array& Problem::array(std::string_view name) const {
  const auto found = in.find(name);
  if (found == in.end()) throw InputError(fmt::format("vectors: a case has no input '{}'", name));
  return found->second;
}

double Problem::scalar(std::string_view name) const {
  const auto found = scalars.find(name);
  if (found == scalars.end()) throw InputError(fmt::format("vectors: a case has no scalar '{}'", name));
  return found->second;
}

namespace {

std::int64_t integer_of(double x, std::string_view what) {
  if (!(std::abs(x) <= 0x1p40) || x != std::trunc(x))
    throw InputError(fmt::format("vectors: {} is {}, not a whole number within 2^40", what, x));
  return static_cast<std::int64_t>(x);
}

}  // namespace

std::int64_t Array::integer(std::int64_t i) const { return integer_of(at(i), "an input's element"); }

std::int64_t Problem::integer(std::string_view name) const { return integer_of(scalar(name), name); }

std::int64_t Problem::positive(std::string_view name) const {
  const std::int64_t n = integer(name);
  if (n < 1 || n > 1 << 20) throw InputError(fmt::format("vectors: {} is {}, not in [1, 2^20]", name, n));
  return n;
}

Output plain(std::string name, DType dtype, std::vector<std::int64_t> shape, Nums want) {
  Output out{std::move(name), dtype, std::move(shape), Form::kPlain, {}, std::move(want), {}};
  std::vector<double> values;
  for (const Num& x : out.want) values.push_back(x.v);
  out.bytes = Array::of(out.dtype, out.shape, values).bytes;
  return out;
}

std::vector<double> decoded(Form form, const Array& array) {
  std::vector<double> out;
  const std::int64_t n = array.count();
  const auto byte = [&](std::int64_t i) {
    return static_cast<std::uint8_t>(array.bytes[static_cast<std::size_t>(i)]);
  };
  switch (form) {
    case Form::kPlain:
    case Form::kSet:
    case Form::kPaired:
      for (std::int64_t i = 0; i < n; ++i) out.push_back(array.at(i));
      break;
    case Form::kE4m3:
      for (std::int64_t i = 0; i < n; ++i) out.push_back(e4m3_value(byte(i)));
      break;
    case Form::kE2m1:
      for (std::int64_t i = 0; i < n; ++i)
        for (const int shift : {0, 4}) out.push_back(e2m1_value(byte(i) >> shift & 15u));
      break;
    case Form::kKvEntry:
      for (std::int64_t e = 0; e + 584 <= n; e += 584) {
        for (int i = 0; i < 448; ++i)
          out.push_back(e4m3_value(byte(e + i)) * e8m0_value(byte(e + 576 + i / 64)));
        for (int i = 0; i < 64; ++i)
          out.push_back(
              bf16_value(static_cast<std::uint16_t>(byte(e + 448 + 2 * i) | byte(e + 449 + 2 * i) << 8)));
        for (int b = 0; b < 7; ++b) out.push_back(byte(e + 576 + b));
      }
      break;
    case Form::kIndexKey:
      for (std::int64_t e = 0; e + 68 <= n; e += 68) {
        for (int i = 0; i < 128; ++i)
          out.push_back(e2m1_value(byte(e + i / 2) >> (i % 2 * 4) & 15u) * e8m0_value(byte(e + 64 + i / 32)));
        for (int b = 0; b < 4; ++b) out.push_back(byte(e + 64 + b));
      }
      break;
  }
  return out;
}

}  // namespace dsv4::reference::vectors
