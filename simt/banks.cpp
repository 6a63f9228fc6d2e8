#include "simt/banks.hpp"

#if defined(DSV4_SIMT_RACE)

#include "simt/machine.hpp"

#include <algorithm>
#include <unordered_map>
#include <vector>

namespace dsv4::simt::banks {
namespace {

constexpr std::uint32_t kBanks = 32, kBankBytes = 4;

// One instruction of a warp.
struct Request {
  std::uint32_t site = 0, repeat = 0;
  std::uint32_t lanes = 0;
  std::uint32_t bytes = 0;
  std::uint32_t offset[kWarp];
};

struct Lane {
  std::uint32_t phase = 0;  // barriers passed
  std::uint32_t repeats_phase = 0;
  std::unordered_map<std::uint32_t, std::uint32_t> repeats;  // of each site in this phase
};

struct WarpState {
  Lane lane[kWarp];
  // Not yet complete, by phase, site and repeat.
  std::unordered_map<std::uint64_t, Request> open;
};

struct State {
  std::vector<WarpState> warps;
  std::size_t warps_of_a_block = 0;
};
State& state() {
  static State s;
  return s;
}

WarpState& of(const Thread& t) {
  State& s = state();
  const auto block = static_cast<std::size_t>(t.block - t.block->gang->blocks[0]);  // they are one array
  return s.warps[block * s.warps_of_a_block + t.warp_id];
}

void count(const Request& r, Counters& counters) {
  const std::uint32_t words = std::max(1u, r.bytes / kBankBytes);
  const std::uint32_t part = kWarp / words;  // lanes served together
  for (std::uint32_t first = 0; first < kWarp; first += part) {
    std::uint32_t distinct[kBanks][kWarp], used[kBanks] = {}, most = 0;
    for (std::uint32_t lane = first; lane < first + part; ++lane) {
      if (!((r.lanes >> lane) & 1)) continue;
      for (std::uint32_t w = 0; w < words; ++w) {
        const std::uint32_t word = r.offset[lane] / kBankBytes + w, bank = word % kBanks;
        std::uint32_t* known = distinct[bank];
        if (std::find(known, known + used[bank], word) != known + used[bank]) continue;
        known[used[bank]++] = word;
        most = std::max(most, used[bank]);
      }
    }
    counters.shared_wavefronts += most;
    counters.shared_bank_conflicts += most ? most - 1 : 0;
  }
}

}  // namespace

void begin_gang(Gang& gang) {
  State& s = state();
  s.warps_of_a_block = gang.blocks[0]->warps.size();
  s.warps.clear();
  s.warps.resize(gang.blocks.size() * s.warps_of_a_block);
}

void end_gang(Gang& gang) {
  for (WarpState& w : state().warps) {
    for (const auto& [key, r] : w.open) count(r, gang.counters);
    w.open.clear();
  }
}

void converged(const Thread& t) { ++of(t).lane[t.lane].phase; }

void note(const Thread& t, const void* p, std::size_t bytes, std::uint32_t site) {
  if (bytes > 4 * kBankBytes) return;  // an aggregate: several instructions
  WarpState& w = of(t);
  Lane& lane = w.lane[t.lane];
  if (lane.repeats_phase != lane.phase) {
    lane.repeats.clear();
    lane.repeats_phase = lane.phase;
  }
  const std::uint32_t repeat = lane.repeats[site]++;
  const std::uint64_t key =
      (std::uint64_t{lane.phase} << 40) ^ (std::uint64_t{repeat} << 24) ^ std::uint64_t{site} * 0x9e3779b1u;
  Request& r = w.open[key];
  r.site = site;
  r.repeat = repeat;
  r.bytes = std::max(r.bytes, static_cast<std::uint32_t>(bytes));
  r.offset[t.lane] = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(p) & 0xffffffffu);
  r.lanes |= 1u << t.lane;
  if (r.lanes == kFullMask) {
    count(r, t.block->gang->counters);
    w.open.erase(key);
  }
}

}  // namespace dsv4::simt::banks

#endif
