// Numbers of the vectors: the same on every machine, from exact operations alone.
#pragma once

#include <cstdint>
#include <string_view>

namespace dsv4::reference::vectors {

/// SplitMix64, started from a seed and a text that names who draws.
class Random {
 public:
  Random(std::uint64_t seed, std::string_view who) : state_(mixed(seed + 0x243f6a8885a308d3u)) {
    for (const char c : who) state_ = mixed(state_ ^ static_cast<unsigned char>(c));
  }

  /// Uniform in [0, 1), a multiple of 2^-53.
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  /// Uniform integer in [low, high].
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(high - low + 1));
  }
  /// Mean 0, variance 1, within +-6: twelve uniforms.
  double normal() {
    double sum = -6.0;
    for (int i = 0; i < 12; ++i) sum += unit();
    return sum;
  }

 private:
  std::uint64_t next() { return mixed(state_ += 0x9e3779b97f4a7c15u); }
  static std::uint64_t mixed(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  std::uint64_t state_;
};

}  // namespace dsv4::reference::vectors
