// Sparse attention of one token by tensor cores: a block takes a tile of its heads and the rows of a list, in
// groups of 128, and keeps the group as it was stored (FP8 codes in 576 bytes a row) in shared memory for the
// scores and for the values.
//
// Order of every sum, which depends on the token alone. The list is the window's rows, filled up with no rows
// to a multiple of 16, then the entries; groups of 128 follow each other from its beginning.
//   score    channels in eights of 64: a chain of four products from zero, scaled by the row's scale of these
//            channels, added in fp32; then times `scale`.
//   weights  of a group: against the larger of its own maximum and the first group's, whatever the other
//            groups hold; rounded to bf16 for the values, unrounded in the denominator. So a weight is
//            rounded against a maximum over 128 rows at least, nearly as if the final one were known.
//   values   of a group: one chain of products from zero over its rows, ascending.
//   groups   merged in ascending order (AttendState). Groups without any row are left out.
// So blocks that take a group each, score the first group again for its maximum, and leave their parts in
// memory for a merge give the same bits as one block that merges as it goes; and head tiles, ring sizes and
// row layouts change none either.
//
// With 64 heads a query fills the registers with accumulators, and its products keep tensor cores and shared
// memory busy alike: sharing the window's rows between neighbouring queries would need twice the accumulators
// and save nothing but reads that hit L2.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/cp_async.cuh>
#include <dsv4/attention/attend_block.cuh>
#include <dsv4/attention/attend_merge.cuh>
#include <dsv4/attention/attend_rows.cuh>
#include <dsv4/attention/attend_scores.cuh>
#include <dsv4/attention/attend_values.cuh>

#include <cstdint>

namespace dsv4::attention::inline DSV4_FLAVOUR {

/// A block's part of the work: kHeads (16, 32 or 64) heads of a token.
///   kPacked  all rows are 576 bytes of codes; else each pool's may be either, in 1024 bytes of shared memory
///   kHalves  2: half a group in shared memory at a time, the second half loaded twice; 16 heads alone. For
///            devices with little shared memory.
/// List names a token's rows by their position in the list:
///   int groups() const, steps(int group) const    steps of 16 positions that the group has
///   AttendRow row(int i) const                    data null = no row, beyond the end too
///   bool packed(int i) const                      the format, the same for the 16 positions of a step
template <int kHeads_, bool kPacked_, int kHalves_ = 1>
class AttendTile {
  using Cta = AttendBlock<kHeads_, kPacked_, kHalves_>;

 public:
  static constexpr int kHeads = kHeads_;
  static constexpr bool kPacked = kPacked_;
  static constexpr int kHalves = kHalves_;
  static constexpr int kThreads = Cta::kThreads;
  static constexpr int kListBytes = Cta::kListBytes;

  /// Bytes of a block's shared memory with a ring of `ring` rows.
  DSV4_HD static constexpr std::int64_t shared_bytes(int ring) { return Cta::shared_bytes(ring); }
  /// Rows of the ring: a group (or half), and as many of the next as fit in `limit` bytes.
  DSV4_HD static constexpr int ring_rows(std::int64_t limit) { return Cta::ring_rows(limit); }
  /// Where the kListBytes lie; 16-byte aligned.
  DSV4_DEVICE static std::uint8_t* list_memory(std::uint8_t* shared) { return shared + Cta::kListAt; }

  /// All groups, merged as they come, and what follows them.
  ///   out     an AttendOutput, or a kernel's own (finish_values)
  ///   angles  (int pair) -> math::SinCos of the token; called with out.rotate_back alone
  ///   shared  shared_bytes(ring), 16-byte aligned
  /// Called by all kThreads threads of a block; synchronises.
  template <class List, class Output, class Angles>
  DSV4_DEVICE static void run(const AttendQueries& q, const Output& out, std::int64_t token, int first_head,
                              const List& list, const Angles& angles, int ring, std::uint8_t* shared) {
    Cta cta = {q, token, first_head, ring, shared};
    typename Cta::Values values = {};
    const int groups = list.groups();
    walk<false>(
        cta, list, groups, [](int group) { return group + 1; }, groups,
        [&](int pass, const typename Cta::Part& part) { merge_values(cta, values, pass, part); });
    finish_values(cta, out, values, angles);
  }

  /// One group, left for the merge.
  template <class List>
  DSV4_DEVICE static void run_part(const AttendQueries& q, const AttendParts& parts, std::int64_t token,
                                   int first_head, const List& list, int group, int ring,
                                   std::uint8_t* shared) {
    Cta cta = {q, token, first_head, ring, shared};
    const int groups = list.groups();
    if (group >= groups) return;
    const bool present = walk<true>(
        cta, list, groups, [&](int g) { return g < group ? group : groups; }, group,
        [&](int pass, const typename Cta::Part& part) { store_part(cta, parts, group, pass, part); });
    if (cta.thread < kHeads && first_head + cta.thread < q.heads)
      parts.state[parts.at(token, group, q.heads, first_head + cta.thread)] =
          present ? softmax::State{cta.group_max()[cta.thread], cta.partial(0)[cta.thread]}
                  : softmax::State{-math::kInfinity, AttendParts::kAbsent};
  }

 private:
  // Walks over groups 0, next(0), ... and hands the values of those from `full` on to `use`; of others, the
  // maxima are taken alone (kSplit). True if group `full` has rows (kSplit).
  template <bool kSplit, class List, class Next, class Use>
  DSV4_DEVICE static bool walk(Cta& cta, const List& list, int groups, const Next& next, int full,
                               const Use& use) {
    AttendGroup now = {0, 0, 0, 0};
    if (cta.thread < kHeads) cta.first_max() = -math::kInfinity, cta.set_state({});
    find_rows(cta, now, list, groups, next);
    if (kHalves == 1 && now.number < groups) load_rows(cta, now, list, 0, now.steps * kAttendStep);
    load_queries(cta);
    bool present = false;
    while (now.number < groups) {
      AttendGroup then = {next(now.number), 0, now.buffer ^ 1, now.base + kAttendGroup};
      if (then.base >= cta.ring) then.base -= cta.ring;
      find_rows(cta, then, list, groups, next);
      cta.forget_addresses();
      typename Cta::Scores score;
      if constexpr (kHalves == 1) {
        arch::cp_async_wait_all();
        arch::sync_threads();
        if (then.number < groups) prefetch_rows(cta, then, list);
        if (cta.warp < now.steps) score_step(cta, score, now, list, cta.warp);
      } else {
        for (int half = (now.steps - 1) / (Cta::kRows / kAttendStep); half >= 0; --half) {
          load_half(cta, now, list, half);
          if (cta.warp < now.steps && cta.warp / (Cta::kRows / kAttendStep) == half)
            score_step(cta, score, now, list, cta.warp);
          arch::sync_threads();
        }
      }
      cta.forget_addresses();
      const bool maxima_alone = kSplit && now.number != full;
      take_maxima(cta, score, now, maxima_alone);
      if (!maxima_alone) {
        weigh_rows(cta, score, now);
        present = true;
        DSV4_UNROLL
        for (int pass = 0; pass < Cta::kPasses; ++pass) {
          cta.forget_addresses();
          typename Cta::Part part = {};
          for (int step = 0; step < now.steps; ++step) {
            if (kHalves > 1 && step > 0 && step % (Cta::kRows / kAttendStep) == 0) {
              arch::sync_threads();
              load_half(cta, now, list, step / (Cta::kRows / kAttendStep));
            }
            add_values(cta, part, now, pass, step,
                       kPacked || list.packed(now.number * kAttendGroup + step * kAttendStep));
          }
          use(pass, part);
        }
      }
      arch::sync_threads();  // everyone is done with the rows and with the statistics
      if (kHalves == 1 && then.number < groups) {
        const int early = cta.ring - Cta::kRows, rows = then.steps * kAttendStep;
        if (early < rows) load_rows(cta, then, list, early, rows);
      }
      now = then;
    }
    return present;
  }
};

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
