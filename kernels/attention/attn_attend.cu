// Op attn_attend: checks and launches. The kernels: attn_attend_kernels.cuh.
#include "kernels/attention/attn_attend.hpp"

#include <dsv4/arch/launch.cuh>
#include <dsv4/ops/attn_attend.hpp>

#include "kernels/attention/attn_attend_f32.cuh"
#include "kernels/attention/attn_attend_kernels.cuh"
#include "kernels/common/checks.hpp"
#include "kernels/common/nan_guard.hpp"
#include "kernels/common/quantised.hpp"
#include "kernels/common/rope.hpp"

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

using kernels::Checks;
using kernels::kAttendRows;
using kernels::stride_or;
using kernels::Text;

template <Text kArgument, class C>
void check_selection_sizes(C& c, const AttendSelection& s, const AttnAttendParams& p) {
  c.template require<kArgument + Text(".kind"), "is unknown">(
      s.kind >= SelectionKind::kNone && s.kind <= SelectionKind::kEntries, static_cast<std::int64_t>(s.kind),
      0, Code::kUnsupported);
  if (s.kind == SelectionKind::kNone) return;
  c.template require<kArgument + Text(".pool.format"), "must be kRows or kKv584">(
      s.pool.format == CacheFormat::kRows || s.pool.format == CacheFormat::kKv584,
      static_cast<std::int64_t>(s.pool.format), 0, Code::kUnsupported);
  c.template require<kArgument + Text(".pool.dtype"), "must be the op's dtype">(
      s.pool.format != CacheFormat::kRows || s.pool.dtype == p.dtype, static_cast<std::int64_t>(s.pool.dtype),
      static_cast<std::int64_t>(p.dtype), Code::kUnsupported);
  if (!c.ok()) return;
  kernels::check_pool_sizes<kArgument + Text(".pool")>(c, s.pool, kernels::kAttendChannels);
  c.template require<kArgument + Text(".max_count"), "must be 0 .. 2^20">(
      s.max_count >= 0 && s.max_count <= kAttendRows, s.max_count, kAttendRows);
  if (s.kind == SelectionKind::kList) {
    c.template stride<kArgument + Text(".idx_stride")>(s.idx_stride, s.max_count);
    kernels::check_slot_type<kArgument + Text(".idx_type")>(c, s.idx_type);
    return;
  }
  kernels::check_page_table<kArgument + Text(".table")>(c, s.table);
  if (s.kind == SelectionKind::kWindow) {
    c.template require<kArgument + Text(".window"), "must be at least 1">(s.window >= 1, s.window, 1);
    c.template require<kArgument + Text(".max_count"), "must be the window">(s.max_count == s.window,
                                                                             s.max_count, s.window);
  } else {
    kernels::check_visible<kArgument + Text(".visible")>(c, s.visible);
  }
}

template <Text kArgument, class C>
void check_selection_pointers(C& c, const AttendSelection& s) {
  if (s.kind == SelectionKind::kNone || s.max_count == 0) return;
  kernels::check_pool_pointers<kArgument + Text(".pool")>(c, s.pool);
  if (s.kind == SelectionKind::kList) {
    c.template pointer<kArgument + Text(".idx")>(s.idx, kernels::slot_bytes(s.idx_type));
    c.template optional<kArgument + Text(".counts")>(s.counts, 4);
    return;
  }
  c.template optional<kArgument + Text(".table.pages")>(s.table.pages, 4);
  c.template optional<kArgument + Text(".table.sequence_of")>(s.table.sequence_of, 4);
  if (s.kind == SelectionKind::kEntries)
    kernels::check_visible_pointers<kArgument + Text(".visible")>(c, s.visible);
}

bool needs_positions(const AttnAttendParams& p) {
  return p.window.kind == SelectionKind::kWindow || p.entries.kind == SelectionKind::kWindow;
}

template <class C>
void check_sizes(C& c, const AttnAttendParams& p) {
  c.template require<"tokens", "must be 0 .. 2^31-1">(p.tokens >= 0 && p.tokens <= INT32_MAX, p.tokens,
                                                      INT32_MAX);
  c.template require<"heads", "must be 1 .. 128">(p.heads >= 1 && p.heads <= kernels::kAttendHeads, p.heads,
                                                  kernels::kAttendHeads);
  c.template require<"head_dim", "must be 512: no other is compiled">(
      p.head_dim == kernels::kAttendChannels, p.head_dim, kernels::kAttendChannels, Code::kUnsupported);
  c.template require<"dtype", "has no instance in this build">(
      p.dtype == DType::kBf16 || (kernels::kHasF32 && p.dtype == DType::kF32),
      static_cast<std::int64_t>(p.dtype), 0, Code::kUnsupported);
  if (!c.ok()) return;
  // A grid's x holds a block for every 8 heads at most.
  const std::int64_t slices = p.tokens * ((p.heads + 7) / 8);
  c.template require<"tokens", "times ceil(heads / 8) must be at most 2^31-1">(slices <= INT32_MAX, slices,
                                                                               INT32_MAX);
  const std::int64_t vector = p.dtype == DType::kF32 ? 4 : 8;
  c.template stride<"q_head_stride">(p.q_head_stride, p.head_dim, vector);
  c.template stride<"o_head_stride">(p.o_head_stride, p.head_dim, vector);
  const auto span = [&](std::int64_t head_stride) {  // of a token: no padding behind its last head
    return (p.heads - 1) * stride_or(head_stride, p.head_dim) + p.head_dim;
  };
  const auto token_stride = [&](std::int64_t given, std::int64_t head_stride) {
    return stride_or(given, p.heads * stride_or(head_stride, p.head_dim));
  };
  c.template stride<"q_stride">(token_stride(p.q_stride, p.q_head_stride), span(p.q_head_stride), vector);
  c.template stride<"o_stride">(token_stride(p.o_stride, p.o_head_stride), span(p.o_head_stride), vector);
  c.template stride<"lse_stride">(p.lse_stride, p.heads);
  check_selection_sizes<"window">(c, p.window, p);
  check_selection_sizes<"entries">(c, p.entries, p);
  if (p.rotate_back) {
    kernels::check_rope_sizes<"", "rope">(c, p.rope, p.rope_dim, p.position_type);
  } else if (needs_positions(p)) {
    c.template require<"position_type", "must be int32 or int64">(
        p.position_type == PositionType::kInt32 || p.position_type == PositionType::kInt64,
        static_cast<std::int64_t>(p.position_type), 0, Code::kUnsupported);
  }
  if (!p.quantised.codes) return;
  const std::int64_t row = std::int64_t{p.heads} * p.head_dim;
  c.template stride<"quantised.codes_stride">(p.quantised.codes_stride, row, 8);
  if (!c.ok()) return;
  c.merge(kernels::check_scales(
      {p.quantised.scales, p.quantised.scales_stride, p.quantised.scale_type, p.quantised.scale_layout},
      p.tokens, row / quant::kFp8LinearBlock, "attn_attend: quantised.scale_type is unknown",
      "attn_attend: quantised.scale_layout is unknown",
      "attn_attend: quantised.scales_stride must be at least the blocks (row-major) or the tokens "
      "(column-major)"));
}

template <class C>
void check_pointers(C& c, const AttnAttendParams& p) {
  c.template require<"o", "must not be null where nothing else is wanted">(p.o || p.quantised.codes);
  c.template optional<"o">(p.o, 16);
  c.template optional<"lse">(p.lse, 4);
  c.template pointer<"q">(p.q, 16);
  c.template optional<"sink">(p.sink, 4);
  if (p.quantised.codes) {
    c.template optional<"quantised.codes">(p.quantised.codes, 8);
    c.template pointer<"quantised.scales">(p.quantised.scales,
                                           p.quantised.scale_type == ScaleType::kF32 ? sizeof(float) : 1);
  }
  check_selection_pointers<"window">(c, p.window);
  check_selection_pointers<"entries">(c, p.entries);
  if (p.rotate_back)
    kernels::check_rope_pointers<"", "rope">(c, p.rope, p.positions, p.position_type);
  else if (needs_positions(p))
    c.template pointer<"positions">(p.positions, p.position_type == PositionType::kInt64 ? 8 : 4);
  const std::size_t needed = attn_attend_workspace_bytes(p);
  c.template require<"workspace_bytes", "must be at least attn_attend_workspace_bytes">(
      p.workspace_bytes >= needed, static_cast<std::int64_t>(p.workspace_bytes),
      static_cast<std::int64_t>(needed), Code::kWorkspaceTooSmall);
  if (needed > 0) c.template pointer<"workspace">(p.workspace, kWorkspaceAlignment);
}

}  // namespace

DSV4_OP(attn_attend, AttnAttendParams) {
  Checks<"attn_attend"> c;
  check_sizes(c, p);
  if (!c.ok() || p.tokens == 0) return c.status();
  check_pointers(c, p);
  if (!c.ok()) return c.status();
  const kernels::AttendArguments a = kernels::attend_arguments(p);
  Workspace workspace(p.workspace);
  if constexpr (kernels::kHasF32) {
    if (p.dtype == DType::kF32) {
      float* scratch = kernels::take_attend_scratch(workspace, p.tokens, p.heads, a.max_rows);
      return kernels::launch_attend_f32(a, scratch, a.window.max_count, stream);
    }
  }
  std::int64_t limit = 0;
  const Status s = arch::max_shared_bytes(limit);
  if (!s.ok()) return s;
  const std::int64_t groups = kernels::attend_groups(p);
  const kernels::AttendPlan plan =
      kernels::attend_plan(p.tokens, p.heads, a.window.packed && a.entries.packed, groups, limit);
  return kernels::launch_attend(a, plan, kernels::take_attend_parts(workspace, p.tokens, p.heads, groups),
                                stream);
}

std::size_t attn_attend_workspace_bytes(const AttnAttendParams& p) noexcept {
  const std::int64_t tokens = std::clamp<std::int64_t>(p.tokens, 0, INT32_MAX);
  const std::int64_t heads = std::clamp<std::int64_t>(p.heads, 0, kernels::kAttendHeads);
  Workspace workspace;
  if (p.dtype == DType::kF32)
    static_cast<void>(kernels::take_attend_scratch(
        workspace, tokens, heads, kernels::attend_max_rows(p.window) + kernels::attend_max_rows(p.entries)));
  else
    static_cast<void>(kernels::take_attend_parts(workspace, tokens, heads, kernels::attend_groups(p)));
  return workspace.bytes();
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
