// The NaN guard, a debug mode: which op wrote the first NaN, and where.
//
// In a library built with the CMake option DSV4_NAN_GUARD each op launches, behind its own kernels, kernels
// that look at its floating outputs (bf16, f32, and the NaN codes of e4m3 and UE8M0) and note the first NaN
// they find. In any other build ops contain nothing of it, and set_nan_guard returns kUnsupported.
//     NanGuardRecord* record;                       // memory of the kernels, zeroed
//     ops::set_nan_guard(record);                   // from now on, for ops that this host thread calls
//     ... ops on one stream, captured into a graph or not ...
//     // copy *record to the host, as any other result:
//     std::puts(ops::describe(copy).c_str());       // "attn_attend: o[3, 1042] is NaN"
// Only what an op wrote is looked at: rows of a plan, visible entries, slots in the pool; not padding, and
// not states of compressors, whose NaNs come out in entries. A score of an entry without a slot is a NaN by
// rule and passes. Infinities pass: lse and scores may hold them, and where one does harm a NaN follows. An
// op made of others (attn_out_proj) is looked at part by part, under the parts' names.
#pragma once

#include <dsv4/ops/common.hpp>

#include <cstdint>
#include <string>

namespace dsv4::ops {

/// What the guard found first. All bytes zero: nothing yet; zero it again to look again. For ops of ONE
/// stream: calls that run at the same time need a record each.
struct NanGuardRecord {
  const char* op = nullptr;      // null = nothing found. Host pointers to strings of the library: they mean
  const char* tensor = nullptr;  // something in the process that launched alone
  std::int64_t row = 0;          // of the output, e.g. the token; of a cache, the token that wrote there
  std::int64_t column = 0;       // channel within the row; of a cache's scales, behind its channels
  std::uint64_t nearest = 0;     // the guard's own, zero between launches, as is the next
  std::uint64_t arrived = 0;
};

/// One line for people; empty where nothing was found. `r` is a copy in host memory.
inline std::string describe(const NanGuardRecord& r) {
  if (!r.op) return {};
  return std::string(r.op) + ": " + r.tensor + "[" + std::to_string(r.row) + ", " + std::to_string(r.column) +
         "] is NaN";
}

inline namespace DSV4_FLAVOUR {
/// Ops that the calling host thread launches from here on note NaNs in *record; null = they do not look. The
/// record must live until what was launched has run, a graph's replays included. Errors: kUnsupported.
[[nodiscard]] DSV4_API Status set_nan_guard(NanGuardRecord* record_or_null) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
