// What attn_attend refuses, and how; nothing is launched then.
#include <dsv4/simt/counters.hpp>

#include "tests/ops/attn_attend.hpp"

using namespace dsv4;
using test::AttendBatch;
using test::AttendPool;

namespace {

constexpr auto kInvalid = Code::kInvalidArgument;
constexpr auto kUnsupported = Code::kUnsupported;

#define REFUSED(change, code, value, limit, text)                            \
  do {                                                                       \
    ops::AttnAttendParams p = good;                                          \
    change;                                                                  \
    const auto before = simt::counters().launches;                           \
    REQUIRE_REFUSED(ops::attn_attend(p, nullptr), code, value, limit, text); \
    REQUIRE(simt::counters().launches == before);                            \
  } while (0)

}  // namespace

TEST_CASE("attn_attend refuses what it cannot do", "[ops][attn_attend][errors]") {
  AttendPool pool(ops::CacheFormat::kKv584, 64, 64);
  pool.fill(0, 64, 1);
  const auto idx = test::slots_of(2 * 150, 64, 2);
  const std::vector<std::int32_t> positions = {3, 4};
  AttendBatch b(2, 2, 3);
  b.p.entries = test::listed(pool, idx, 150);
  b.p.window = {.pool = pool.view(), .kind = ops::SelectionKind::kWindow, .max_count = 8, .window = 8};
  b.p.positions = positions.data();
  b.run();
  const ops::AttnAttendParams good = b.p;

  REFUSED(p.tokens = -1, kInvalid, -1, INT32_MAX, "attn_attend: tokens");
  REFUSED(p.heads = 0, kInvalid, 0, 128, "attn_attend: heads");
  REFUSED(p.heads = 129, kInvalid, 129, 128, "attn_attend: heads");
  REFUSED(p.head_dim = 576, kUnsupported, 576, 512, "attn_attend: head_dim");
  REFUSED(p.dtype = static_cast<ops::DType>(9), kUnsupported, 9, 0, "attn_attend: dtype");
  REFUSED(p.q_head_stride = 511, kInvalid, 511, 512, "attn_attend: q_head_stride");
  REFUSED(p.q_stride = 1023, kInvalid, 1023, 1024, "attn_attend: q_stride");
  REFUSED(p.o_stride = 1028, kInvalid, 1028, 8, "attn_attend: o_stride");
  REFUSED(p.lse_stride = 1, kInvalid, 1, 2, "attn_attend: lse_stride");
  REFUSED(p.window.kind = static_cast<ops::SelectionKind>(4), kUnsupported, 4, 0, "attn_attend: window.kind");
  REFUSED(p.entries.pool.format = ops::CacheFormat::kIndexFp4, kUnsupported, 2, 0,
          "attn_attend: entries.pool.format");
  REFUSED((p.entries.pool.format = ops::CacheFormat::kRows, p.entries.pool.dtype = ops::DType::kF32),
          kUnsupported, 1, 0, "attn_attend: entries.pool.dtype");
  REFUSED(p.entries.pool.slots = -1, kInvalid, -1, INT32_MAX, "attn_attend: entries.pool.slots");
  REFUSED(p.entries.pool.page_rows = 0, kInvalid, 0, 1, "attn_attend: entries.pool.page_rows");
  REFUSED(p.entries.max_count = (1 << 20) + 1, kInvalid, (1 << 20) + 1, 1 << 20,
          "attn_attend: entries.max_count");
  REFUSED(p.entries.idx_stride = 149, kInvalid, 149, 150, "attn_attend: entries.idx_stride");
  REFUSED(p.window.window = 7, kInvalid, 8, 7, "attn_attend: window.max_count must be the window");
  REFUSED(p.window.table.page_rows = 0, kInvalid, 0, 1, "attn_attend: window.table.page_rows");
  REFUSED(p.entries.kind = ops::SelectionKind::kEntries, kInvalid, 0, 1,
          "attn_attend: entries.visible.ratio");
  REFUSED(p.rotate_back = true, kUnsupported, 0, 64, "attn_attend: rope_dim");
  REFUSED((p.rotate_back = true, p.rope_dim = 64), kInvalid, 0, 0, "attn_attend: rope must give either");
  REFUSED(p.position_type = static_cast<ops::PositionType>(2), kUnsupported, 2, 0,
          "attn_attend: position_type");
  REFUSED(p.o = nullptr, kInvalid, 0, 0, "attn_attend: o must not be null");
  REFUSED(p.q = nullptr, kInvalid, 0, 0, "attn_attend: q must not be null");
  REFUSED(p.q = static_cast<const bf16*>(p.q) + 4, kInvalid, 8, 16, "attn_attend: q must be aligned");
  REFUSED(p.entries.idx = nullptr, kInvalid, 0, 0, "attn_attend: entries.idx must not be null");
  REFUSED(p.positions = nullptr, kInvalid, 0, 0, "attn_attend: positions must not be null");
  REFUSED(p.entries.pool.data = nullptr, kInvalid, 0, 0, "attn_attend: entries.pool.data must not be null");
  REFUSED(p.quantised.codes = p.o, kInvalid, 0, 0, "attn_attend: quantised.scales must not be null");
  const auto needed = static_cast<std::int64_t>(ops::attn_attend_workspace_bytes(good));
  REQUIRE(needed > 0);
  REFUSED(p.workspace_bytes -= 1, Code::kWorkspaceTooSmall, needed - 1, needed,
          "attn_attend: workspace_bytes");
  REFUSED(p.workspace = nullptr, kInvalid, 0, 0, "attn_attend: workspace must not be null");
}

TEST_CASE("attn_attend's workspace never shrinks", "[ops][attn_attend]") {
  ops::AttnAttendParams p;
  p.head_dim = 512;
  p.entries.kind = ops::SelectionKind::kList;
  for (const auto dtype : {ops::DType::kBf16, ops::DType::kF32}) {
    p.dtype = dtype;
    for (const int heads : {1, 64, 128})
      for (const std::int64_t rows : {0, 128, 129, 1024, 1 << 20}) {
        std::size_t last = 0;
        for (const std::int64_t tokens : {0, 1, 2, 64, 65, 1 << 20}) {
          p.tokens = tokens, p.heads = heads, p.entries.max_count = rows;
          const std::size_t n = ops::attn_attend_workspace_bytes(p);
          REQUIRE(n >= last);
          REQUIRE(n % 256 == 0);
          last = n;
          p.entries.max_count = rows / 2;
          REQUIRE(ops::attn_attend_workspace_bytes(p) <= n);
          p.entries.max_count = rows, p.heads = heads / 2;
          REQUIRE(ops::attn_attend_workspace_bytes(p) <= n);
        }
      }
  }
}
