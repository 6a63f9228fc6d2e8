// Op attn_attend of bf16 on the SIMT machine, against attention in double.
#include "tests/ops/attn_attend.hpp"

using namespace dsv4;
using ops::CacheFormat;
using test::AttendBatch;
using test::AttendPool;

namespace {

// Decoded rows of the slots that exist, in list order.
std::vector<std::vector<double>> decoded(AttendPool& pool, const std::int32_t* idx, std::int64_t n) {
  std::vector<std::vector<double>> rows;
  for (std::int64_t i = 0; i < n; ++i)
    if (idx[i] >= 0 && idx[i] < pool.slots()) rows.push_back(pool.get(idx[i]));
  return rows;
}

}  // namespace

TEST_CASE("attn_attend of lists is attention over both pools", "[ops][attn_attend]") {
  const CacheFormat window_format = GENERATE(CacheFormat::kKv584, CacheFormat::kRows);
  const CacheFormat entry_format = GENERATE(CacheFormat::kKv584, CacheFormat::kRows);
  const int heads = GENERATE(1, 16, 33);
  const std::int64_t tokens = 2, window_rows = 20, entry_rows = 150;
  CAPTURE(static_cast<int>(window_format), static_cast<int>(entry_format), heads);
  AttendPool window(window_format, 64, 53), entries(entry_format, 256, 64);
  window.fill(0, 64, 100), entries.fill(0, 256, 1000);
  const auto window_idx = test::slots_of(tokens * window_rows, 64, 1);
  const auto entry_idx = test::slots_of(tokens * entry_rows, 256, 2);
  AttendBatch b(tokens, heads, 7);
  b.p.window = test::listed(window, window_idx, window_rows);
  b.p.entries = test::listed(entries, entry_idx, entry_rows);
  b.run();
  for (std::int64_t t = 0; t < tokens; ++t) {
    auto rows = decoded(window, window_idx.data() + t * window_rows, window_rows);
    for (auto& r : decoded(entries, entry_idx.data() + t * entry_rows, entry_rows)) rows.push_back(r);
    std::vector<const std::vector<double>*> at;
    for (const auto& r : rows) at.push_back(&r);
    b.check(t, at);
  }
}
