// How attn_attend's launcher reads its parameters. Its own header, so that tests can run a plan that the
// launcher would not choose on this device.
#pragma once

#include <dsv4/core/workspace.hpp>
#include <dsv4/ops/attn_attend.hpp>

#include "kernels/attention/attn_attend_kernels.cuh"
#include "kernels/common/quantised.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

inline constexpr std::int64_t kAttendRows = std::int64_t{1} << 20;  // of a selection
inline constexpr std::int64_t kAttendHeads = 128;

/// Rows that a token has at most; 0 of no selection, sizes out of range counting as the nearest in range.
inline std::int64_t attend_max_rows(const ops::AttendSelection& s) {
  return s.kind == ops::SelectionKind::kNone ? 0 : std::clamp<std::int64_t>(s.max_count, 0, kAttendRows);
}
inline std::int64_t attend_groups(const ops::AttnAttendParams& p) {
  return attend_groups(attend_max_rows(p.window), attend_max_rows(p.entries));
}

/// False for a selection whose rows are plain.
inline bool is_packed(const ops::AttendSelection& s) {
  return s.kind == ops::SelectionKind::kNone || s.pool.format == ops::CacheFormat::kKv584;
}

inline AttendSource attend_source(const ops::AttendSelection& s, const ops::AttnAttendParams& p) {
  AttendSource source = {};
  source.kind = s.kind;
  source.packed = is_packed(s);
  source.max_count = static_cast<std::int32_t>(attend_max_rows(s));
  if (s.kind == ops::SelectionKind::kNone) return source;
  if (source.packed)
    source.pages = page_pool<attention::KvPagePool>(s.pool);
  else
    source.rows = static_cast<const std::uint8_t*>(s.pool.data);
  source.row_bytes = stride_or(s.pool.stride, kAttendChannels) * (s.pool.dtype == ops::DType::kF32 ? 4 : 2);
  source.slots = s.pool.slots;
  source.idx = s.idx;
  source.wide_idx = s.idx_type == ops::SlotType::kInt64;
  source.counts_or_null = s.counts;
  source.idx_stride = stride_or(s.idx_stride, s.max_count);
  source.table = page_table(s.table);
  source.sequence_of_or_null = s.table.sequence_of;
  source.visible = visible(s.visible, s.max_count);
  source.positions = positions(p.positions, p.position_type);
  source.window = s.window;
  return source;
}

/// Of parameters that obey the op's rules.
inline AttendArguments attend_arguments(const ops::AttnAttendParams& p) {
  const std::int64_t q_head_stride = stride_or(p.q_head_stride, p.head_dim);
  const std::int64_t o_head_stride = stride_or(p.o_head_stride, p.head_dim);
  const std::int64_t row = std::int64_t{p.heads} * p.head_dim;
  const ScalesArgument scales = {p.quantised.scales, p.quantised.scales_stride, p.quantised.scale_type,
                                 p.quantised.scale_layout};
  return {.queries = {.q = static_cast<const bf16*>(p.q),
                      .stride = stride_or(p.q_stride, p.heads * q_head_stride),
                      .head_stride = q_head_stride,
                      .heads = p.heads,
                      .scale = p.scale},
          .q_f32 = static_cast<const float*>(p.q),
          .out = {.o_or_null = p.o,
                  .o_stride = stride_or(p.o_stride, p.heads * o_head_stride),
                  .o_head_stride = o_head_stride,
                  .codes_or_null = static_cast<e4m3*>(p.quantised.codes),
                  .codes_stride = stride_or(p.quantised.codes_stride, row),
                  .scales = scales_view(scales, p.tokens, row / quant::kFp8LinearBlock),
                  .lse_or_null = p.lse,
                  .lse_stride = stride_or(p.lse_stride, p.heads),
                  .sink_or_null = p.sink,
                  .empty_lse = p.empty_lse,
                  .rotate_back = p.rotate_back},
          .window = attend_source(p.window, p),
          .entries = attend_source(p.entries, p),
          .angles = angles(p.rope),
          .positions = positions(p.positions, p.position_type),
          .tokens = p.tokens,
          .max_rows = static_cast<std::int32_t>(attend_max_rows(p.window) + attend_max_rows(p.entries))};
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
