// The f32 instance of attn_attend: a warp takes kHeads heads of a token and runs the primitive, for its bits.
#pragma once

#include <dsv4/arch/coop.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/pdl.cuh>
#include <dsv4/attention/attend.hpp>
#include <dsv4/attention/attend_finish.cuh>
#include <dsv4/core/workspace.hpp>

#include "kernels/attention/attn_attend_kernels.cuh"

#include <algorithm>
#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

/// Scratch of a warp.
struct AttendScratch {
  static constexpr int kHeads = 8;
  static constexpr std::int64_t kWarps = 128;  // in flight, at most

  float *primitive, *q, *o;  // [.], [kHeads, 512], [kHeads, 512]
  float *sink, *lse;         // [kHeads]
  std::int32_t *window_slots, *entry_slots;

  DSV4_HD static constexpr std::int64_t floats(std::int64_t max_rows) {
    return attention::attend_scratch_floats(kHeads, max_rows, kAttendChannels) +
           2 * kHeads * kAttendChannels + 2 * kHeads + max_rows;
  }
  DSV4_DEVICE AttendScratch(float* memory, std::int64_t max_window, std::int64_t max_rows) {
    q = memory;  // first, since its rows are read and written as vectors
    o = q + kHeads * kAttendChannels;
    sink = o + kHeads * kAttendChannels;
    lse = sink + kHeads;
    window_slots = reinterpret_cast<std::int32_t*>(lse + kHeads);
    entry_slots = window_slots + max_window;
    primitive = reinterpret_cast<float*>(window_slots + max_rows);
  }
};

/// Work of the f32 instance: heads in slices, and how many warps share it.
struct AttendF32Work {
  std::int64_t slices, items, warps;
};
inline AttendF32Work attend_f32_work(std::int64_t tokens, std::int64_t heads) {
  const std::int64_t slices = (heads + AttendScratch::kHeads - 1) / AttendScratch::kHeads;
  return {slices, tokens * slices, std::min(tokens * slices, AttendScratch::kWarps)};
}

/// f(pool) for the pool behind a source.
template <class F>
DSV4_DEVICE void with_f32_pool(const AttendSource& s, const F& f) {
  if (s.packed)
    f(s.pages);
  else
    f(attention::RowPool<const float>{reinterpret_cast<const float*>(s.rows),
                                      s.row_bytes / static_cast<std::int64_t>(sizeof(float)), s.slots,
                                      kAttendChannels});
}

template <class T>
DSV4_KERNEL(arch::kWarpThreads)
attn_attend_f32_kernel(const DSV4_GRID_CONSTANT AttendArguments a, float* scratch, std::int32_t max_window,
                       AttendF32Work work) {
  arch::wait_for_previous_grid();
  DSV4_SHARED(math::SinCos[attention::AttendOutput::kRopePairs], angles);
  const int lane = arch::lane_id();
  const AttendScratch s(scratch + arch::block_idx().x * AttendScratch::floats(a.max_rows), max_window,
                        a.max_rows);
  for (std::int64_t item = arch::block_idx().x; item < work.items; item += work.warps) {
    const std::int64_t token = item / work.slices;
    const int first = static_cast<int>(item % work.slices) * AttendScratch::kHeads;
    const int heads =
        a.queries.heads - first < AttendScratch::kHeads ? a.queries.heads - first : AttendScratch::kHeads;
    const AttendSections list = AttendSections::of(a.window, a.entries, token);
    for (int i = lane; i < list.window.count; i += arch::kWarpThreads)
      s.window_slots[i] = static_cast<std::int32_t>(a.window.slot(list.window, i));
    for (int i = lane; i < list.entries.count; i += arch::kWarpThreads)
      s.entry_slots[i] = static_cast<std::int32_t>(a.entries.slot(list.entries, i));
    for (int h = 0; h < heads; ++h) {
      const float* q = a.q_f32 + token * a.queries.stride + (first + h) * a.queries.head_stride;
      for (int d = lane; d < kAttendChannels; d += arch::kWarpThreads) s.q[h * kAttendChannels + d] = q[d];
    }
    if (lane < heads) s.sink[lane] = a.out.sink_or_null ? a.out.sink_or_null[first + lane] : -math::kInfinity;
    if (a.out.rotate_back) angles[lane] = AttendAngles{a.angles, a.positions, token}(lane);
    arch::sync_warp();
    with_f32_pool(a.window, [&](const auto& window) {
      with_f32_pool(a.entries, [&](const auto& entries) {
        using Window = std::remove_cvref_t<decltype(window)>;
        using Entries = std::remove_cvref_t<decltype(entries)>;
        attention::attend(arch::WarpCoop{}, s.o, s.lse, s.q, heads, s.sink,
                          attention::Selection<Window>{window, s.window_slots, list.window.count},
                          attention::Selection<Entries>{entries, s.entry_slots, list.entries.count},
                          kAttendChannels, a.queries.scale, s.primitive);
      });
    });
    arch::sync_warp();
    if (a.out.lse_or_null && lane < heads)
      a.out.lse_or_null[token * a.out.lse_stride + first + lane] =
          s.lse[lane] == -math::kInfinity ? a.out.empty_lse : s.lse[lane];
    for (int h = 0; h < heads; ++h) {
      attention::Octet<T> v[2];
      DSV4_UNROLL
      for (int i = 0; i < 16; ++i)
        v[i / 8][i % 8] = s.o[h * kAttendChannels + i / 8 * 256 + lane * 8 + i % 8];
      a.out.put(token, first + h, v, angles);
    }
    arch::sync_warp();
  }
}

inline float* take_attend_scratch(Workspace& workspace, std::int64_t tokens, std::int64_t heads,
                                  std::int64_t max_rows) {
  return workspace.take<float>(attend_f32_work(tokens, heads).warps * AttendScratch::floats(max_rows));
}

inline Status launch_attend_f32(const AttendArguments& a, float* scratch, std::int32_t max_window,
                                Stream stream) noexcept {
  const AttendF32Work work = attend_f32_work(a.tokens, a.queries.heads);
  return arch::launch("attn_attend", attn_attend_f32_kernel<float>,
                      {.grid = {static_cast<unsigned>(work.warps), 1, 1},
                       .block = {arch::kWarpThreads, 1, 1},
                       .overlap_previous = true},
                      stream, a, scratch, max_window, work);
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
