// wgmma: descriptors, operands in shared memory, and execution by warps.
#include <dsv4/simt/wgmma.hpp>

#include "simt/machine.hpp"
#include "simt/rounding.hpp"
#include "simt/wgmma.hpp"

#include <dsv4/core/types.hpp>

#include <algorithm>
#include <array>
#include <cstring>

namespace dsv4::simt {
namespace {

constexpr int kRows = 16;  // of a warp
constexpr int kMaxK = 32, kMaxColumns = 256;

Warpgroup& warpgroup_of(Thread& t) { return t.block->warpgroups[t.warp_id / 4]; }

// ---- operands in shared memory ---------------------------------------------------------------------------
// PTX ISA, "Matrix Descriptor Format" and "Strides":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#asynchronous-warpgroup-level-matrix-shared-memory-layout
struct Tile {
  std::uint32_t start, leading, stride;  // bytes
  std::uint32_t mode;                    // log2 of the 16-byte chunks that the swizzle permutes
};

Tile decode(std::uint64_t descriptor) {
  constexpr std::uint32_t kModes[4] = {0, 3, 2, 1};
  const auto field = [descriptor](int bit) {
    return static_cast<std::uint32_t>(descriptor >> bit & 0x3fff) << 4;
  };
  return {field(0), field(16), field(32), kModes[descriptor >> 62]};
}

void check_tile(const Wgmma& w, std::uint64_t descriptor, bool mn_major, const char* operand, Loc loc) {
  const Tile t = decode(descriptor);
  const auto reject = [&](const char* what) {
    fail("wgmma: operand %s: %s (%s:%u)", operand, what, loc.file, loc.line);
  };
  if (descriptor >> 49 & 7) reject("a base offset is not modelled");
  const std::uint32_t row = 16u << t.mode;
  if (t.mode && t.start % (8 * row) >= row)
    reject("the tile does not begin where the swizzle's pattern of 8 rows does");
  if (mn_major && w.e4m3) reject("e4m3 has to be K-major");
  if (mn_major && !t.mode) reject("MN-major without swizzle is not modelled");
}

std::uint32_t swizzled(std::uint32_t mode, std::uint32_t address) {
  return address ^ ((address >> 3) & (((16u << mode) - 1) & 0x70u));
}

// Calls chunk(address, row, k) for the 16-byte chunks of rows [first, first + rows) of a tile that is k_bytes
// wide: `row` and `k` (in elements of `bytes` bytes) of the chunk's first element, along k if K-major, else
// along rows.
template <class Chunk>
void for_each_chunk(std::uint64_t descriptor, bool mn_major, int bytes, int first, int rows, Chunk&& chunk) {
  const Tile t = decode(descriptor);
  const std::uint32_t pitch = 16u << t.mode;
  if (!mn_major) {
    const std::uint32_t next = t.mode ? 16 : t.leading;
    for (int r = first; r < first + rows; ++r)
      for (std::uint32_t c = 0; c < 2; ++c) {
        const auto row = static_cast<std::uint32_t>(r);
        chunk(swizzled(t.mode, t.start + row / 8 * t.stride + row % 8 * pitch + c * next), r,
              static_cast<int>(c) * 16 / bytes);
      }
  } else {
    for (std::uint32_t k = 0; k < 16; ++k)
      for (int r = first; r < first + rows; r += 8) {
        const auto column = static_cast<std::uint32_t>(r) / 8, width = 1u << t.mode;
        chunk(swizzled(t.mode, t.start + column % width * 16 + column / width * t.leading + k % 8 * pitch +
                                   k / 8 * t.stride),
              r, static_cast<int>(k));
      }
  }
}

const std::array<float, 256> kE4m3Values = [] {
  std::array<float, 256> values{};
  for (unsigned i = 0; i < 256; ++i) values[i] = to_float(e4m3{static_cast<std::uint8_t>(i)});
  return values;
}();

// out[row * row_step + k * k_step] = element of rows [first, first + rows); row counts from `first`.
void load_tile(Block& b, const Wgmma& w, bool is_b, int first, int rows, float* out, int row_step, int k_step,
               Loc loc) {
  const bool mn_major = is_b ? w.b_mn_major : w.a_mn_major;
  const int element_step = mn_major ? row_step : k_step;
  const auto load = [&](std::uint32_t address, int row, int k) {
    const std::byte* p = b.shared + (address - kSharedWindow);
    if (address < kSharedWindow || address - kSharedWindow + 16 > b.dynamic_bytes) [[unlikely]]
      p = shared_pointer(b, address, 16, "wgmma", loc);
    float* to = out + (row - first) * row_step + k * k_step;
    if (w.e4m3) {
      for (int e = 0; e < 16; ++e) to[e * element_step] = kE4m3Values[std::to_integer<unsigned>(p[e])];
    } else {
      std::uint16_t bits[8];
      std::memcpy(bits, p, sizeof bits);
      for (int e = 0; e < 8; ++e) to[e * element_step] = bits_as<float>(std::uint32_t{bits[e]} << 16);
    }
  };
  for_each_chunk(is_b ? w.b_tile : w.a_tile, mn_major, w.e4m3 ? 1 : 2, first, rows, load);
}

// What a warp reads of shared memory, as far as the race detector cares.
[[maybe_unused]] void report_reads(Thread& t, const Wgmma& w, Loc loc) {
  const race::Clock now = race::snapshot(t);
  const auto report = [&](std::uint32_t address, int, int) {
    race::async_shared_access(t, now, shared_pointer(*t.block, address, 16, "wgmma", loc), 16, false, loc);
  };
  const int bytes = w.e4m3 ? 1 : 2;
  const int first = kRows * static_cast<int>(t.warp_id % 4);
  if (!w.a_in_registers) for_each_chunk(w.a_tile, w.a_mn_major, bytes, first, kRows, report);
  for_each_chunk(w.b_tile, w.b_mn_major, bytes, 0, w.n, report);
}

// ---- fragments -------------------------------------------------------------------------------------------
WgmmasInFlight& of(Thread& t) { return t.async.wgmma; }

float* values_of(WgmmasInFlight& f, const float* d) {
  const auto is_d = [d](const WgmmasInFlight::Accumulator& a) { return a.d == d; };
  return f.values.data() + std::find_if(f.accumulators.begin(), f.accumulators.end(), is_d)->offset;
}

// D, 16 x n, from the warp's fragments or back.
template <bool kLoad>
void move_accumulators(Warp& warp, std::size_t issue, int n, float* matrix) {
  for (int l = 0; l < 32; ++l) {
    WgmmasInFlight& f = of(*warp.lane[l]);
    float* values = values_of(f, f.issues[issue].d);
    float* row = matrix + l / 4 * n + 2 * (l % 4);
    for (int j = 0; j < n / 8; ++j)
      for (int half = 0; half < 2; ++half) {
        float* from = values + 4 * j + 2 * half;
        float* to = row + 8 * half * n + 8 * j;
        std::memcpy(kLoad ? to : from, kLoad ? from : to, 2 * sizeof(float));
      }
  }
}

void load_registers(Warp& warp, std::size_t issue, bool is_e4m3, float* a, int k) {
  const int per_register = is_e4m3 ? 4 : 2;
  for (int l = 0; l < 32; ++l)
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t bits = of(*warp.lane[l]).issues[issue].a[i];
      float* to = a + (l / 4 + 8 * (i & 1)) * k + per_register * (l % 4) + k / 2 * (i >> 1);
      for (int e = 0; e < per_register; ++e)
        to[e] = is_e4m3 ? kE4m3Values[bits >> (8 * e) & 255] : bits_as<float>(bits >> (16 * e) << 16);
    }
}

// ---- execution -------------------------------------------------------------------------------------------
// Executes the warp's issues [begin, end), on which its lanes agree.
void execute(Warp& warp, std::size_t begin, std::size_t end) {
  static thread_local float a[kRows * kMaxK], b[kMaxK * kMaxColumns], d[kRows * kMaxColumns];
  Thread& t = *warp.lane[0];
  Warpgroup& group = warpgroup_of(t);
  std::uint64_t& executed = group.executed[t.warp_id % 4];
  const Rounding rounding = t.block->gang->options->rounding;
  for (std::size_t i = begin; i < end; ++i, ++executed) {
    const auto& [w, loc] = group.calls[executed - group.first];
    const int n = w.n, k = w.e4m3 ? 32 : 16;
    if constexpr (race::kEnabled) report_reads(t, w, loc);
    const auto& issues = of(t).issues;
    if (i == begin || issues[i - 1].d != issues[i].d) move_accumulators<true>(warp, i, n, d);
    if (!w.accumulate) std::fill_n(d, kRows * n, 0.0f);
    if (w.a_in_registers)
      load_registers(warp, i, w.e4m3, a, k);
    else
      load_tile(*t.block, w, false, kRows * static_cast<int>(t.warp_id % 4), kRows, a, k, 1, loc);
    load_tile(*t.block, w, true, 0, n, b, 1, n, loc);
    multiply_accumulate(wgmma_sums(rounding, w.e4m3 ? MatrixElement::kE4m3 : MatrixElement::kBf16), kRows, n,
                        k, a, b, d);
    if (i + 1 == end || issues[i + 1].d != issues[i].d) move_accumulators<false>(warp, i, n, d);
  }
  // What all four warps have executed need not be remembered.
  const std::uint64_t done = *std::min_element(group.executed, group.executed + 4);
  group.calls.erase(group.calls.begin(),
                    group.calls.begin() + static_cast<std::ptrdiff_t>(done - group.first));
  group.first = done;
}

// Gives a lane its accumulators back, but those that later instructions still use.
void finish(WgmmasInFlight& f, std::size_t count) {
  f.issues.erase(f.issues.begin(), f.issues.begin() + static_cast<std::ptrdiff_t>(count));
  std::erase_if(f.accumulators, [&f](const WgmmasInFlight::Accumulator& a) {
    for (const auto& issue : f.issues)
      if (issue.d == a.d) return false;
    std::memcpy(a.d, f.values.data() + a.offset, a.count * sizeof(float));
    return true;
  });
  if (f.accumulators.empty()) f.values.clear();
}

// The warp meets; its groups before the `keep` newest are executed where `now` says so.
template <class Now>
void meet_and_execute(std::uint32_t op, const char* name, std::uint32_t keep, bool finishes, Loc loc,
                      Now now) {
  WgmmasInFlight& mine = of(*current);
  const auto ready = [keep](const WgmmasInFlight& f) {
    std::size_t n = 0;
    while (n < f.issues.size() && f.issues[n].group + keep < f.commits) ++n;
    return n;
  };
  meet(kFullMask, op, name, nullptr, loc, [&](void**, Warp& warp) {
    const WgmmasInFlight& first = of(*warp.lane[0]);
    for (std::uint32_t l = 1; l < kWarp; ++l) {
      const WgmmasInFlight& other = of(*warp.lane[l]);
      if (other.issued != first.issued || other.commits != first.commits)
        fail("%s: lanes 0 and %u of warp %u have issued %llu and %llu wgmmas in %u and %u groups (%s:%u)",
             name, l, current->warp_id, static_cast<unsigned long long>(first.issued),
             static_cast<unsigned long long>(other.issued), first.commits, other.commits, loc.file, loc.line);
    }
    const std::size_t pending = first.issues.size();
    const Warpgroup& group = warpgroup_of(*warp.lane[0]);
    const std::uint64_t executed = group.executed[current->warp_id % 4];
    const auto already = static_cast<std::size_t>(executed - (first.issued - pending));
    const std::size_t end = ready(first);
    if (end > already && now()) execute(warp, already, end);
  });
  if (finishes) finish(mine, ready(mine));
}

}  // namespace

void wgmma_fence() { of(*current).fenced = true; }

void wgmma(const Wgmma& instruction, float* d, const std::uint32_t* a, Loc loc) {
  Thread& t = *current;
  if ((t.warp_id / 4 + 1) * 4 * kWarp > t.block->thread_count)
    fail("wgmma: the warpgroup of warp %u is not whole (%s:%u)", t.warp_id, loc.file, loc.line);
  WgmmasInFlight& f = of(t);
  if (!f.fenced)
    fail("wgmma without wgmma_fence since the start or the last wgmma_wait (%s:%u)", loc.file, loc.line);
  Warpgroup& group = warpgroup_of(t);
  if (f.issued == group.first + group.calls.size()) {
    if (group.exited) fail("wgmma: a thread of the warpgroup has exited (%s:%u)", loc.file, loc.line);
    if (!instruction.a_in_registers)
      check_tile(instruction, instruction.a_tile, instruction.a_mn_major, "A", loc);
    check_tile(instruction, instruction.b_tile, instruction.b_mn_major, "B", loc);
    group.calls.push_back({instruction, loc});
    ++t.block->gang->counters.wgmma;
  } else if (const auto& call = group.calls[f.issued - group.first]; !(call.instruction == instruction)) {
    fail(
        "wgmma: threads of a warpgroup disagree on an instruction or a descriptor: another issued %s n %u at "
        "%s:%u (A 0x%llx, B 0x%llx), this one %s n %u at %s:%u (A 0x%llx, B 0x%llx)",
        call.instruction.e4m3 ? "e4m3" : "bf16", call.instruction.n, call.loc.file, call.loc.line,
        static_cast<unsigned long long>(call.instruction.a_tile),
        static_cast<unsigned long long>(call.instruction.b_tile), instruction.e4m3 ? "e4m3" : "bf16",
        instruction.n, loc.file, loc.line, static_cast<unsigned long long>(instruction.a_tile),
        static_cast<unsigned long long>(instruction.b_tile));
  }
  ++f.issued;
  WgmmasInFlight::Issue issue{d, {}, f.commits};
  if (a) std::memcpy(issue.a, a, sizeof issue.a);
  f.issues.push_back(issue);
  if constexpr (race::kEnabled)
    if (t.lane == 0) report_reads(t, instruction, loc);
  const std::uint32_t count = instruction.n / 2u;
  bool in_flight = false;
  for (const auto& x : f.accumulators) {
    if (d + count <= x.d || x.d + x.count <= d) continue;
    if (d != x.d || count != x.count)
      fail("wgmma: the accumulators overlap others in flight, of another shape (%s:%u)", loc.file, loc.line);
    in_flight = true;
  }
  if (!in_flight) {
    f.accumulators.push_back({d, count, f.values.size()});
    f.values.insert(f.values.end(), d, d + count);
    if (t.block->gang->options->poison) std::memset(d, 0xff, count * sizeof(float));
  }
}

void wgmma_commit(Loc loc) {
  Gang& gang = *current->block->gang;
  ++of(*current).commits;
  if (gang.options->async != Async::kLazy)
    meet_and_execute(kOpWgmmaCommit, "wgmma.commit_group", 0, false, loc,
                     [&gang] { return execute_at_issue(gang); });
}

void wgmma_wait(std::uint32_t groups, Loc loc) {
  meet_and_execute(kOpWgmmaWait + groups, "wgmma.wait_group", groups, true, loc, [] { return true; });
  of(*current).fenced = false;
}

void check_wgmmas_finished(Thread& t) {
  const WgmmasInFlight& f = of(t);
  if (t.warp_id / 4 >= t.block->warpgroups.size()) return;
  Warpgroup& group = warpgroup_of(t);
  if (!f.issues.empty())
    fail("wgmma: this thread exited without waiting for %zu of its wgmmas", f.issues.size());
  if (f.issued != group.first + group.calls.size())
    fail("wgmma: this thread exited after %llu wgmmas, others of its warpgroup have issued %llu",
         static_cast<unsigned long long>(f.issued),
         static_cast<unsigned long long>(group.first + group.calls.size()));
  group.exited = true;
}

}  // namespace dsv4::simt
