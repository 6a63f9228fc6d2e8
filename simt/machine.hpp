// The machine's own structures. A gang is a set of co-resident blocks: one block, a cluster, a cooperative
// grid, or as many as options().resident_blocks asks for. Its CUDA threads are fibers of ONE operating-system
// thread and never migrate, so a thread_local address that the compiler keeps across a switch stays valid;
// gangs are spread over the cores.
#pragma once

#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/device.hpp>
#include <dsv4/simt/fiber.hpp>
#include <dsv4/simt/options.hpp>

#include "simt/async.hpp"
#include "simt/race.hpp"

#include <atomic>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace dsv4::simt {

inline constexpr std::uint32_t kWarp = 32;
inline constexpr std::uint32_t kFullMask = 0xffffffffu;
inline constexpr std::uint32_t kBarriers = 16;         // named barriers of a block
inline constexpr std::uint32_t kSharedWindow = 0x400;  // shared address of dynamic byte 0, as on sm_90
inline constexpr std::size_t kMaxDynamicShared = 227u << 10;
inline constexpr std::size_t kStaticShared = 64u << 10;  // room for static shared variables
inline constexpr std::size_t kRedZone = 64;              // between and after them

struct Warp;
struct Block;
struct Gang;

enum class State : std::uint8_t { kReady, kRunning, kWaiting, kDone };

/// One CUDA thread. What a switch touches comes first, in two cache lines.
struct alignas(64) Thread {
  Context context;
  Warp* warp = nullptr;
  Block* block = nullptr;
  Thread* next_waiter = nullptr;
  std::uint32_t lane = 0;
  State state = State::kReady;
  bool fresh = true;  // has not run yet
  // What it waits for, for reports.
  const char* wait_name = "";
  Loc wait_loc;
  std::uint64_t wait_a = 0, wait_b = 0;

  std::uint32_t linear = 0;  // in its block
  std::uint32_t warp_id = 0;
  Index3 idx;
  AsyncState async;  // its cp.async, bulk and wgmma groups in flight
  // What an ordered load or a failed compare-and-swap found last, to tell a spin.
  const void* polled = nullptr;
  std::uint64_t polled_value = 0;
};

/// A rendezvous of some lanes: one operation at one mask.
struct Rendezvous {
  std::uint32_t mask = 0, arrived = 0;
  std::uint32_t op = 0;
  const char* name = "";
  Loc loc;
};

struct Warp {
  Thread* lane[kWarp] = {};
  std::uint32_t alive = 0;  // lanes that exist and have not exited
  std::uint32_t pending_count = 0;
  Rendezvous pending[kWarp];                              // disjoint masks progress independently
  std::uint32_t register_changes = 0, max_registers = 0;  // setmaxnreg executed, and the last one's count
  void* operand[kWarp] = {};
};

struct Barrier {
  std::uint32_t expected = 0, arrived = 0;
  bool whole_block = false;
  BarrierReduce reduce = BarrierReduce::kNone;
  int accumulated = 0, result = 0;
  Loc loc;
  Thread* waiters = nullptr;
  Thread** tail = nullptr;
  race::Clock clock;
};

struct Block {
  Gang* gang = nullptr;
  Index3 idx;
  std::uint32_t rank = 0;  // in the gang; of a cluster launch: in the cluster
  std::uint32_t thread_count = 0, alive = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<Warpgroup> warpgroups;
  Barrier barriers[kBarriers];
  ClusterBarrier cluster_barrier;  // of its cluster, in the first block of one
  // Shared memory: one arena, the dynamic part first, then a red zone, then static variables.
  std::byte* shared = nullptr;
  std::size_t dynamic_bytes = 0, shared_bytes = 0, static_top = 0;
  std::vector<std::pair<const void*, std::byte*>> statics;
  std::map<std::uint32_t, Mbarrier> mbarriers;  // initialised ones, by shared address
};

struct Worker;

struct Gang {
  const Launch* launch = nullptr;
  const Options* options = nullptr;
  std::uint32_t number = 0;  // in the launch
  std::vector<Block*> blocks;
  std::vector<Thread*> ring;  // of threads that can run; its size is a power of two
  std::uint64_t head = 0, tail = 0;
  std::uint64_t alive = 0;
  std::uint64_t polls = 0;  // since anything progressed
  int all_polled = 0;       // times that the gangs of all OS threads were found polling
  bool had_company = false;
  std::deque<std::function<void()>> deferred;
  Context main;
  bool failed = false;
  std::string error;
  std::mt19937_64 random;
  Counters counters;
};

/// The CUDA thread that runs on this OS thread; null on the host's side of a launch.
extern thread_local constinit Thread* current;
/// OS threads that have gangs of the launch to execute.
extern std::atomic<int> busy_workers;

// ---- scheduling ------------------------------------------------------------------------------------------
inline void make_ready(Gang& gang, Thread& t) {
  t.state = State::kReady;
  gang.ring[gang.tail++ & (gang.ring.size() - 1)] = &t;
}
namespace detail {
// Nothing is ready: deferred work is done, the latest legal moment; with none left it is a DEADLOCK.
void run_until_ready(Gang& gang);
inline Thread& pop_ready(Gang& gang) {
  if (gang.head == gang.tail) [[unlikely]]
    run_until_ready(gang);
  const std::uint64_t mask = gang.ring.size() - 1;
  if (gang.options->schedule == Schedule::kLifo) return *gang.ring[--gang.tail & mask];
  if (gang.options->schedule == Schedule::kRandom)
    std::swap(gang.ring[gang.head & mask],
              gang.ring[(gang.head + gang.random() % (gang.tail - gang.head)) & mask]);
  return *gang.ring[gang.head++ & mask];
}
[[gnu::always_inline]] inline void switch_to(Thread& from, Thread& to, bool dying) {
  to.state = State::kRunning;
  to.fresh = false;
  current = &to;
  ++to.block->gang->counters.switches;
  switch_context(from.context, to.context, dying);
}
}  // namespace detail
/// The caller, already on somebody's list of waiters, sleeps until made ready. The words are for reports.
[[gnu::always_inline]] inline void wait_here(const char* name, Loc loc, std::uint64_t a = 0,
                                             std::uint64_t b = 0) {
  Thread& me = *current;
  me.wait_name = name;
  me.wait_loc = loc;
  me.wait_a = a;
  me.wait_b = b;
  Thread& next = detail::pop_ready(*me.block->gang);
  if (&next == &me) {
    me.state = State::kRunning;
    return;
  }
  detail::switch_to(me, next, false);
}
/// The caller has exited: others go on, and it is never resumed.
[[noreturn]] void leave();
/// Something happened that a polling thread may be waiting for.
inline void progress(Gang& gang) { gang.polls = 0; }
/// Asynchronous work: now, when nothing else can run, or either, as the options say.
void defer(Gang& gang, std::function<void()> work);
/// Is an asynchronous operation issued now to be executed now? Draws from the seed where random.
bool execute_at_issue(Gang& gang);

// ---- errors ----------------------------------------------------------------------------------------------
/// Ends the launch: "kernel K: <message>\n  at block (x,y,z) thread (x,y,z) [warp w lane l]".
[[noreturn, gnu::format(printf, 1, 2)]] void fail(const char* format, ...);
std::string describe(const Thread& t);
std::string describe_waits(const Gang& gang);

// ---- rendezvous ------------------------------------------------------------------------------------------
namespace detail {
[[noreturn]] void bad_mask(std::uint32_t mask, const char* name, Loc loc);
[[noreturn]] void divergence(const Rendezvous& there, const char* name, Loc loc);
}  // namespace detail
/// The lanes of `mask` meet; the last to arrive calls execute(operand of lane i at [i], warp) for all, then
/// all go on. Different operations at one mask, a lane outside it, or an exited lane in it are errors. `op`
/// tells operations apart that share a name.
template <class Execute>
[[gnu::always_inline]] inline void meet(std::uint32_t mask, std::uint32_t op, const char* name, void* operand,
                                        Loc loc, Execute&& execute) {
  Thread& me = *current;
  Warp& w = *me.warp;
  if (!((mask >> me.lane) & 1) || (mask & ~w.alive)) [[unlikely]]
    detail::bad_mask(mask, name, loc);
  w.operand[me.lane] = operand;
  Rendezvous* r = nullptr;
  for (std::uint32_t i = 0; i < w.pending_count; ++i)
    if (w.pending[i].mask == mask) {
      r = &w.pending[i];
      break;
    }
  if (!r) {
    r = &w.pending[w.pending_count++];
    *r = {mask, 0, op, name, loc};
  } else if (r->op != op || ((r->arrived >> me.lane) & 1)) [[unlikely]] {
    detail::divergence(*r, name, loc);
  }
  r->arrived |= 1u << me.lane;
  if (r->arrived != mask) {
    me.state = State::kWaiting;
    return wait_here(name, loc, mask);
  }
  *r = w.pending[--w.pending_count];
  Gang& gang = *me.block->gang;
  ++gang.counters.warp_collectives;
  execute(w.operand, w);
  if constexpr (race::kEnabled)
    if (mask == kFullMask)
      for (Thread* lane : w.lane) race::converged(*lane);
  progress(gang);
  for (std::uint32_t m = mask & ~(1u << me.lane); m; m &= m - 1) make_ready(gang, *w.lane[__builtin_ctz(m)]);
}
/// Operation numbers of meet().
enum Op : std::uint32_t {
  kOpShuffle = 1,
  kOpVote,
  kOpSync,
  kOpReduce,  // + the reduction
  kOpMatch = 20,
  kOpElect,
  kOpSetMaxRegisters,
  kOpMatrixLoad = 100,  // and beyond: one number for each shape
  kOpMma = 200,
  kOpWgmmaCommit = 300,
  kOpWgmmaWait,  // + the groups left in flight
};

/// An error if another warp of the warpgroup has executed a setmaxnreg that the exiting thread's has not.
void check_register_changes(const Thread& t);

/// One arrival at a barrier that counts `expected` threads. Returns the reduction to threads that wait.
int arrive(Barrier& barrier, Gang& gang, std::uint32_t expected, bool wait, BarrierReduce reduce, bool value,
           const char* name, std::uint32_t id, Loc loc);

// ---- shared memory ---------------------------------------------------------------------------------------
/// The `bytes` bytes at shared address `address` of `b`; an error if they are not its own.
std::byte* shared_pointer(Block& b, std::uint32_t address, std::size_t bytes, const char* name, Loc loc);

}  // namespace dsv4::simt
