// What follows the projections of queries, key-values and indexer queries: bit for bit, caches included.
#include "tests/gpu/caches.hpp"
#include "tests/gpu/inputs.hpp"
#include "tests/gpu/suites.hpp"

#include <climits>
#include <cstdint>
#include <string>
#include <vector>

namespace dsv4::gpu {
namespace {

using ops::CacheFormat;

constexpr std::int32_t kDim = 512, kRope = 64, kIndex = 128;

struct Case {
  std::int64_t tokens;
  std::int64_t heads;
  CacheFormat window;
  std::int32_t page_rows;
  CacheFormat index;
};

std::vector<Case> cases(bool small) {
  if (small) return {{1, 3, CacheFormat::kKv584, 53, CacheFormat::kIndexFp4}};
  return {{1, 64, CacheFormat::kKv584, 64, CacheFormat::kIndexFp4},
          {65, 3, CacheFormat::kKv584, 53, CacheFormat::kIndexFp8},
          {130, 1, CacheFormat::kRows, 1, CacheFormat::kRows},
          {7, 128, CacheFormat::kKv584, 1, CacheFormat::kIndexFp4}};
}

template <class T>
std::string name(const char* op, const Case& c) {
  return title<T>(op, c.tokens, kDim) + " heads=" + std::to_string(c.heads) +
         " page=" + std::to_string(c.page_rows);
}

/// Slots of a permutation, every third of them replaced by one that means "not stored".
std::vector<std::int32_t> slots_of(std::int64_t tokens, std::int64_t slots) {
  std::vector<std::int32_t> v = page_numbers(1, slots, 21);
  v.resize(static_cast<std::size_t>(tokens));
  const std::int32_t none[] = {-1, INT_MIN, INT_MAX, static_cast<std::int32_t>(slots)};
  for (std::size_t t = 1; t < v.size(); t += 3) v[t] = none[t / 3 % 4];
  return v;
}

/// The three parts for one side. Tokens of the parts differ, and so do the strides.
template <class T>
ops::AttnQkPrepParams parts(const Case& c, Operands& m) {
  const auto rope = ops::RopeTable{.freq = m.in(frequencies())};
  const auto* positions = m.in(test::integers(c.tokens, 22, 0, (1 << 20) - 1));
  std::vector<std::int64_t> wide;
  for (const std::int32_t p : test::integers(c.tokens, 23, 0, 70000)) wide.push_back(p);

  ops::AttnQkPrepParams p;
  const std::int64_t head_stride = kDim + 16;
  p.q = {.out = m.out<T>("q", c.tokens * c.heads * kDim),
         .q = m.in(normal<T>(c.tokens * c.heads * head_stride, 24)),
         .positions = positions,
         .rope = rope,
         .tokens = c.tokens,
         .heads = c.heads,
         .head_dim = kDim,
         .rope_dim = kRope,
         .eps = 1e-6f,
         .dtype = kDType<T>,
         .q_head_stride = head_stride};

  const std::int64_t rows = c.tokens + c.tokens / 2, slots = 2 * rows + 5;
  std::vector<std::int64_t> kv_positions(static_cast<std::size_t>(rows), 9);
  for (std::size_t i = 0; i < wide.size(); ++i) kv_positions[i] = wide[i];
  p.kv = {.window = pool_shape(c.window, slots, c.page_rows, kDim, kDType<T>),
          .slots = m.in(slots_of(rows, slots)),
          .out = m.out<T>("kv", rows * kDim),
          .kv = m.in(normal<T>(rows * (kDim + 32), 25, 3.0)),
          .norm = m.in(test::normal(kDim, 26)),
          .positions = m.in(kv_positions),
          .rope = rope,
          .tokens = rows,
          .head_dim = kDim,
          .rope_dim = kRope,
          .eps = 1e-6f,
          .position_type = ops::PositionType::kInt64,
          .dtype = kDType<T>,
          .kv_stride = kDim + 32};
  p.kv.window.data = m.out<std::uint8_t>("window", pool_bytes(p.kv.window));

  const auto heads = static_cast<std::int32_t>(c.heads > 64 ? 64 : c.heads);
  const std::int64_t index_rows = c.tokens * heads;
  const std::int64_t code_bytes = c.index == CacheFormat::kIndexFp4   ? kIndex / 2
                                  : c.index == CacheFormat::kIndexFp8 ? kIndex
                                                                      : kIndex * std::int64_t{sizeof(T)};
  p.index = {.codes = m.out<std::uint8_t>("codes", index_rows * code_bytes),
             .weights_out = m.out<float>("weights", index_rows),
             .q = m.in(normal<T>(c.tokens * (heads * kIndex + 64), 27, 2.0)),
             .weights = m.in(normal<T>(c.tokens * (heads + 8), 28)),
             .positions = positions,
             .rope = rope,
             .tokens = c.tokens,
             .heads = heads,
             .dim = kIndex,
             .rope_dim = kRope,
             .format = c.index,
             .dtype = kDType<T>,
             .q_stride = heads * kIndex + 64,
             .weights_stride = heads + 8};
  if (c.index == CacheFormat::kIndexFp4) p.index.scales = m.out<std::uint8_t>("scales", index_rows * 4);
  return p;
}

template <class T>
void compare_case(Tally& tally, const Case& c) {
  tally.compare(name<T>("attn_q_proj", c), [&](const OpTable& f, Operands& m) {
    ops::AttnQProjParams p = parts<T>(c, m).q;
    return f.attn_q_proj(p, nullptr);
  });
  tally.compare(name<T>("attn_kv_proj", c),
                [&](const OpTable& f, Operands& m) { return f.attn_kv_proj(parts<T>(c, m).kv, nullptr); });
  tally.compare(name<T>("attn_index_prep", c), [&](const OpTable& f, Operands& m) {
    return f.attn_index_prep(parts<T>(c, m).index, nullptr);
  });
  tally.compare(name<T>("attn_qk_prep", c),
                [&](const OpTable& f, Operands& m) { return f.attn_qk_prep(parts<T>(c, m), nullptr); });
  tally.compare(name<T>("attn_qk_prep, no queries", c), [&](const OpTable& f, Operands& m) {
    ops::AttnQkPrepParams p = parts<T>(c, m);
    p.q.q = nullptr;
    return f.attn_qk_prep(p, nullptr);
  });
}

void refusals(Tally& tally) {
  const Case c = {3, 2, CacheFormat::kKv584, 53, CacheFormat::kIndexFp4};
  const auto refuse = [&](Code code, const char* text, auto change) {
    tally.refuse("attn_qk_prep", code, text, [&c, change](const OpTable& f, Operands& m) {
      ops::AttnQkPrepParams p = parts<bf16>(c, m);
      change(p);
      return f.attn_qk_prep(p, nullptr);
    });
  };
  refuse(Code::kInvalidArgument, "tokens", [](ops::AttnQkPrepParams& p) { p.q.tokens = -1; });
  refuse(Code::kInvalidArgument, "positions", [](ops::AttnQkPrepParams& p) { p.q.positions = nullptr; });
  refuse(Code::kInvalidArgument, "norm", [](ops::AttnQkPrepParams& p) { p.kv.norm = nullptr; });
  refuse(Code::kInvalidArgument, "page_rows", [](ops::AttnQkPrepParams& p) { p.kv.window.page_rows = 0; });
  refuse(Code::kInvalidArgument, "window.stride", [](ops::AttnQkPrepParams& p) { p.kv.window.stride = 16; });
  refuse(Code::kInvalidArgument, "codes", [](ops::AttnQkPrepParams& p) { p.index.codes = nullptr; });
  refuse(Code::kUnsupported, "head_dim", [](ops::AttnQkPrepParams& p) { p.q.head_dim = 576; });
}

}  // namespace

void compare_attn_proj(Tally& tally, bool small) {
  for (const Case& c : cases(small)) {
    compare_case<bf16>(tally, c);
    compare_case<float>(tally, c);
  }
  refusals(tally);
}

}  // namespace dsv4::gpu
