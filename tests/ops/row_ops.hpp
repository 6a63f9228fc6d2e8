// What the tests of ops on rows share: where rows may lie, and under which policies of the machine they run.
#pragma once

#include <dsv4/simt/options.hpp>

#include "tests/support/op_buffers.hpp"
#include "tests/support/random.hpp"
#include "tests/support/typed.hpp"

#include <cstdint>
#include <vector>

namespace dsv4::test {

/// Contiguous 16-byte aligned rows, such rows with padding between them, and rows that are aligned to their
/// elements alone: the first two take an op's vector path, the last its general one.
template <class T>
std::vector<RowLayout> layouts(std::int64_t cols) {
  const auto vector = static_cast<std::int64_t>(16 / sizeof(T));
  return {{}, {cols + 3 * vector, 16}, {cols + 3, sizeof(T)}};
}

/// f() under every combination of when asynchronous work happens and who runs next.
template <class F>
void under_all_policies(F f) {
  for (const auto async : {simt::Async::kEager, simt::Async::kLazy, simt::Async::kRandom})
    for (const auto schedule : {simt::Schedule::kFifo, simt::Schedule::kLifo, simt::Schedule::kRandom}) {
      simt::Options o = simt::options();
      o.async = async, o.schedule = schedule, o.seed = 7;
      const simt::ScopedOptions scope(o);
      CAPTURE(static_cast<int>(async), static_cast<int>(schedule));
      f();
    }
}

/// Rows [first, first + count) of a buffer.
template <class T>
std::vector<T> slice(const std::vector<T>& rows, std::int64_t cols, std::int64_t first, std::int64_t count) {
  return {rows.begin() + first * cols, rows.begin() + (first + count) * cols};
}

}  // namespace dsv4::test
