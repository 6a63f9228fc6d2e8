// Row steps of the oracles: see rows.hpp.
#include "reference/vectors/rows.hpp"

#include "reference/error.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

namespace dsv4::reference::vectors {

void rms_norm(Nums& row, const Nums& weight, double eps, Mistake mistake) {
  Sum squares;
  for (const Num& x : row) {
    const double least = x.lo <= 0 && x.hi >= 0 ? 0 : std::min(std::abs(x.lo), std::abs(x.hi));
    squares.add({x.v * x.v, least * least, x.magnitude() * x.magnitude()});
  }
  Num mean = squares.value() / Num(static_cast<double>(row.size()));
  if (mistake != Mistake::kNormNoEps) mean = mean + Num(eps);
  const Num rho = Num(1) / sqrt(mean);
  for (std::size_t i = 0; i < row.size(); ++i) {
    row[i] = row[i] * rho;
    if (mistake == Mistake::kNormRoundsBeforeWeight) row[i] = bf16(row[i]);
    if (!weight.empty()) row[i] = weight[i] * row[i];
  }
}

void put_rope(Problem& problem, const Sizes& s, int ratio) {
  auto& scalars = problem.scalars;
  scalars["ratio"] = ratio;
  scalars["rope_theta"] = s.rope_theta, scalars["compress_rope_theta"] = s.compress_rope_theta;
  scalars["rope_factor"] = s.rope_factor;
  scalars["rope_original_length"] = static_cast<double>(s.rope_original_length);
  scalars["rope_beta_fast"] = s.rope_beta_fast, scalars["rope_beta_slow"] = s.rope_beta_slow;
}

namespace {

// In fp32 as published: tables of other engines agree to the bit.
std::array<float, 32> frequencies(const Problem& p, Mistake mistake) {
  const bool compressed = (p.integer("ratio") != 0) != (mistake == Mistake::kRopeOtherKind);
  const double theta = p.scalar(compressed ? "compress_rope_theta" : "rope_theta");
  const double factor = p.scalar("rope_factor"), log_theta = log_of(theta);
  std::array<float, 32> freq{};
  for (int i = 0; i < 32; ++i)
    freq[static_cast<std::size_t>(i)] = 1.0f / static_cast<float>(exp_of(log_theta * (2.0 * i / 64)));
  if (!compressed || factor == 1 || mistake == Mistake::kNoYarn) return freq;
  const auto pair_turning = [&](double turns) {
    return 64 * log_of(p.scalar("rope_original_length") / (turns * 2 * 3.14159265358979323846)) /
           (2 * log_theta);
  };
  const double low = std::max(std::floor(pair_turning(p.scalar("rope_beta_fast"))), 0.0);
  double high = std::min(std::ceil(pair_turning(p.scalar("rope_beta_slow"))), 63.0);
  if (low == high) high += 0.001;
  for (int i = 0; i < 32; ++i) {
    float& f = freq[static_cast<std::size_t>(i)];
    const float place = (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float ramp = std::clamp(place, 0.0f, 1.0f);
    f = f / static_cast<float>(factor) * ramp + f * (1.0f - ramp);
  }
  return freq;
}

}  // namespace

Rotation rotation(const Problem& p, std::int64_t position, Mistake mistake) {
  constexpr double kMargin = 0x1p-22;  // of an accurate fp32 sine
  const double scale =
      mistake == Mistake::kMscale && p.integer("ratio") != 0 ? 0.1 * log_of(p.scalar("rope_factor")) + 1 : 1;
  Rotation r;
  for (const float f : frequencies(p, mistake)) {
    const Turn turn = turn_of(static_cast<float>(position) * f);  // an fp32 product, as published
    const auto margin = position == 0 ? 0 : kMargin;
    r.cos.push_back(widened(Num(scale * turn.cos), margin));
    r.sin.push_back(widened(Num(scale * turn.sin), margin));
  }
  return r;
}

void rotate(Nums& row, const Rotation& rotation, bool inverse, Mistake mistake) {
  const bool half = mistake == Mistake::kHalfSplit;
  if (row.size() < 64) throw InputError("vectors: a row of fewer than 64 channels is to be rotated");
  const std::size_t first = mistake == Mistake::kFirstChannels ? 0 : row.size() - 64;
  if (mistake == Mistake::kWrongDirection) inverse = !inverse;
  for (std::size_t i = 0; i < 32; ++i) {
    Num& x = row[first + (half ? i : 2 * i)];
    Num& y = row[first + (half ? i + 32 : 2 * i + 1)];
    const Num c = rotation.cos[i], s = inverse ? -rotation.sin[i] : rotation.sin[i];
    const Num turned = bf16(x * c - y * s);
    y = bf16(x * s + y * c);
    x = turned;
  }
}

void hadamard(Nums& row, Mistake mistake) {
  if (mistake == Mistake::kHadamardMissing) return;
  const Num factor = mistake == Mistake::kHadamardUnscaled ? Num(1) : Num(1 / std::sqrt(128.0));
  Nums out;
  for (unsigned i = 0; i < 128; ++i) {
    Sum sum;
    for (unsigned j = 0; j < 128; ++j) sum.add(std::popcount(i & j) % 2 != 0 ? -row[j] : row[j]);
    out.push_back(bf16(sum.value() * factor));
  }
  row = std::move(out);
}

namespace {

struct Format {
  double largest;  // magnitude that the scale maps to: 448, 6
  float floor, reciprocal;
  double (*encoded)(double x, Rounding rounding, std::uint8_t& code);  // value of the nearest code
};

constexpr Format kFp8 = {448, 1e-4f, 1.0f / 448.0f, [](double x, Rounding r, std::uint8_t& code) {
                           code = e4m3_code(x, r);
                           return e4m3_value(code);
                         }};
constexpr Format kFp4 = {6, 0x1.8p-124f, 1.0f / 6.0f, [](double x, Rounding r, std::uint8_t& code) {
                           code = static_cast<std::uint8_t>(e2m1_code(x, r));
                           return e2m1_value(code);
                         }};

// The scale in front of its rounding to a power of two: one fp32 product.
double unrounded_scale(const Format& f, double amax, Mistake mistake) {
  const float least = mistake == Mistake::kNoAmaxFloor ? 0x1.8p-124f : f.floor;
  return static_cast<float>(double{std::max(static_cast<float>(amax), least)} * double{f.reciprocal});
}

std::uint8_t scale_byte(const Format& f, double amax, Mistake mistake) {
  if (!std::isfinite(amax)) return 255;
  int exponent = 0;
  const double m = std::frexp(unrounded_scale(f, amax, mistake), &exponent);  // m 2^exponent, m in [0.5, 1)
  const bool power = m == 0.5;
  if (power && mistake != Mistake::kScaleLog2) --exponent;  // the ceiling of log2, exactly
  if (!power && mistake == Mistake::kScaleFloored) --exponent;
  return static_cast<std::uint8_t>(std::clamp(exponent + 127, 0, 254));
}

Rounding rounding_of(Mistake mistake) {
  return mistake == Mistake::kTruncates  ? Rounding::kTowardZero
         : mistake == Mistake::kHalfAway ? Rounding::kHalfAway
                                         : Rounding::kNearestEven;
}

Quantised quantise(const Format& f, const Nums& row, std::int64_t block, Mistake mistake) {
  Quantised q;
  const Rounding rounding = rounding_of(mistake);
  const auto n = static_cast<std::int64_t>(row.size());
  for (std::int64_t begin = 0; begin < n; begin += block) {
    const std::int64_t end = std::min(begin + block, n);
    Num amax(0);
    bool finite = true;
    for (std::int64_t i = begin; i < end; ++i) {
      const Num& x = row[static_cast<std::size_t>(i)];
      finite = finite && std::isfinite(x.v);
      const double least = x.lo <= 0 && x.hi >= 0 ? 0 : std::min(std::abs(x.lo), std::abs(x.hi));
      amax = max(amax, {std::abs(x.v), least, x.magnitude()});
    }
    const double infinity = std::numeric_limits<double>::infinity();
    const std::uint8_t byte = scale_byte(f, finite ? amax.v : infinity, mistake);
    const std::uint8_t low = finite ? scale_byte(f, amax.lo, mistake) : byte;
    const std::uint8_t high = finite ? scale_byte(f, amax.hi, mistake) : byte;
    q.scale_bytes.push_back(byte);
    q.scales.emplace_back(byte, low, high);
    for (std::int64_t i = begin; i < end; ++i) {
      const Num& x = row[static_cast<std::size_t>(i)];
      std::uint8_t code = 0, unused = 0;
      if (!finite) {
        q.codes.push_back(0), q.values.emplace_back(std::numeric_limits<double>::quiet_NaN());
        continue;
      }
      const auto value = [&](double v, std::uint8_t scale, std::uint8_t& c) {
        const double divisor =
            mistake == Mistake::kScaleUnrounded ? unrounded_scale(f, amax.v, mistake) : e8m0_value(scale);
        return f.encoded(v / divisor, rounding, c) * e8m0_value(scale);
      };
      Num y = {value(x.v, byte, code), value(x.lo, byte, unused), value(x.hi, byte, unused)};
      for (const std::uint8_t scale : {low, high}) {
        y.lo = std::min(y.lo, value(x.lo, scale, unused));
        y.hi = std::max(y.hi, value(x.hi, scale, unused));
      }
      q.codes.push_back(code), q.values.push_back(y);
    }
  }
  return q;
}

}  // namespace

Quantised quantise_fp8(const Nums& row, std::int64_t block, Mistake mistake) {
  return quantise(kFp8, row, block, mistake);
}

Quantised quantise_fp4(const Nums& row, Mistake mistake) {
  Quantised q = quantise(kFp4, row, 32, mistake);
  std::vector<std::uint8_t> packed;
  for (std::size_t i = 0; i + 1 < q.codes.size(); i += 2) {
    unsigned even = q.codes[i], odd = q.codes[i + 1];
    if (mistake == Mistake::kNibblesSwapped) {
      std::swap(even, odd);
      std::swap(q.values[i], q.values[i + 1]);
    }
    packed.push_back(static_cast<std::uint8_t>(even | odd << 4));
  }
  q.codes = std::move(packed);
  return q;
}

namespace {

void append(Output& out, const std::vector<std::uint8_t>& bytes) {
  for (const std::uint8_t b : bytes) out.bytes.push_back(std::byte{b});
}

}  // namespace

void append_kv_entry(Output& out, const Nums& row, Mistake mistake) {
  const Quantised q = quantise_fp8({row.begin(), row.begin() + 448}, 64, mistake);
  std::vector<std::uint8_t> bytes = q.codes;
  out.want.insert(out.want.end(), q.values.begin(), q.values.end());
  for (std::size_t i = 448; i < 512; ++i) {
    out.want.push_back(bf16(row[i]));
    const unsigned code = bf16_code(row[i].v);
    bytes.push_back(static_cast<std::uint8_t>(code & 255)),
        bytes.push_back(static_cast<std::uint8_t>(code >> 8));
  }
  bytes.insert(bytes.end(), q.scale_bytes.begin(), q.scale_bytes.end());
  bytes.push_back(0);
  out.want.insert(out.want.end(), q.scales.begin(), q.scales.end());
  append(out, bytes);
}

void append_index_key(Output& out, const Nums& row, Mistake mistake) {
  const Quantised q = quantise_fp4(row, mistake);
  out.want.insert(out.want.end(), q.values.begin(), q.values.end());
  out.want.insert(out.want.end(), q.scales.begin(), q.scales.end());
  append(out, q.codes);
  append(out, q.scale_bytes);
}

Array normal(Random& random, DType dtype, std::vector<std::int64_t> shape, double sigma, double mean) {
  return Array::make(dtype, std::move(shape), [&](std::int64_t) { return mean + sigma * random.normal(); });
}

}  // namespace dsv4::reference::vectors
