// Sparse attention of one token over two pools, in one softmax with a sink.
#pragma once

#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/core/coop.hpp>
#include <dsv4/core/math.hpp>
#include <dsv4/core/simd.hpp>
#include <dsv4/core/softmax.hpp>
#include <dsv4/core/types.hpp>
#include <dsv4/linear/dot.hpp>

#include <cmath>
#include <cstdint>

namespace dsv4::attention {

/// Selected rows of one pool.
///   pool   rows of [head_dim] (kv_cache.hpp)
///   idx    [count] i32; EVERY index outside [0, pool.slots) means "no entry": nothing behind it is read
template <class Pool>
struct Selection {
  Pool pool;
  const std::int32_t* idx;
  int count;
};

/// Rows decoded at a time.
inline constexpr int kKeyTile = 32;

/// f32 values that attend needs as scratch for `heads` heads and `count` selected rows of both pools
/// together.
DSV4_HD constexpr std::int64_t attend_scratch_floats(int heads, std::int64_t count, int head_dim) {
  return std::int64_t{kKeyTile} * head_dim + heads * (count + head_dim + 1) + count;
}

namespace detail {

// acc[h][d] += sum_j p[h][j] * v[j][d] for up to kKeyTile rows, j ascending, one fma a term.
template <Coop C>
DSV4_HD void accumulate(C coop, float* acc, const float* p, std::int64_t p_stride, const float* const* v,
                        int rows, int heads, int head_dim) {
#if DSV4_HOST_SIMD
  if constexpr (C::kSerial) {
    constexpr int kVectors = 4, kSpan = kVectors * simd::kWidth;
    DSV4_ASSERT(head_dim % kSpan == 0);
    const auto block = [&]<int kHeads>(int h, int d) {
      simd::f32x8 sum[kHeads][kVectors];
      for (int i = 0; i < kHeads; ++i)
        for (int u = 0; u < kVectors; ++u)
          sum[i][u] = simd::load(acc + (h + i) * head_dim + d + u * simd::kWidth);
      for (int j = 0; j < rows; ++j) {
        simd::f32x8 value[kVectors];
        for (int u = 0; u < kVectors; ++u) value[u] = simd::load(v[j] + d + u * simd::kWidth);
        for (int i = 0; i < kHeads; ++i) {
          const simd::f32x8 weight = simd::broadcast(p[(h + i) * p_stride + j]);
          for (int u = 0; u < kVectors; ++u) sum[i][u] = simd::fma(weight, value[u], sum[i][u]);
        }
      }
      for (int i = 0; i < kHeads; ++i)
        for (int u = 0; u < kVectors; ++u)
          simd::store(acc + (h + i) * head_dim + d + u * simd::kWidth, sum[i][u]);
    };
    for (int d = 0; d < head_dim; d += kSpan) {
      int h = 0;
      for (; h + 2 <= heads; h += 2) block.template operator()<2>(h, d);
      if (h < heads) block.template operator()<1>(h, d);
    }
    return;
  }
#endif
  for (int h = 0; h < heads; ++h)
    for (int d = coop.rank(); d < head_dim; d += coop.size())
      for (int j = 0; j < rows; ++j)
        acc[h * head_dim + d] = math::fma(p[h * p_stride + j], v[j][d], acc[h * head_dim + d]);
}

}  // namespace detail

/// Attention of ONE token's heads over the selected rows of two pools together (spec section 5, step 5):
///     s_j = (q[h] . e_j) * scale,   m = max_j s_j,   w_j = exp(s_j - m)
///     o[h] = round_T( sum_j round_T(w_j) e_j / (sum_j w_j + exp(sink[h] - m)) )
/// Every row is key and value. ONE softmax; the sink adds to the denominator once and carries no value;
/// nothing selected gives o = 0. The weights are rounded against the row's FINAL maximum for the values and
/// stay unrounded in the denominator.
///   o        [heads, head_dim] T
///   lse      [heads] f32, natural log, without the sink, -inf for an empty row; null = not wanted
///   q        [heads, head_dim] f32 (values of T)
///   sink     [heads] f32; -inf = none; any other value is legal
///   window, entries   selections; rows are taken in list order, window first
///   scale    f32, head_dim^-0.5
///   scratch  [attend_scratch_floats(heads, window.count + entries.count, head_dim)] f32, shared by the group
/// fp32; dots in canonical order, values added in list order. Indices that mean "no entry" are dropped first,
/// so padding changes no bit. head_dim must be a multiple of 32. Called by all threads of `coop`;
/// synchronises.
template <Coop C, class T, class WindowPool, class EntryPool>
DSV4_HD void attend(C coop, T* o, float* lse_or_null, const float* q, int heads, const float* sink,
                    const Selection<WindowPool>& window, const Selection<EntryPool>& entries, int head_dim,
                    float scale, float* scratch) {
  const std::int64_t listed = std::int64_t{window.count} + entries.count;
  float* decoded = scratch;                                   // [kKeyTile, head_dim]
  float* acc = decoded + std::int64_t{kKeyTile} * head_dim;   // [heads, head_dim]
  float* denominator = acc + std::int64_t{heads} * head_dim;  // [heads]
  float* weight = denominator + heads;                        // [heads, listed]: scores, then softmax weights
  std::int32_t* slot =
      reinterpret_cast<std::int32_t*>(weight + heads * listed);  // [listed]; an entry as -1 - slot
  static_assert(sizeof(float) == sizeof(std::int32_t), "the slots share the f32 scratch");

  int count = 0;
  const auto keep = [&](const std::int32_t* idx, int n, std::int64_t slots, bool is_entry) {
    for (int i = 0; i < n; ++i) {
      if (idx[i] < 0 || idx[i] >= slots) continue;
      if (coop.rank() == 0) slot[count] = is_entry ? -1 - idx[i] : idx[i];
      ++count;
    }
  };
  keep(window.idx, window.count, window.pool.slots, false);
  keep(entries.idx, entries.count, entries.pool.slots, true);
  for (std::int64_t i = coop.rank(); i < std::int64_t{heads} * head_dim; i += coop.size()) acc[i] = 0;
  coop.sync();

  // Rows j0 .. j0 + rows - 1 of the list, decoded; row(j) is where the j-th of them is.
  const auto decode = [&](int j0, int rows) {
    for (int j = coop.rank(); j < rows; j += coop.size()) {
      float* buffer = decoded + std::int64_t{j} * head_dim;
      const std::int32_t s = slot[j0 + j];
      s >= 0 ? window.pool.read(s, buffer) : entries.pool.read(-1 - std::int64_t{s}, buffer);
    }
    coop.sync();
  };
  const auto row = [&](int j0, int j) {
    const float* buffer = decoded + std::int64_t{j} * head_dim;
    const std::int32_t s = slot[j0 + j];
    return s >= 0 ? window.pool.view(s, buffer) : entries.pool.view(-1 - std::int64_t{s}, buffer);
  };

  for (int j0 = 0; j0 < count; j0 += kKeyTile) {  // scores
    const int rows = count - j0 < kKeyTile ? count - j0 : kKeyTile;
    decode(j0, rows);
    linear::dot_tile(
        coop, [&](int j) { return row(j0, j); }, rows, linear::RowsF32{q, head_dim}, heads, head_dim,
        [&](int j, int h, float dot) {
          if (coop.rank() == 0) weight[h * listed + j0 + j] = dot * scale;
        });
    coop.sync();
  }
  for (int h = 0; h < heads; ++h) {  // statistics, and weights against the final maximum
    float* w = weight + h * listed;
    softmax::State state;
    for (int j = 0; j < count; ++j) state.max = math::max(state.max, w[j]);
    coop.sync();
    for (int j = coop.rank(); j < count; j += coop.size()) w[j] = softmax::weight(w[j], state.max);
    coop.sync();
    state.sum = coop.reduce_sum(count, [w](float sum, int j) { return sum + w[j]; });
    if (coop.rank() == 0) denominator[h] = softmax::denominator(state, sink[h]);
    if (lse_or_null && coop.rank() == 0) lse_or_null[h] = softmax::lse(state);
    coop.sync();
    for (int j = coop.rank(); j < count; j += coop.size()) w[j] = round_to<T>(w[j]);
  }
  for (int j0 = 0; j0 < count; j0 += kKeyTile) {  // values
    const int rows = count - j0 < kKeyTile ? count - j0 : kKeyTile;
    decode(j0, rows);
    const float* v[kKeyTile];
    for (int j = 0; j < rows; ++j) v[j] = row(j0, j);
    detail::accumulate(coop, acc, weight + j0, listed, v, rows, heads, head_dim);
    coop.sync();
  }
  for (int h = 0; h < heads; ++h)
    for (int d = coop.rank(); d < head_dim; d += coop.size()) {
      const std::int64_t i = std::int64_t{h} * head_dim + d;
      o[i] = from_float<T>(acc[i] / denominator[h]);
    }
}

}  // namespace dsv4::attention
