// Deterministic test data: the same numbers on every machine and standard library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace dsv4::test {

/// SplitMix64: a 64-bit counter through a fixed mixer. Any seed is a good one: it is mixed too, or the
/// streams of neighbouring seeds would be one stream, shifted.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(mixed(seed + 0x243f6a8885a308d3u)) {}

  std::uint64_t next() { return mixed(state_ += 0x9e3779b97f4a7c15u); }
  std::uint32_t bits() { return static_cast<std::uint32_t>(next() >> 32); }
  /// Uniform in [0, 1), a multiple of 2^-53.
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  /// Uniform integer in [low, high].
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(high - low + 1));
  }
  /// Mean 0, variance 1, within +-6: twelve uniforms, so that no libm is involved.
  double normal() {
    double sum = -6.0;
    for (int i = 0; i < 12; ++i) sum += unit();
    return sum;
  }

 private:
  static std::uint64_t mixed(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  std::uint64_t state_;
};

inline std::vector<float> normal(std::int64_t n, std::uint64_t seed, double sigma = 1.0) {
  Random random(seed);
  std::vector<float> v(static_cast<std::size_t>(n));
  for (float& x : v) x = static_cast<float>(random.normal() * sigma);
  return v;
}

inline std::vector<float> uniform(std::int64_t n, std::uint64_t seed, double low = 0.0, double high = 1.0) {
  Random random(seed);
  std::vector<float> v(static_cast<std::size_t>(n));
  for (float& x : v) x = static_cast<float>(low + (high - low) * random.unit());
  return v;
}

/// Uniform integers in [low, high].
inline std::vector<std::int32_t> integers(std::int64_t n, std::uint64_t seed, std::int64_t low,
                                          std::int64_t high) {
  Random random(seed);
  std::vector<std::int32_t> v(static_cast<std::size_t>(n));
  for (std::int32_t& x : v) x = static_cast<std::int32_t>(random.integer(low, high));
  return v;
}

inline std::vector<std::uint8_t> bytes(std::int64_t n, std::uint64_t seed) {
  Random random(seed);
  std::vector<std::uint8_t> v(static_cast<std::size_t>(n));
  for (std::uint8_t& x : v) x = static_cast<std::uint8_t>(random.bits() >> 24);
  return v;
}

/// x without the lower 16 bits of its fp32: a value that bf16 holds exactly.
inline float truncate_to_bf16(float x) {
  std::uint32_t u;
  std::memcpy(&u, &x, sizeof u);
  u &= 0xffff0000u;
  std::memcpy(&x, &u, sizeof u);
  return x;
}

/// normal(), every value exact in bf16.
inline std::vector<float> normal_bf16(std::int64_t n, std::uint64_t seed, double sigma = 1.0) {
  std::vector<float> v = normal(n, seed, sigma);
  for (float& x : v) x = truncate_to_bf16(x);
  return v;
}

}  // namespace dsv4::test
