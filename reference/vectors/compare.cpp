// Comparing outputs: see compare.hpp.
#include "reference/vectors/compare.hpp"

#include "reference/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace dsv4::reference::vectors {

namespace {

bool is_float(DType d) { return d == DType::kF64 || d == DType::kF32 || d == DType::kBf16; }

bool is_integer(DType d) {
  switch (d) {
    case DType::kI64:
    case DType::kI32:
    case DType::kI16:
    case DType::kI8:
    case DType::kU64:
    case DType::kU32:
    case DType::kU16:
    case DType::kU8:
      return true;
    default:
      return false;
  }
}

// Order of a row's values: as they stand, or sorted, stably.
std::vector<std::size_t> sorted_order(const std::vector<double>& keys, std::size_t begin, std::size_t n) {
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), begin);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return keys[a] < keys[b]; });
  return order;
}

// For every value the place of the value that stands there once each row is sorted by `keys`, and by the
// values themselves among equal keys: an expert named twice may come in either order.
std::vector<std::size_t> places(const std::vector<double>& keys, const std::vector<double>& values,
                                std::int64_t row) {
  std::vector<std::size_t> out;
  const auto n = static_cast<std::size_t>(std::max<std::int64_t>(row, 1));
  for (std::size_t begin = 0; begin + n <= keys.size(); begin += n) {
    std::vector<std::size_t> order = sorted_order(values, begin, n);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return keys[a] < keys[b]; });
    out.insert(out.end(), order.begin(), order.end());
  }
  return out;
}

std::string place_text(const Expected& e, std::int64_t i) {
  const auto packed = [&](std::int64_t values, std::int64_t channels) {
    const std::int64_t within = i % values;
    return within < channels ? fmt::format("[{}] channel {}", i / values, within)
                             : fmt::format("[{}] scale {}", i / values, within - channels);
  };
  if (e.form == Form::kKvEntry) return packed(519, 512);
  if (e.form == Form::kIndexKey) return packed(132, 128);
  std::vector<std::int64_t> index;
  std::vector<std::int64_t> shape = e.array.shape;
  if (e.form == Form::kE2m1 && !shape.empty()) shape.back() *= 2;
  for (std::size_t d = shape.size(); d-- > 0;) {
    index.insert(index.begin(), i % shape[d]);
    i /= shape[d];
  }
  return shape_text(index);
}

}  // namespace

Array output_of(const StoredTensor& tensor, const Expected& e) {
  if (tensor.shape != e.array.shape)
    throw InputError(fmt::format("{}: shape {}, expected {}", where(tensor), shape_text(tensor.shape),
                                 shape_text(e.array.shape)));
  const DType want = e.array.dtype;
  const bool fits = size_bytes(want) == 1 ? size_bytes(tensor.dtype) == 1
                    : is_float(want)      ? is_float(tensor.dtype)
                                          : is_integer(tensor.dtype);
  if (!fits)
    throw InputError(fmt::format("{}: dtype {}, expected {}{}", where(tensor), name_of(tensor.dtype),
                                 name_of(want),
                                 size_bytes(want) == 1 ? " or another of one byte"
                                 : is_float(want)      ? " or another float (F32, F64, BF16)"
                                                       : " or another integer"));
  Array a{tensor.dtype, tensor.shape, {tensor.bytes.begin(), tensor.bytes.end()}};
  if (size_bytes(want) == 1) a.dtype = want;
  if (want != DType::kBf16 || a.dtype == DType::kBf16) return a;
  return Array::make(DType::kBf16, a.shape, [&](std::int64_t i) { return a.at(i); });
}

Comparison compare(const Expected& e, const std::vector<Expected>& outputs, const Outputs& got_outputs,
                   double scale) {
  const Array& array = got_outputs.find(e.name)->second;
  std::vector<double> want = decoded(e.form, e.array), got = decoded(e.form, array);
  std::vector<float> bound = e.bound;
  bound.resize(want.size(), 0.0f);
  const std::int64_t row = array.shape.empty() ? 1 : array.shape.back();
  std::vector<std::size_t> want_place(want.size()), got_place(want.size());
  std::iota(want_place.begin(), want_place.end(), std::size_t{0});
  std::iota(got_place.begin(), got_place.end(), std::size_t{0});
  if (e.form == Form::kSet) want_place = places(want, want, row), got_place = places(got, got, row);
  if (e.form == Form::kPaired) {
    // Rows by the output beside it. Where that one is wrong this one is too, and both are reported.
    const auto keys = got_outputs.find(e.paired_with);
    const auto want_keys = std::find_if(outputs.begin(), outputs.end(),
                                        [&](const Expected& other) { return other.name == e.paired_with; });
    if (keys != got_outputs.end() && want_keys != outputs.end()) {
      want_place = places(decoded(Form::kPlain, want_keys->array), want, row);
      got_place = places(decoded(Form::kPlain, keys->second), got, row);
    }
  }
  Comparison c;
  c.values = static_cast<std::int64_t>(want.size());
  double largest = -1;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double g = got[got_place[i]], w = want[want_place[i]], b = double{bound[want_place[i]]} * scale;
    if (g == w || (std::isnan(g) && std::isnan(w)) || std::isinf(bound[want_place[i]])) continue;
    const bool finite = std::isfinite(g) && std::isfinite(w);
    if (finite && std::abs(g - w) <= b) continue;
    ++c.wrong;
    const bool first_nonfinite = !finite && c.nonfinite == 0;
    if (!finite) ++c.nonfinite;
    const double beyond = finite ? std::abs(g - w) - b : 0;
    if (!first_nonfinite && (c.nonfinite > 0 || beyond <= largest)) continue;
    largest = beyond;
    c.worst = static_cast<std::int64_t>(want_place[i]);
    c.got = g, c.want = w, c.bound = b;
  }
  if (c.worst >= 0) c.where = place_text(e, c.worst);
  return c;
}

bool same_row(const Array& a, std::int64_t a_row, const Array& b, std::int64_t b_row) {
  if (a.dim(0) <= a_row || b.dim(0) <= b_row) return false;
  const std::int64_t n = a.count() / a.dim(0);
  if (b.count() / b.dim(0) != n) return false;
  for (std::int64_t i = 0; i < n; ++i) {
    const double x = a.at(a_row * n + i), y = b.at(b_row * n + i);
    if (x != y && !(std::isnan(x) && std::isnan(y))) return false;
  }
  return true;
}

}  // namespace dsv4::reference::vectors
