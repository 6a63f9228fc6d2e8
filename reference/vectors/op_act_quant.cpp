// Vectors of act_quant: every output is exact.
#include "reference/vectors/rows.hpp"
#include "reference/vectors/suite.hpp"

#include <cmath>
#include <limits>

namespace dsv4::reference::vectors {

namespace {

std::vector<Output> oracle(const Problem& p, Mistake mistake) {
  const Array& x = p.array("x");
  const std::int64_t rows = x.dim(0), n = x.dim(1), block = p.positive("block");
  const bool fp4 = p.integer("fp4") != 0;
  Output codes{"codes",
               fp4 ? DType::kU8 : DType::kF8E4m3,
               {rows, fp4 ? n / 2 : n},
               fp4 ? Form::kE2m1 : Form::kE4m3,
               {},
               {},
               {}};
  Output scales{"scales", DType::kF8E8m0, {rows, (n + block - 1) / block}, Form::kPlain, {}, {}, {}};
  for (std::int64_t t = 0; t < rows; ++t) {
    const Quantised q = fp4 ? quantise_fp4(x.row(t, n), mistake) : quantise_fp8(x.row(t, n), block, mistake);
    for (std::size_t i = 0; i < q.values.size(); ++i) {
      const std::uint8_t code = fp4 ? q.codes[i / 2] >> (i % 2 * 4) & 15u : q.codes[i];
      const bool meaningless = q.scale_bytes[i / static_cast<std::size_t>(block)] == 255;
      codes.want.push_back(meaningless ? anything() : Num(fp4 ? e2m1_value(code) : e4m3_value(code)));
    }
    for (const std::uint8_t c : q.codes) codes.bytes.push_back(std::byte{c});
    for (const std::uint8_t b : q.scale_bytes) scales.bytes.push_back(std::byte{b});
    scales.want.insert(scales.want.end(), q.scales.begin(), q.scales.end());
  }
  return {codes, scales};
}

// Rows that try the scale: each block's maximum is where its rounding goes wrong, the others fill its range.
Array scale_rows(Random& random, std::int64_t block, double largest, std::int64_t n) {
  const std::int64_t rows = 6;
  const double step = 0x1p-7;
  return Array::make(DType::kBf16, {rows, n}, [&](std::int64_t i) {
    const std::int64_t row = i / n, b = i % n / block;
    const double power = std::ldexp(1.0, static_cast<int>((b * 5 + row) % 21) - 10);
    const double tops[] = {largest * power,                   // exactly a power of two as scale
                           largest * (1 + step) * power,      // just above one
                           largest * (1 - step / 2) * power,  // just below
                           power,
                           largest * 1.5 * power,
                           largest * 0.7 * power};
    const double top = tops[row];
    const double drawn = (2 * random.unit() - 1) * top;
    return i % block == (b * 7 + 3) % block ? (b % 2 != 0 ? -top : top) : drawn;
  });
}

// Rows whose quotients are halfway between two codes, and beside that.
Array tie_rows(std::int64_t block, bool fp4, std::int64_t n) {
  return Array::make(DType::kBf16, {2, n}, [&](std::int64_t i) {
    const std::int64_t k = i % block;
    if (k == 0) return fp4 ? 6.0 : 448.0;  // scale 1
    const double sign = k % 2 != 0 ? -1 : 1;
    if (fp4) {
      const double halves[] = {0.25, 0.75,         1.25,        1.75,    2.5,    3.5,
                               5.0,  0.2490234375, 0.251953125, 4.96875, 5.03125};
      return sign * halves[static_cast<std::size_t>(k + i / n) % 11];
    }
    // 3 mantissa bits and a half, all exponents, subnormals of e4m3 included
    const double mantissa = 1 + static_cast<double>(2 * (k % 8) + 1) / 16 + (i / n == 1 ? 0x1p-6 : 0);
    return sign * std::ldexp(mantissa, static_cast<int>(k % 17) - 9);
  });
}

std::vector<Case> cases(const Sizes& s, std::uint64_t seed) {
  std::vector<Case> all;
  struct Kind {
    const char* name;
    std::int64_t block;
    bool fp4;
  };
  for (const Kind kind : {Kind{"fp8_128", 128, false}, Kind{"fp8_64", 64, false}, Kind{"fp4_32", 32, true}}) {
    const std::int64_t n = kind.fp4 ? 128 : kind.block == 64 ? 448 : std::min<std::int64_t>(s.hidden, 1024);
    const auto add = [&](const char* what, const char* catches, Array x) {
      Case c{std::string(kind.name) + "_" + what, catches, {}, {}, 0};
      c.problem.in["x"] = std::move(x);
      c.problem.scalars["block"] = static_cast<double>(kind.block);
      c.problem.scalars["fp4"] = kind.fp4 ? 1 : 0;
      all.push_back(std::move(c));
    };
    Random random(seed, std::string("act_quant/") + kind.name);
    add("scales",
        "the unrounded scale used for the codes, a log2 in place of exact bits, a scale rounded down or to "
        "nearest",
        scale_rows(random, kind.block, kind.fp4 ? 6 : 448, n));
    add("ties", "codes truncated, or halves rounded away from zero; nibbles swapped",
        tie_rows(kind.block, kind.fp4, n));
    const Array base = normal(random, DType::kBf16, {4, n});
    const double nan = std::numeric_limits<double>::quiet_NaN();
    add("special",
        "a NaN or infinity that a maximum loses (its block's scale must be 255); zeros and tiny blocks below "
        "the floor",
        Array::make(DType::kBf16, {4, n}, [&](std::int64_t i) {
          if (i == 3) return nan;
          if (i == n + kind.block / 2) return -std::numeric_limits<double>::infinity();
          if (i / n == 2) return i % 2 != 0 ? -0.0 : 0.0;
          return i / n == 3 ? base.at(i) * 1e-7 : base.at(i);
        }));
  }
  return all;
}

}  // namespace

Op act_quant_op() {
  return {
      "act_quant",
      "codes [T, n] e4m3 (fp4: [T, n/2], two e2m1 a byte) and scales [T, ceil(n/block)] UE8M0 of x [T, n] "
      "bf16 in blocks of 'block' channels",
      cases,
      oracle,
      {Mistake::kScaleUnrounded, Mistake::kScaleLog2, Mistake::kScaleFloored, Mistake::kTruncates,
       Mistake::kHalfAway, Mistake::kNoAmaxFloor, Mistake::kNibblesSwapped}};
}

}  // namespace dsv4::reference::vectors
