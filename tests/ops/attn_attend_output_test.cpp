// Op attn_attend: what leaves it. Inverse RoPE, FP8 codes, strides, empty rows; the f32 instance.
#include <dsv4/core/quant.hpp>
#include <dsv4/core/rope.hpp>

#include "tests/ops/attn_attend.hpp"

using namespace dsv4;
using ops::CacheFormat;
using test::AttendBatch;
using test::AttendPool;
using test::RowLayout;
using test::Rows;

namespace {

constexpr int kPairs = 32;

std::vector<float> frequencies() {
  std::vector<float> freq;
  for (int i = 0; i < kPairs; ++i) freq.push_back(static_cast<float>(std::pow(10000.0, -i / 32.0)));
  return freq;
}

}  // namespace

TEST_CASE("attn_attend turns its rounded values back and quantises them", "[ops][attn_attend]") {
  // 5 tokens are split over groups, 65 are not.
  const std::int64_t tokens = GENERATE(5, 65), rows = tokens == 5 ? 150 : 20;
  const bool by_column = GENERATE(false, true);
  const int heads = 3;
  AttendPool entries(CacheFormat::kKv584, 64, 64);
  entries.fill(0, 64, 1);
  const auto idx = test::slots_of(tokens * rows, 64, 2);
  const auto freq = frequencies();
  std::vector<std::int32_t> positions;
  for (int t = 0; t < tokens; ++t) positions.push_back(t == 1 ? 1048575 : 7 * t);
  AttendBatch b(tokens, heads, 3);
  b.p.entries = test::listed(entries, idx, rows);
  b.run();
  std::vector<bf16> want = b.o.values();
  std::vector<e4m3> want_codes;
  std::vector<e8m0> want_scales(static_cast<std::size_t>(tokens * heads * 4));
  for (std::int64_t t = 0; t < tokens; ++t)
    for (int h = 0; h < heads; ++h) {
      bf16* row = want.data() + (t * heads + h) * test::kHeadDim;
      math::SinCos table[kPairs];
      rope::angles(SerialCoop{}, table, freq.data(), positions[std::size_t(t)], kPairs);
      rope::rotate(SerialCoop{}, row + 448, table, kPairs, rope::Direction::kInverse);
      for (int block = 0; block < 4; ++block) {
        e4m3 code[128];
        const e8m0 s = quant::fp8_block(SerialCoop{}, code, row + 128 * block, 128);
        const std::int64_t i = by_column ? (h * 4 + block) * tokens + t : t * heads * 4 + h * 4 + block;
        want_scales[std::size_t(i)] = s;
        want_codes.insert(want_codes.end(), code, code + 128);
      }
    }
  Rows<e4m3> codes(tokens, heads * test::kHeadDim, RowLayout{heads * test::kHeadDim + 8, 8});
  Rows<e8m0> scales(by_column ? heads * 4 : tokens, by_column ? tokens : heads * 4);
  b.p.rotate_back = true, b.p.rope_dim = 64, b.p.rope = {.freq = freq.data()},
  b.p.positions = positions.data();
  b.p.quantised = {.codes = codes.data(),
                   .scales = scales.data(),
                   .codes_stride = codes.stride(),
                   .scale_layout = by_column ? ops::ScaleLayout::kColumnMajor : ops::ScaleLayout::kRowMajor};
  b.run();
  REQUIRE_ROWS(b.o, want);
  REQUIRE_ROWS(codes, want_codes);
  REQUIRE_ROWS(scales, want_scales);
  b.p.o = nullptr, b.p.lse = nullptr;  // codes alone
  Rows<e4m3> again(tokens, heads * test::kHeadDim);
  b.p.quantised.codes = again.data(), b.p.quantised.codes_stride = 0;
  b.run();
  REQUIRE_ROWS(again, want_codes);
}

TEST_CASE("attn_attend turns back by an engine's tables as by frequencies", "[ops][attn_attend]") {
  // 3 tokens are split over groups, 65 are not.
  const std::int64_t tokens = GENERATE(3, 65), rows = tokens == 3 ? 140 : 5, positions = 80;
  AttendPool entries(CacheFormat::kKv584, 64, 64);
  entries.fill(0, 64, 1);
  const auto idx = test::slots_of(tokens * rows, 64, 2);
  const auto freq = frequencies();
  std::vector<float> table;  // a position's cosines, then its sines
  for (std::int64_t position = 0; position < positions; ++position) {
    math::SinCos angle[kPairs];
    rope::angles(SerialCoop{}, angle, freq.data(), position, kPairs);
    for (const math::SinCos& a : angle) table.push_back(a.cos);
    for (const math::SinCos& a : angle) table.push_back(a.sin);
  }
  std::vector<std::int64_t> at;
  for (std::int64_t t = 0; t < tokens; ++t) at.push_back(t * 37 % positions);
  AttendBatch b(tokens, 2, 3);
  b.p.entries = test::listed(entries, idx, rows);
  b.p.rotate_back = true, b.p.rope_dim = 64, b.p.rope = {.freq = freq.data()};
  b.p.positions = at.data(), b.p.position_type = ops::PositionType::kInt64;
  b.run();
  const std::vector<bf16> want = b.o.values();
  Rows<bf16> again(tokens * 2, test::kHeadDim);
  b.p.o = again.data();
  b.p.rope = {.cos = table.data(),
              .sin = table.data() + kPairs,
              .max_position = positions,
              .table_stride = 2 * kPairs};
  b.run();
  REQUIRE_ROWS(again, want);
}

TEST_CASE("attn_attend reads and writes strided heads and tokens", "[ops][attn_attend]") {
  const std::int64_t tokens = 3, heads = 2, rows = 20;
  AttendPool entries(CacheFormat::kRows, 32, 1, 1040);
  entries.fill(0, 32, 1);
  const auto idx = test::slots_of(tokens * 25, 32, 2);
  AttendBatch b(tokens, heads, 3);
  b.p.entries = test::listed(entries, idx, rows);
  b.p.entries.idx_stride = 25;
  b.run();
  const auto want = b.o.values();
  const auto want_lse = b.lse.values();
  Rows<float> lse(tokens, heads, RowLayout{heads + 3, 4});
  b.p.lse = lse.data(), b.p.lse_stride = lse.stride();
  // Heads 520 apart; tokens 2 * 520 + 8.
  Rows<bf16> q(tokens, 1048), o(tokens, 1048);
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t h = 0; h < heads; ++h)
      std::memcpy(static_cast<void*>(q.row(t) + h * 520), b.q.row(t * heads + h), 1024);
  b.p.q = q.data(), b.p.q_stride = 1048, b.p.q_head_stride = 520;
  b.p.o = o.data(), b.p.o_stride = 1048, b.p.o_head_stride = 520;
  b.run();
  const std::vector<bf16> untouched(8, bf16{0xffff});
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t h = 0; h < heads; ++h) {
      REQUIRE(std::memcmp(o.row(t) + h * 520, want.data() + (t * heads + h) * 512, 1024) == 0);
      REQUIRE(std::memcmp(o.row(t) + h * 520 + 512, untouched.data(), 16) == 0);
    }
  REQUIRE(o.intact() == "");
  REQUIRE_ROWS(lse, want_lse);
}

TEST_CASE("attn_attend of f32 is the primitive bit for bit", "[ops][attn_attend]") {
  const CacheFormat format = GENERATE(CacheFormat::kRows, CacheFormat::kKv584);
  const std::int64_t tokens = 2, window_rows = 5, entry_rows = 37;
  const int heads = 9;
  AttendPool window(CacheFormat::kRows, 16, 1, 0, ops::DType::kF32);
  AttendPool entries(format, 64, 53, 0, ops::DType::kF32);
  window.fill(0, 16, 1), entries.fill(0, 64, 2);
  auto window_idx = test::slots_of(tokens * window_rows, 16, 3),
       entry_idx = test::slots_of(tokens * entry_rows, 64, 4);
  window_idx[1] = -1, entry_idx[3] = 64, entry_idx[4] = INT32_MIN;
  for (std::int64_t i = 0; i < entry_rows; ++i) entry_idx[std::size_t(entry_rows + i)] = -1;
  for (std::int64_t i = 0; i < window_rows; ++i) window_idx[std::size_t(window_rows + i)] = INT32_MAX;
  const auto q = test::normal(tokens * heads * test::kHeadDim, 5), sink = test::normal(heads, 6);
  Rows<float> o(tokens * heads, test::kHeadDim), lse(tokens, heads);
  Rows<float> queries(tokens * heads, test::kHeadDim, q);
  ops::AttnAttendParams p = {.o = o.data(),
                             .lse = lse.data(),
                             .q = queries.data(),
                             .sink = sink.data(),
                             .window = test::listed(window, window_idx, window_rows),
                             .entries = test::listed(entries, entry_idx, entry_rows),
                             .tokens = tokens,
                             .heads = heads,
                             .head_dim = test::kHeadDim,
                             .scale = 1.0f / std::sqrt(512.0f),
                             .empty_lse = -1e30f,
                             .dtype = ops::DType::kF32};
  std::vector<std::byte> memory(ops::attn_attend_workspace_bytes(p) + 256);
  const auto at = reinterpret_cast<std::uintptr_t>(memory.data());
  p.workspace = memory.data() + (256 - at % 256) % 256, p.workspace_bytes = memory.size() - 256;
  REQUIRE_OK(ops::attn_attend(p, nullptr));
  std::vector<float> want(o.values().size()), want_lse(std::size_t(tokens * heads));
  std::vector<float> scratch(static_cast<std::size_t>(
      attention::attend_scratch_floats(heads, window_rows + entry_rows, test::kHeadDim)));
  const auto primitive = [&](const auto& pool) {
    using Pool = std::remove_cvref_t<decltype(pool)>;
    for (std::int64_t t = 0; t < tokens; ++t)
      attention::attend(
          SerialCoop{}, want.data() + t * heads * 512, want_lse.data() + t * heads,
          q.data() + t * heads * 512, heads, sink.data(),
          attention::Selection<attention::RowPool<float>>{
              {reinterpret_cast<float*>(window.data()), 512, 16, 512},
              window_idx.data() + t * window_rows,
              static_cast<int>(window_rows)},
          attention::Selection<Pool>{pool, entry_idx.data() + t * entry_rows, static_cast<int>(entry_rows)},
          512, p.scale, scratch.data());
  };
  if (format == CacheFormat::kRows) {
    primitive(attention::RowPool<float>{reinterpret_cast<float*>(entries.data()), 512, 64, 512});
  } else {
    attention::KvPagePool pool{};
    pool.pages = entries.data(), pool.page_stride = (53 * 584 + 15) / 16 * 16, pool.page_entries = 53,
    pool.slots = 64;
    primitive(pool);
  }
  for (int h = 0; h < heads; ++h) want_lse[std::size_t(heads + h)] = -1e30f;
  REQUIRE_ROWS(o, want);
  REQUIRE_ROWS(lse, want_lse);
}

TEST_CASE("attn_attend of f32 turns its values back and quantises them", "[ops][attn_attend]") {
  const std::int64_t tokens = 2, rows = 21;
  const int heads = 3;
  AttendPool entries(CacheFormat::kRows, 32, 1, 0, ops::DType::kF32);
  entries.fill(0, 32, 1);
  const auto idx = test::slots_of(tokens * rows, 32, 2);
  const auto freq = frequencies();
  const std::vector<std::int32_t> positions = {3, 1048575};
  Rows<float> queries(tokens * heads, test::kHeadDim, test::normal(tokens * heads * test::kHeadDim, 5));
  Rows<float> plain(tokens * heads, test::kHeadDim), turned(tokens * heads, test::kHeadDim);
  ops::AttnAttendParams p = {.o = plain.data(),
                             .q = queries.data(),
                             .entries = test::listed(entries, idx, rows),
                             .tokens = tokens,
                             .heads = heads,
                             .head_dim = test::kHeadDim,
                             .scale = 1.0f / std::sqrt(512.0f),
                             .dtype = ops::DType::kF32};
  std::vector<std::byte> memory(ops::attn_attend_workspace_bytes(p) + 256);
  const auto at = reinterpret_cast<std::uintptr_t>(memory.data());
  p.workspace = memory.data() + (256 - at % 256) % 256, p.workspace_bytes = memory.size() - 256;
  REQUIRE_OK(ops::attn_attend(p, nullptr));
  std::vector<float> want = plain.values();
  std::vector<e4m3> want_codes(want.size());
  std::vector<e8m0> want_scales(want.size() / 128);
  for (std::size_t row = 0; row < std::size_t(tokens * heads); ++row) {
    math::SinCos table[kPairs];
    rope::angles(SerialCoop{}, table, freq.data(), positions[row / heads], kPairs);
    rope::rotate(SerialCoop{}, want.data() + row * 512 + 448, table, kPairs, rope::Direction::kInverse);
    for (std::size_t block = 4 * row; block < 4 * row + 4; ++block)
      want_scales[block] =
          quant::fp8_block(SerialCoop{}, want_codes.data() + 128 * block, want.data() + 128 * block, 128);
  }
  Rows<e4m3> codes(tokens, heads * test::kHeadDim);
  Rows<e8m0> scales(tokens, heads * 4);
  p.o = turned.data(), p.rotate_back = true, p.rope_dim = 64, p.rope = {.freq = freq.data()};
  p.positions = positions.data();
  p.quantised = {.codes = codes.data(), .scales = scales.data()};
  REQUIRE_OK(ops::attn_attend(p, nullptr));
  REQUIRE_ROWS(turned, want);
  REQUIRE_ROWS(codes, want_codes);
  REQUIRE_ROWS(scales, want_scales);
}
