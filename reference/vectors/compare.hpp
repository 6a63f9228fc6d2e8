// One output of an engine against what it must be.
#pragma once

#include "reference/vectors/file.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4::reference::vectors {

/// An engine's outputs of one case.
using Outputs = std::map<std::string, Array, std::less<>>;

/// The tensor as the output `e` of an engine: f32, f64 or bf16 where floats are expected (rounded to bf16
/// where that is), integers of any width, any dtype of one byte for codes. Throws InputError for another
/// dtype or shape.
Array output_of(const StoredTensor& tensor, const Expected& e);

struct Comparison {
  std::int64_t values = 0;     // compared, as the form decodes them
  std::int64_t wrong = 0;      // beyond their bound
  std::int64_t nonfinite = 0;  // of these: NaN or infinite on one side, and not the same on the other
  std::int64_t worst = -1;     // value that is farthest beyond its bound, of the nonfinite ones the first
  std::string where;           // "[2, 17]"; "[3] channel 5"; "[3] scale 0"
  double got = 0, want = 0, bound = 0;  // of the worst

  bool ok() const { return wrong == 0; }
};

///   outputs  all that is expected of the case: an output may be paired with another
///   scale    multiplies every bound
Comparison compare(const Expected& e, const std::vector<Expected>& outputs, const Outputs& got, double scale);

/// The two rows, bit for bit but for -0: row `a_row` of `a`, row `b_row` of `b`.
bool same_row(const Array& a, std::int64_t a_row, const Array& b, std::int64_t b_row);

}  // namespace dsv4::reference::vectors
