// Launch shapes, error reports and execution policies for tests of asynchronous instructions.
#pragma once

#include <dsv4/simt/launch.hpp>
#include <dsv4/simt/options.hpp>

#include "tests/support/catch.hpp"

#include <cstddef>
#include <cstdint>
#include <string>

namespace dsv4::test {

inline simt::LaunchShape threads(unsigned n, std::size_t shared_bytes = 0, unsigned blocks = 1,
                                 unsigned cluster = 1) {
  simt::LaunchShape shape;
  shape.grid.x = blocks;
  shape.block.x = n;
  shape.cluster.x = cluster;
  shape.shared_bytes = shared_bytes;
  return shape;
}

/// The error that launch() throws, or "".
template <class F>
std::string report_of(F&& launch) {
  try {
    launch();
  } catch (const simt::KernelError& e) {
    return e.what();
  }
  return "";
}

inline bool says(const std::string& report, const std::string& text) {
  return report.find(text) != std::string::npos;
}

/// f() with every kind of asynchrony and schedule, without and with spurious failures of try_wait.
template <class F>
void for_each_policy(F&& f) {
  for (const auto async : {simt::Async::kEager, simt::Async::kLazy, simt::Async::kRandom})
    for (const auto schedule : {simt::Schedule::kFifo, simt::Schedule::kLifo, simt::Schedule::kRandom})
      for (const double spurious : {0.0, 0.3}) {
        simt::Options o = simt::options();
        o.async = async;
        o.schedule = schedule;
        o.spurious_try_wait = spurious;
        const bool is_random =
            async == simt::Async::kRandom || schedule == simt::Schedule::kRandom || spurious > 0;
        for (std::uint64_t seed = 1; seed <= (is_random ? 3u : 1u); ++seed) {
          o.seed = seed;
          CAPTURE(static_cast<int>(async), static_cast<int>(schedule), spurious, seed);
          const simt::ScopedOptions scope(o);
          f();
        }
      }
}

inline simt::Options with(simt::Async async, simt::Schedule schedule = simt::Schedule::kFifo) {
  simt::Options o = simt::options();
  o.async = async;
  o.schedule = schedule;
  o.spurious_try_wait = 0;
  return o;
}

}  // namespace dsv4::test
