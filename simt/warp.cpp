// Shuffles, votes, reductions and matches: the last lane of a mask to arrive computes for all.
#include "simt/machine.hpp"

namespace dsv4::simt {
namespace {

template <class F>
void for_each_lane(std::uint32_t mask, F&& f) {
  for (std::uint32_t m = mask; m; m &= m - 1) f(__builtin_ctz(m));
}

}  // namespace

// Few arguments, all in registers: a lane's switch away and back costs less than spilling more would.
std::uint64_t shuffle(std::uint32_t mask, std::uint64_t value, int source, const char* name, Loc loc) {
  struct Operand {
    std::uint64_t value, received;
    int source;
  } mine{value, value, source};
  meet(mask, kOpShuffle, name, &mine, loc, [&](void** operand, Warp&) {
    for_each_lane(mask, [&](int lane) {
      auto& to = *static_cast<Operand*>(operand[lane]);
      if (to.source < 0) return;
      if (!((mask >> to.source) & 1)) [[unlikely]]
        fail("%s: lane %d reads lane %d, which is not in mask 0x%08x (%s:%u)", name, lane, to.source, mask,
             loc.file, loc.line);
      to.received = static_cast<const Operand*>(operand[to.source])->value;
    });
  });
  return mine.received;
}

std::uint32_t ballot(std::uint32_t mask, bool predicate, const char* name, Loc loc) {
  std::uint32_t mine = predicate ? 1 : 0;
  meet(mask, kOpVote, name, &mine, loc, [&](void** operand, Warp&) {
    std::uint32_t votes = 0;
    for_each_lane(mask, [&](int i) { votes |= *static_cast<std::uint32_t*>(operand[i]) << i; });
    for_each_lane(mask, [&](int i) { *static_cast<std::uint32_t*>(operand[i]) = votes; });
  });
  return mine;
}

std::uint32_t reduce(std::uint32_t mask, std::uint32_t value, Reduce op, Loc loc) {
  const auto combine = [op](std::uint32_t a, std::uint32_t b) -> std::uint32_t {
    const auto sa = static_cast<std::int32_t>(a), sb = static_cast<std::int32_t>(b);
    switch (op) {
      case Reduce::kAdd:
        return a + b;
      case Reduce::kMinU:
        return a < b ? a : b;
      case Reduce::kMaxU:
        return a > b ? a : b;
      case Reduce::kMinS:
        return sa < sb ? a : b;
      case Reduce::kMaxS:
        return sa > sb ? a : b;
      case Reduce::kAnd:
        return a & b;
      case Reduce::kOr:
        return a | b;
      case Reduce::kXor:
        return a ^ b;
    }
    return 0;
  };
  meet(mask, kOpReduce + static_cast<std::uint32_t>(op), "redux.sync", &value, loc,
       [&](void** operand, Warp&) {
         std::uint32_t total = 0;
         bool first = true;
         for_each_lane(mask, [&](int i) {
           const std::uint32_t x = *static_cast<std::uint32_t*>(operand[i]);
           total = first ? x : combine(total, x);
           first = false;
         });
         for_each_lane(mask, [&](int i) { *static_cast<std::uint32_t*>(operand[i]) = total; });
       });
  return value;
}

namespace {
struct Match {
  std::uint64_t value;
  std::uint32_t lanes;
};
}  // namespace

std::uint32_t match_any(std::uint32_t mask, std::uint64_t value, Loc loc) {
  Match mine{value, 0};
  meet(mask, kOpMatch, "match.any", &mine, loc, [&](void** operand, Warp&) {
    for_each_lane(mask, [&](int i) {
      auto& x = *static_cast<Match*>(operand[i]);
      for_each_lane(mask, [&](int j) {
        x.lanes |= std::uint32_t{static_cast<Match*>(operand[j])->value == x.value} << j;
      });
    });
  });
  return mine.lanes;
}

std::uint32_t match_all(std::uint32_t mask, std::uint64_t value, Loc loc) {
  Match mine{value, 0};
  meet(mask, kOpMatch + 1, "match.all", &mine, loc, [&](void** operand, Warp&) {
    bool equal = true;
    for_each_lane(mask, [&](int i) { equal = equal && static_cast<Match*>(operand[i])->value == value; });
    for_each_lane(mask, [&](int i) { static_cast<Match*>(operand[i])->lanes = equal ? mask : 0; });
  });
  return mine.lanes;
}

bool elect(std::uint32_t mask, Loc loc) {
  bool mine = false;
  meet(mask, kOpElect, "elect.sync", &mine, loc,
       [&](void** operand, Warp&) { *static_cast<bool*>(operand[__builtin_ctz(mask)]) = true; });
  return mine;
}

void sync_warp(std::uint32_t mask, Loc loc) {
  meet(mask, kOpSync, "syncwarp", nullptr, loc, [&](void**, [[maybe_unused]] Warp& w) {
    if constexpr (race::kEnabled) race::warp_sync(w.lane, mask);
  });
}

}  // namespace dsv4::simt
