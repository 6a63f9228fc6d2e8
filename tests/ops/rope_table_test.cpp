// Every op that rotates takes an engine's own table of cosines and sines in place of frequencies: the same
// bits where the table holds what the frequencies give, its own angles where it does not, NaNs where it ends.
#include <dsv4/core/rope.hpp>
#include <dsv4/ops/attn_attend.hpp>
#include <dsv4/ops/attn_compress.hpp>
#include <dsv4/ops/attn_out_proj.hpp>
#include <dsv4/ops/attn_proj.hpp>
#include <dsv4/ops/rope.hpp>

#include "tests/ops/linear_case.hpp"

#include <functional>

using namespace dsv4;
using test::at;
using test::RowLayout;
using test::Rows;

namespace {

constexpr int kPairs = 32;
constexpr std::int64_t kTokens = 5, kMaxPosition = 24, kHeads = 3, kDim = 512, kIndexDim = 128;
const std::vector<std::int64_t> kPositions = {7, 0, 23, 4, 11};

std::vector<float> frequencies(float factor) {
  std::vector<float> f;
  for (int i = 0; i < kPairs; ++i) f.push_back(factor / static_cast<float>(1 + i));
  return f;
}

/// What rope::angles makes of frequencies, for every position; NaNs between the rows.
struct Table {
  Rows<float> cos, sin;

  explicit Table(const std::vector<float>& freq, RowLayout layout = {kPairs + 7, 4})
      : cos(kMaxPosition, kPairs, layout), sin(kMaxPosition, kPairs, layout) {
    for (std::int64_t p = 0; p < kMaxPosition; ++p) {
      math::SinCos angles[kPairs];
      rope::angles(SerialCoop{}, angles, freq.data(), p, kPairs);
      for (int i = 0; i < kPairs; ++i) cos.row(p)[i] = angles[i].cos, sin.row(p)[i] = angles[i].sin;
    }
  }
  ops::RopeTable view(std::int64_t rows = kMaxPosition) const {
    return {.cos = cos.data(), .sin = sin.data(), .max_position = rows, .table_stride = cos.stride()};
  }
};

using Bytes = std::vector<std::uint8_t>;
template <class T>
void append(Bytes& to, const Rows<T>& rows) {
  REQUIRE(rows.intact() == "");
  for (const T& v : rows.values()) {
    std::uint8_t b[sizeof(T)];
    std::memcpy(b, &v, sizeof b);
    to.insert(to.end(), b, b + sizeof b);
  }
}
Rows<bf16> rows_of(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  return Rows<bf16>(rows, cols, test::row_of<bf16>(test::normal(rows * cols, seed)));
}

// ---- each op: its outputs as bytes
// --------------------------------------------------------------------------
using Op = Bytes (*)(const ops::RopeTable&);

Bytes run_rope(const ops::RopeTable& table) {
  const auto x = rows_of(kTokens, kHeads * kDim, 1);
  Rows<bf16> out(kTokens, kHeads * kDim, x.values());
  REQUIRE_OK(ops::rope({.out = out.data(),
                        .x = x.data(),
                        .positions = kPositions.data(),
                        .table = table,
                        .tokens = kTokens,
                        .heads = kHeads,
                        .head_dim = kDim,
                        .rope_dim = 64,
                        .position_type = ops::PositionType::kInt64},
                       nullptr));
  Bytes b;
  append(b, out);
  return b;
}

// The three parts of attn_qk_prep, each by its own op or all in one launch.
enum Part { kQ = 1, kKv = 2, kIndex = 4, kAll = 7 };
template <int kParts>
Bytes run_prep(const ops::RopeTable& table) {
  const auto q = rows_of(kTokens, kHeads * kDim, 2), kv = rows_of(kTokens, kDim, 3),
             index = rows_of(kTokens, kHeads * kIndexDim, 4), weights = rows_of(kTokens, kHeads, 5);
  const Rows<float> norm(1, kDim, test::uniform(kDim, 6, 0.5, 2.0));
  Rows<bf16> q_out(kTokens, kHeads * kDim), kv_out(kTokens, kDim), index_out(kTokens, kHeads * kIndexDim);
  Rows<float> weights_out(kTokens, kHeads);
  const ops::AttnQkPrepParams p = {.q = {.out = q_out.data(),
                                         .q = q.data(),
                                         .positions = kPositions.data(),
                                         .rope = table,
                                         .tokens = kTokens,
                                         .heads = kHeads,
                                         .head_dim = kDim,
                                         .rope_dim = 64,
                                         .eps = 1e-6f,
                                         .position_type = ops::PositionType::kInt64},
                                   .kv = {.out = kv_out.data(),
                                          .kv = kv.data(),
                                          .norm = norm.data(),
                                          .positions = kPositions.data(),
                                          .rope = table,
                                          .tokens = kTokens,
                                          .head_dim = kDim,
                                          .rope_dim = 64,
                                          .eps = 1e-6f,
                                          .position_type = ops::PositionType::kInt64},
                                   .index = {.codes = index_out.data(),
                                             .weights_out = weights_out.data(),
                                             .q = index.data(),
                                             .weights = weights.data(),
                                             .positions = kPositions.data(),
                                             .rope = table,
                                             .tokens = kTokens,
                                             .heads = kHeads,
                                             .dim = kIndexDim,
                                             .rope_dim = 64,
                                             .format = ops::CacheFormat::kRows,
                                             .position_type = ops::PositionType::kInt64}};
  if constexpr (kParts == kQ) REQUIRE_OK(ops::attn_q_proj(p.q, nullptr));
  if constexpr (kParts == kKv) REQUIRE_OK(ops::attn_kv_proj(p.kv, nullptr));
  if constexpr (kParts == kIndex) REQUIRE_OK(ops::attn_index_prep(p.index, nullptr));
  if constexpr (kParts == kAll) REQUIRE_OK(ops::attn_qk_prep(p, nullptr));
  Bytes b;
  if constexpr ((kParts & kQ) != 0) append(b, q_out);
  if constexpr ((kParts & kKv) != 0) append(b, kv_out);
  if constexpr ((kParts & kIndex) != 0) append(b, index_out);
  return b;
}

// Entries of 22 tokens from position 0: 5 of CSA, main and index, rotated by positions 0, 4, ... 16.
Bytes run_compress(const ops::RopeTable& table) {
  const std::int64_t tokens = 22, entries = 5;
  Bytes b;
  const auto compressor = [&](std::int32_t dim, std::uint64_t seed, auto run) {
    const std::int64_t width = 2 * dim,
                       bytes = static_cast<std::int64_t>(ops::attn_compress_state_bytes(4, dim, 0));
    const Rows<float> kv(tokens, width, test::normal(tokens * width, seed)),
        gate(tokens, width, test::normal(tokens * width, seed + 1)),
        ape(4, width, test::normal(4 * width, seed + 2)),
        norm(1, dim, test::uniform(dim, seed + 3, 0.5, 2.0));
    Rows<std::uint8_t> state(1, bytes, std::vector<std::uint8_t>(at(bytes), 0));
    Rows<bf16> out(entries, dim);
    std::vector<std::int32_t> slots;
    for (std::int32_t t = 0; t < tokens; ++t) slots.push_back(t / 4);
    run(ops::CompressorParams{.kv = kv.data(),
                              .gate = gate.data(),
                              .ape = ape.data(),
                              .norm = norm.data(),
                              .state = state.data(),
                              .entries = {.data = out.data(), .slots = entries},
                              .entry_slots = slots.data(),
                              .dim = dim});
    append(b, out);
  };
  const std::vector<std::int32_t> first_token = {0, static_cast<std::int32_t>(tokens)}, start = {0};
  ops::AttnCompressParams p = {.first_token = first_token.data(),
                               .start = start.data(),
                               .rope = table,
                               .tokens = tokens,
                               .sequences = 1,
                               .states = 1,
                               .ratio = 4,
                               .rope_dim = 64,
                               .eps = 1e-6f};
  compressor(kDim, 10, [&](const ops::CompressorParams& c) {
    p.main = c;
    REQUIRE_OK(ops::attn_compress(p, nullptr));
    p.main = {};
  });
  compressor(kIndexDim, 20, [&](const ops::CompressorParams& c) {
    p.index = c;
    REQUIRE_OK(ops::attn_compress(p, nullptr));
  });
  return b;
}

Bytes run_attend(const ops::RopeTable& table) {
  const std::int64_t slots = 12;
  const auto q = rows_of(kTokens, kHeads * kDim, 30);
  auto pool = rows_of(slots, kDim, 31);
  Rows<bf16> o(kTokens, kHeads * kDim);
  std::vector<std::int32_t> idx;
  for (std::int64_t i = 0; i < kTokens * slots; ++i) idx.push_back(static_cast<std::int32_t>(i * 5 % slots));
  ops::AttnAttendParams p = {.o = o.data(),
                             .q = q.data(),
                             .window = {.pool = {.data = pool.data(), .slots = slots},
                                        .kind = ops::SelectionKind::kList,
                                        .idx = idx.data(),
                                        .max_count = slots},
                             .positions = kPositions.data(),
                             .rope = table,
                             .tokens = kTokens,
                             .heads = kHeads,
                             .head_dim = kDim,
                             .rope_dim = 64,
                             .scale = 0.04f,
                             .position_type = ops::PositionType::kInt64,
                             .rotate_back = true};
  test::TestWorkspace w(ops::attn_attend_workspace_bytes(p));
  p.workspace = w.data(), p.workspace_bytes = w.bytes();
  REQUIRE_OK(ops::attn_attend(p, nullptr));
  Bytes b;
  append(b, o);
  return b;
}

Bytes run_out_proj(const ops::RopeTable& table) {
  const std::int64_t hidden = 24, rank = 16;
  const auto o = rows_of(kTokens, 2 * kDim, 40), a = rows_of(rank, 2 * kDim, 41),
             b = rows_of(hidden, rank, 42);
  Rows<float> y(kTokens, hidden);
  ops::AttnOutProjParams p = {.y = y.data(),
                              .o = o.data(),
                              .wo_a = {.data = a.data()},
                              .wo_b = {.data = b.data()},
                              .positions = kPositions.data(),
                              .rope = table,
                              .tokens = kTokens,
                              .hidden = hidden,
                              .heads = 2,
                              .head_dim = kDim,
                              .rope_dim = 64,
                              .groups = 1,
                              .rank = rank,
                              .y_f32 = true,
                              .rotate_back = true,
                              .position_type = ops::PositionType::kInt64};
  test::TestWorkspace w(ops::attn_out_proj_workspace_bytes(p));
  p.workspace = w.data(), p.workspace_bytes = w.bytes();
  REQUIRE_OK(ops::attn_out_proj(p, nullptr));
  Bytes bytes;
  append(bytes, y);
  return bytes;
}

}  // namespace

TEST_CASE("every op that rotates takes a table of angles", "[ops][rope][table]") {
  const auto [name, op] = GENERATE(table<const char*, Op>({{"rope", run_rope},
                                                           {"attn_q_proj", run_prep<kQ>},
                                                           {"attn_kv_proj", run_prep<kKv>},
                                                           {"attn_index_prep", run_prep<kIndex>},
                                                           {"attn_qk_prep", run_prep<kAll>},
                                                           {"attn_compress", run_compress},
                                                           {"attn_attend", run_attend},
                                                           {"attn_out_proj", run_out_proj}}));
  CAPTURE(name);
  const std::vector<float> freq = frequencies(1.0f), other = frequencies(0.7f);
  const Bytes want = op({.freq = freq.data()});
  const Bytes of_other = op({.freq = other.data()});
  REQUIRE((want != of_other));
  REQUIRE((op(Table(freq).view()) == want));
  REQUIRE((op(Table(other).view()) == of_other));
  const Table contiguous(freq, RowLayout{});
  ops::RopeTable view = contiguous.view();
  view.table_stride = 0;
  REQUIRE((op(view) == want));
  // Without its last row: tokens at 0 .. 15 (compress: entries up to 12) keep their bits, others are spoilt.
  const Bytes cut = op(contiguous.view(16));
  REQUIRE((cut != want));
  const std::size_t token = want.size() / at(kTokens);
  if (op != static_cast<Op>(run_compress) && op != static_cast<Op>(run_prep<kAll>))
    for (std::int64_t t = 0; t < kTokens; ++t)
      REQUIRE(std::equal(want.begin() + static_cast<std::ptrdiff_t>(at(t) * token),
                         want.begin() + static_cast<std::ptrdiff_t>(at(t + 1) * token),
                         cut.begin() + static_cast<std::ptrdiff_t>(at(t) * token)) ==
              (kPositions[at(t)] < 16));
}
