// What a test vector consists of: inputs, scalars and outputs of one case, and what an op of the kit is.
#pragma once

#include "reference/safetensors.hpp"
#include "reference/vectors/mistakes.hpp"
#include "reference/vectors/num.hpp"
#include "reference/vectors/sizes.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4::reference::vectors {

/// A tensor as a file stores it, read element by element as double: floats exactly, codes as integers.
struct Array {
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;

  std::int64_t count() const;
  std::int64_t dim(std::size_t i) const;  // 1 beyond the last dimension
  /// Throws InputError outside [0, count()).
  double at(std::int64_t i) const;
  /// Throws InputError beyond 2^40 too.
  std::int64_t integer(std::int64_t i) const;
  Nums row(std::int64_t r, std::int64_t n) const;  // elements r * n .. r * n + n - 1

  /// Encodes values: rounded to the dtype, which they fit already where the case draws them so.
  static Array of(DType dtype, std::vector<std::int64_t> shape, const std::vector<double>& values);
  /// Codes and packed entries, as bytes.
  static Array of_bytes(DType dtype, std::vector<std::int64_t> shape, const std::vector<std::uint8_t>& bytes);
  /// value(i) for every i.
  static Array make(DType dtype, std::vector<std::int64_t> shape,
                    const std::function<double(std::int64_t)>& value);
};

struct Problem {
  std::map<std::string, Array, std::less<>> in;
  std::map<std::string, double, std::less<>> scalars;

  /// Throw InputError for a name that the case lacks.
  const Array& array(std::string_view name) const;
  double scalar(std::string_view name) const;
  /// Throw InputError for what is no such number as well: within 2^40; in [1, 2^20].
  std::int64_t integer(std::string_view name) const;
  std::int64_t positive(std::string_view name) const;
};

/// How an output's elements become numbers to compare.
enum class Form : std::uint8_t {
  kPlain,     // floats of either width, integers of any
  kE4m3,      // one byte, one value
  kE2m1,      // one byte, two values: the even element in the low nibble
  kKvEntry,   // 584 bytes: 448 values, 64 values, then 7 scale bytes; the pad byte does not count
  kIndexKey,  // 68 bytes: 128 values, then 4 scale bytes
  kSet,       // integers of a row in any order
  kPaired,    // floats of a row, in the order that sorts the output that `paired_with` names
};

struct Output {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  Form form = Form::kPlain;
  std::string paired_with;
  Nums want;                     // decoded: values per element as `form` says
  std::vector<std::byte> bytes;  // as a file stores them; made from `want` for the plain forms
};

/// Outputs whose values are their elements.
Output plain(std::string name, DType dtype, std::vector<std::int64_t> shape, Nums want);

/// Numbers of an output's bytes, as `form` says (kSet and kPaired: in the order stored).
std::vector<double> decoded(Form form, const Array& array);

struct Case {
  std::string name;
  std::string catches;  // one sentence: what goes wrong in an implementation that fails here
  Problem problem;
  // One token again, as row `same_row` of another case: its bits must not depend on the tokens around it.
  std::string same_as;
  std::int64_t same_row = 0;
};

struct Op {
  std::string_view name;
  std::string_view about;  // what it computes, and its inputs and outputs
  std::vector<Case> (*cases)(const Sizes&, std::uint64_t seed);
  std::vector<Output> (*oracle)(const Problem&, Mistake);
  std::vector<Mistake> mistakes;  // that its oracle can make
};

/// Every op of the kit, in the order of the model.
const std::vector<Op>& ops();

/// Null when there is none.
const Op* find_op(std::string_view name);

}  // namespace dsv4::reference::vectors
