// The models of tensor-core sums against their definition in exact arithmetic, and what they cost in
// accuracy.
#include "simt/rounding.hpp"

#include <dsv4/core/types.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace {

using namespace dsv4;
using simt::MatrixElement;
using simt::Rounding;
using simt::SumModel;

// ---- the definition
// ---------------------------------------------------------------------------------------- Parameters as
// published, written down again: terms, F, result bits, and the exponent of the smallest normal.
struct Published {
  Rounding rounding;
  MatrixElement element;
  bool wgmma;
  int terms, fraction_bits, result_bits, min_exponent;
};
constexpr Published kPublished[] = {
    {Rounding::kAmpere, MatrixElement::kBf16, false, 8, 24, 23, -126},
    {Rounding::kAmpere, MatrixElement::kTf32, false, 4, 24, 23, -126},
    {Rounding::kAmpere, MatrixElement::kE4m3, false, 16, 13, 13, -6},
    {Rounding::kHopper, MatrixElement::kBf16, false, 16, 25, 23, -126},
    {Rounding::kHopper, MatrixElement::kTf32, false, 8, 25, 23, -126},
    {Rounding::kHopper, MatrixElement::kE4m3, false, 16, 25, 23, -14},
    {Rounding::kHopper, MatrixElement::kBf16, true, 16, 25, 23, -126},
    {Rounding::kHopper, MatrixElement::kE4m3, true, 32, 13, 13, -6},
};

SumModel model_of(const Published& p) {
  return p.wgmma ? simt::wgmma_sums(p.rounding, p.element) : simt::mma_sums(p.rounding, p.element);
}

// c + sum of a[i] b[i], every step exact or a truncation; in multiples of 2^-F of the largest exponent.
float defined_sum(const Published& p, const float* a, const float* b, int k, float c) {
  const auto exponent = [](float x, int min_exponent) { return std::max(std::ilogb(x), min_exponent); };
  for (int first = 0; first < k; first += p.terms) {
    const int last = std::min(first + p.terms, k);
    constexpr int kNone = std::numeric_limits<int>::min();
    int largest = c != 0 ? exponent(c, -126) : kNone;
    for (int i = first; i < last; ++i)
      if (a[i] != 0 && b[i] != 0)
        largest = std::max(largest, exponent(a[i], p.min_exponent) + exponent(b[i], p.min_exponent));
    if (largest == kNone) {
      c = 0;
      continue;
    }
    const auto units = [&](double x) {
      return static_cast<std::int64_t>(std::trunc(std::ldexp(x, p.fraction_bits - largest)));
    };
    std::int64_t sum = units(c);
    for (int i = first; i < last; ++i) sum += units(double{a[i]} * b[i]);
    if (sum == 0) {
      c = 0;
      continue;
    }
    const long double value = std::ldexp(static_cast<long double>(sum), largest - p.fraction_bits);
    const int lowest_bit = std::max(std::ilogb(value), -126) - p.result_bits;
    c = static_cast<float>(std::ldexp(std::trunc(std::ldexp(value, -lowest_bit)), lowest_bit));
  }
  return c;
}

// ---- data
// -------------------------------------------------------------------------------------------------- A value
// of the element, its exponent within +-spread of 0; now and then a zero.
float value(test::Random& r, MatrixElement element, int spread) {
  if (r.integer(0, 15) == 0) return 0.0f;
  const float x = static_cast<float>(std::ldexp(r.normal(), static_cast<int>(r.integer(-spread, spread))));
  switch (element) {
    case MatrixElement::kBf16:
      return round_to<bf16>(x);
    case MatrixElement::kE4m3:
      return to_float(to_e4m3(x));
    case MatrixElement::kTf32:
      return bits_as<float>(bits_as<std::uint32_t>(x) & 0xffffe000u);
  }
  return 0;
}

std::uint32_t bits(float x) { return bits_as<std::uint32_t>(x); }

float multiply_one(const SumModel& m, const std::vector<float>& a, const std::vector<float>& b, float c) {
  const int k = static_cast<int>(a.size());
  std::vector<float> left(8 * a.size()), right(a.size() * 8), d(64, c);
  std::copy(a.begin(), a.end(), left.begin() + 3 * k);  // row 3, column 5
  for (std::size_t i = 0; i < a.size(); ++i) right[i * 8 + 5] = b[i];
  simt::multiply_accumulate(m, 8, 8, k, left.data(), right.data(), d.data());
  return d[3 * 8 + 5];
}

}  // namespace

TEST_CASE("the models add as they are defined", "[simt][rounding]") {
  test::Random random(11);
  for (const Published& p : kPublished) {
    const SumModel m = model_of(p);
    CAPTURE(static_cast<int>(p.rounding), static_cast<int>(p.element), p.wgmma);
    for (const int spread : {0, 3, 9, 20, 60}) {
      CAPTURE(spread);
      constexpr int kRows = 16, kColumns = 24;
      for (const int k : {8, 16, 32}) {
        CAPTURE(k);
        std::vector<float> a(static_cast<std::size_t>(kRows * k)), b(static_cast<std::size_t>(k * kColumns));
        std::vector<float> c(kRows * kColumns);
        for (float& x : a) x = value(random, p.element, spread);
        for (float& x : b) x = value(random, p.element, spread);
        for (float& x : c)
          x = static_cast<float>(
              std::ldexp(random.normal(), static_cast<int>(random.integer(-spread, spread))));
        for (std::size_t i = 0; i < c.size(); i += 7) c[i] = 0;
        std::vector<float> d = c;
        simt::multiply_accumulate(m, kRows, kColumns, k, a.data(), b.data(), d.data());
        std::vector<float> column(static_cast<std::size_t>(k));
        for (int i = 0; i < kRows; ++i)
          for (int j = 0; j < kColumns; ++j) {
            for (int n = 0; n < k; ++n)
              column[static_cast<std::size_t>(n)] = b[static_cast<std::size_t>(n * kColumns + j)];
            const std::size_t at = static_cast<std::size_t>(i * kColumns + j);
            const float expected = defined_sum(p, a.data() + i * k, column.data(), k, c[at]);
            REQUIRE(bits(d[at]) == bits(expected));
          }
      }
    }
  }
}

TEST_CASE("the chain rounds each product and sum to fp32, ascending in k", "[simt][rounding]") {
  test::Random random(12);
  constexpr int kRows = 8, kColumns = 16, kDepth = 32;
  std::vector<float> a(kRows * kDepth), b(kDepth * kColumns), d(kRows * kColumns);
  for (float& x : a) x = value(random, MatrixElement::kBf16, 9);
  for (float& x : b) x = value(random, MatrixElement::kBf16, 9);
  for (float& x : d) x = static_cast<float>(random.normal());
  std::vector<float> expected = d;
  for (std::size_t i = 0; i < kRows; ++i)
    for (std::size_t j = 0; j < kColumns; ++j)
      for (std::size_t n = 0; n < kDepth; ++n)
        expected[i * kColumns + j] += a[i * kDepth + n] * b[n * kColumns + j];
  simt::multiply_accumulate(simt::mma_sums(Rounding::kChain, MatrixElement::kBf16), kRows, kColumns, kDepth,
                            a.data(), b.data(), d.data());
  for (std::size_t i = 0; i < d.size(); ++i) REQUIRE(bits(d[i]) == bits(expected[i]));
}

TEST_CASE("sums worked out by hand", "[simt][rounding]") {
  const SumModel ampere = simt::mma_sums(Rounding::kAmpere, MatrixElement::kBf16);
  const SumModel hopper = simt::mma_sums(Rounding::kHopper, MatrixElement::kBf16);
  const SumModel fp8 = simt::wgmma_sums(Rounding::kHopper, MatrixElement::kE4m3);
  const std::vector<float> ones(16, 1.0f);
  // 2^24 + 1 does not fit 24 bits: Ampere packs it after 8 products, Hopper adds all 16 before it does.
  std::vector<float> a(16);
  a[0] = 0x1p24f;
  a[1] = 1;
  a[8] = -0x1p24f;
  CHECK(multiply_one(ampere, a, ones, 0) == 0.0f);
  CHECK(multiply_one(hopper, a, ones, 0) == 1.0f);
  // Truncated, not rounded, whatever the sign.
  CHECK(multiply_one(hopper, {0x1.8p-24f, 0, 0, 0, 0, 0, 0, 0}, {1, 0, 0, 0, 0, 0, 0, 0}, 1.0f) == 1.0f);
  CHECK(multiply_one(hopper, {0x1.8p-24f, 0, 0, 0, 0, 0, 0, 0}, {-1, 0, 0, 0, 0, 0, 0, 0}, -1.0f) == -1.0f);
  // 14 bits are all that is left of the addend, too.
  CHECK(multiply_one(fp8, {1, 0, 0, 0, 0, 0, 0, 0}, ones, 0x1p-13f) == 1.0f + 0x1p-13f);
  CHECK(multiply_one(fp8, {1, 0, 0, 0, 0, 0, 0, 0}, ones, 0x1p-14f) == 1.0f);
  CHECK(multiply_one(fp8, {0, 0, 0, 0, 0, 0, 0, 0}, ones, 1.0f + 0x1p-14f) == 1.0f);
}

TEST_CASE("sums that are not finite are the chain's", "[simt][rounding]") {
  const float infinity = HUGE_VALF;
  for (const Rounding rounding : {Rounding::kChain, Rounding::kAmpere, Rounding::kHopper}) {
    const SumModel m = simt::mma_sums(rounding, MatrixElement::kBf16);
    const std::vector<float> ones(16, 1.0f);
    std::vector<float> a(16, 1.0f);
    CHECK(multiply_one(m, a, ones, infinity) == infinity);
    CHECK(multiply_one(m, a, ones, -infinity) == -infinity);
    CHECK(std::isnan(multiply_one(m, a, ones, NAN)));
    a[9] = infinity;
    CHECK(multiply_one(m, a, ones, 1.0f) == infinity);
    CHECK(std::isnan(multiply_one(m, a, ones, -infinity)));
    a[2] = NAN;
    CHECK(std::isnan(multiply_one(m, a, ones, 1.0f)));
    // A sum too large for fp32 is infinite.
    const std::vector<float> large(16, 0x1p64f);
    CHECK(multiply_one(m, large, large, 0.0f) == infinity);
    // ... and others of the same matrices are not touched by it.
    a.assign(16, infinity);
    std::vector<float> left(8 * 16, 1.0f), right(16 * 8, 1.0f), d(64, 1.0f);
    std::copy(a.begin(), a.end(), left.begin());
    simt::multiply_accumulate(m, 8, 8, 16, left.data(), right.data(), d.data());
    CHECK(d[7] == infinity);
    CHECK(d[8] == 17.0f);
  }
}

// Relative root-mean-square error of 7168-long e4m3 dot products: the chain, Hopper's wgmma accumulator, and
// the same with its partial sums added in fp32 every 128.
TEST_CASE("the fp8 accumulator loses what promotion keeps", "[simt][rounding]") {
  constexpr int kDepth = 7168, kColumns = 24, kRows = 8, kStep = 32;
  test::Random random(13);
  std::vector<float> a(kRows * kDepth), b(kDepth * kColumns);
  for (float& x : a) x = to_float(to_e4m3(static_cast<float>(random.normal() * 16)));
  for (float& x : b) x = to_float(to_e4m3(static_cast<float>(random.normal() * 16)));
  std::vector<double> exact(kRows * kColumns);
  for (std::size_t i = 0; i < kRows; ++i)
    for (std::size_t n = 0; n < kDepth; ++n)
      for (std::size_t j = 0; j < kColumns; ++j)
        exact[i * kColumns + j] += double{a[i * kDepth + n]} * b[n * kColumns + j];

  const auto error = [&](Rounding rounding, int promoted_every) {
    const SumModel m = simt::wgmma_sums(rounding, MatrixElement::kE4m3);
    std::vector<float> total(kRows * kColumns), partial(total.size()), rows(kRows * kStep);
    for (int n = 0; n < kDepth; n += kStep) {
      for (int i = 0; i < kRows; ++i) std::copy_n(a.data() + i * kDepth + n, kStep, rows.data() + i * kStep);
      simt::multiply_accumulate(m, kRows, kColumns, kStep, rows.data(), b.data() + n * kColumns,
                                partial.data());
      if ((n + kStep) % promoted_every) continue;
      for (std::size_t i = 0; i < total.size(); ++i) total[i] += std::exchange(partial[i], 0.0f);
    }
    double squares = 0, norm = 0;
    for (std::size_t i = 0; i < total.size(); ++i) {
      squares += (total[i] - exact[i]) * (total[i] - exact[i]);
      norm += exact[i] * exact[i];
    }
    return std::sqrt(squares / norm);
  };
  const double chain = error(Rounding::kChain, kDepth), plain = error(Rounding::kHopper, kDepth),
               promoted = error(Rounding::kHopper, 128);
  CAPTURE(chain, plain, promoted);
  CHECK(chain < 3e-7);
  CHECK(plain > 1e-3);
  CHECK(plain < 4e-3);
  CHECK(promoted > 6e-5);
  CHECK(promoted < 2.5e-4);
}
