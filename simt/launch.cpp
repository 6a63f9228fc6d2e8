// A launch: its checks, the OS threads that run its gangs, and the life of a CUDA thread from start to exit.
#include "simt/machine.hpp"
#include "simt/os_threads.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <thread>

#if defined(DSV4_SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#endif

namespace dsv4::simt {
namespace {

#if defined(DSV4_SIMT_ASAN)
constexpr std::size_t kDefaultStack = 256u << 10;
#else
constexpr std::size_t kDefaultStack = 64u << 10;
#endif
constexpr std::size_t kPage = 4096;
// A guard page splits a mapping in two; vm.max_map_count allows 65,530 of them.
constexpr std::size_t kGuardedStacks = 8192;

// Stacks of one size, kept from launch to launch.
class StackPool {
 public:
  StackPool() = default;
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;
  ~StackPool() { clear(); }

  /// All are free again. abandoned: threads on them did not end.
  void rewind(std::size_t bytes, bool abandoned) {
    if (abandoned)
      for (std::size_t i = 0; i < used_; ++i) forget_frames(mappings_[i] + kPage, bytes_);
    if (bytes != bytes_) clear();
    bytes_ = bytes;
    used_ = 0;
  }
  std::byte* next() {
    if (used_ == mappings_.size()) {
      void* m = ::mmap(nullptr, bytes_ + kPage, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
      if (m == MAP_FAILED) throw std::bad_alloc();
      if (mappings_.size() < kGuardedStacks) ::mprotect(m, kPage, PROT_NONE);
      mappings_.push_back(static_cast<std::byte*>(m));
    }
    std::byte* const low = mappings_[used_++] + kPage;
    // A thread that ended left the frames of thread_main, near the top (colours are below 8 KiB).
    const std::size_t left = std::min<std::size_t>(bytes_, 16u << 10);
    forget_frames(low + bytes_ - left, left);
    return low;
  }

 private:
  // Frames that are gone keep their red zones.
  static void forget_frames([[maybe_unused]] std::byte* low, [[maybe_unused]] std::size_t bytes) {
#if defined(DSV4_SIMT_ASAN)
    __asan_unpoison_memory_region(low, bytes);
#endif
  }
  void clear() {
    for (std::byte* m : mappings_) {
      forget_frames(m + kPage, bytes_);
      ::munmap(m, bytes_ + kPage);
    }
    mappings_.clear();
  }
  std::vector<std::byte*> mappings_;
  std::size_t bytes_ = 0, used_ = 0;
};

// The shared memory of one resident block.
class Arena {
 public:
  Arena() = default;
  Arena(Arena&& o) noexcept : p_(std::exchange(o.p_, nullptr)), bytes_(o.bytes_) {}
  Arena& operator=(Arena&&) = delete;
  ~Arena() { release(); }

  std::byte* get(std::size_t bytes) {
    if (bytes_ < bytes) {
      release();
      p_ = static_cast<std::byte*>(std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage));
      if (!p_) throw std::bad_alloc();
      bytes_ = bytes;
    }
#if defined(DSV4_SIMT_ASAN)
    __asan_unpoison_memory_region(p_, bytes_);
#endif
    return p_;
  }

 private:
  void release() {
#if defined(DSV4_SIMT_ASAN)
    if (p_) __asan_unpoison_memory_region(p_, bytes_);
#endif
    std::free(p_);
    p_ = nullptr;
  }
  std::byte* p_ = nullptr;
  std::size_t bytes_ = 0;
};

std::uint64_t volume(const Index3& i) { return std::uint64_t{i.x} * i.y * i.z; }

// ---- the life of a CUDA thread ---------------------------------------------------------------------------
void exit_checks(Thread& me) {
  check_async_finished(me);
  for (std::uint32_t i = 0; i < me.warp->pending_count; ++i)
    if (const Rendezvous& r = me.warp->pending[i]; (r.mask >> me.lane) & 1)
      fail("WARP DIVERGENCE: this lane exited while lanes 0x%08x wait for it at %s (%s:%u)", r.arrived,
           r.name, r.loc.file, r.loc.line);
  for (std::uint32_t i = 0; i < kBarriers; ++i)
    if (const Barrier& b = me.block->barriers[i]; b.arrived && b.whole_block)
      fail("BARRIER DIVERGENCE: this thread exited while %u of %u threads wait at barrier %u (%s:%u)",
           b.arrived, b.expected, i, b.loc.file, b.loc.line);
}

[[noreturn]] void thread_exit() {
  Thread& me = *current;
  Gang& gang = *me.block->gang;
  exit_checks(me);
  me.state = State::kDone;
  me.warp->alive &= ~(1u << me.lane);
  --me.block->alive;
  progress(gang);
  if (--gang.alive == 0) {
    while (!gang.deferred.empty()) {
      auto work = std::move(gang.deferred.front());
      gang.deferred.pop_front();
      work();
    }
    switch_context(me.context, gang.main, true);
  }
  leave();
}

void thread_main() {
  context_started();
  const Launch& launch = *current->block->gang->launch;
  launch.call(launch.arguments);
  thread_exit();
}

}  // namespace

// Memory of one OS thread of the machine, reused by all its gangs.
struct Worker {
  std::vector<Block> blocks;
  StackPool stacks;
  std::vector<Arena> arenas;
  Gang gang;
};

namespace {

void prepare_block(Worker& w, Block& b, std::size_t i, std::uint64_t linear, std::size_t stack_bytes) {
  Gang& gang = w.gang;
  const LaunchShape& shape = gang.launch->shape;
  const Index3 grid = shape.grid, dim = shape.block;
  b.gang = &gang;
  b.idx = {static_cast<unsigned>(linear % grid.x), static_cast<unsigned>(linear / grid.x % grid.y),
           static_cast<unsigned>(linear / grid.x / grid.y)};
  b.rank = static_cast<std::uint32_t>(i);
  b.thread_count = b.alive = static_cast<std::uint32_t>(volume(dim));
  const std::uint32_t warps = (b.thread_count + kWarp - 1) / kWarp;
  b.threads.resize(b.thread_count);
  b.warps.assign(warps, {});
  b.warpgroups.assign((warps + 3) / 4, {});
  for (Barrier& bar : b.barriers) bar = {};
  b.cluster_barrier = {};
  b.statics.clear();
  b.mbarriers.clear();

  b.dynamic_bytes = shape.shared_bytes;
  const std::size_t statics = (shape.shared_bytes + kRedZone + 255) / 256 * 256;
  b.shared_bytes = statics + kStaticShared;
  b.static_top = statics;
  b.shared = w.arenas[i].get(b.shared_bytes);
  if (gang.options->poison) std::memset(b.shared, 0xff, b.dynamic_bytes);
#if defined(DSV4_SIMT_ASAN)
  __asan_poison_memory_region(b.shared + b.dynamic_bytes, b.shared_bytes - b.dynamic_bytes);
#endif

  for (std::uint32_t t = 0; t < b.thread_count; ++t) {
    Thread& thread = b.threads[t];
    thread.fresh = true;
    thread.linear = t;
    thread.lane = t % kWarp;
    thread.warp_id = t / kWarp;
    thread.idx = {t % dim.x, t / dim.x % dim.y, t / dim.x / dim.y};
    thread.block = &b;
    thread.warp = &b.warps[t / kWarp];
    thread.warp->lane[thread.lane] = &thread;
    thread.warp->alive |= 1u << thread.lane;
    thread.async.reset();
    thread.polled = nullptr;
    // Colouring, in steps of 320 bytes: else every stack top falls into the same set of the cache.
    const std::size_t colour = t * 320 % 8192 / 64 * 64;
    make_context(thread.context, w.stacks.next(), stack_bytes - colour, thread_main);
    make_ready(gang, thread);
  }
}

// Runs the blocks [first, first + count) side by side.
void run_gang(Worker& w, const Launch& launch, const Options& o, std::uint64_t number, std::uint64_t first,
              std::size_t count) {
  Gang& gang = w.gang;
  const bool abandoned = gang.failed || gang.alive > 0;  // the last one
  const std::size_t threads = count * volume(launch.shape.block);
  gang.launch = &launch;
  gang.options = &o;
  gang.number = static_cast<std::uint32_t>(number);
  gang.random.seed(o.seed * 0x9e3779b97f4a7c15u + first);
  gang.failed = false;
  gang.deferred.clear();
  gang.head = gang.tail = gang.polls = 0;
  gang.alive = threads;
  std::size_t ring = 1;
  while (ring < threads) ring *= 2;
  gang.ring.assign(ring, nullptr);
  if (w.blocks.size() < count) w.blocks.resize(count);
  while (w.arenas.size() < count) w.arenas.emplace_back();
  const std::size_t stack_bytes = o.stack_bytes ? (o.stack_bytes + kPage - 1) / kPage * kPage : kDefaultStack;
  w.stacks.rewind(stack_bytes, abandoned);
  gang.blocks.clear();
  for (std::size_t i = 0; i < count; ++i) {
    gang.blocks.push_back(&w.blocks[i]);
    prepare_block(w, w.blocks[i], i, first + i, stack_bytes);
  }
  if constexpr (race::kEnabled) race::begin_gang(gang);
  gang.counters.blocks += count;
  gang.main = {};
  Thread& t = *gang.ring[gang.head++];
  t.fresh = false;
  t.state = State::kRunning;
  gang.all_polled = 0;
  gang.had_company = false;
  current = &t;
  switch_context(gang.main, t.context);
  current = nullptr;
  if constexpr (race::kEnabled) race::end_gang(gang);
}

struct Machine {
  std::mutex mutex;  // one launch at a time
  OsThreads threads;
  std::vector<std::unique_ptr<Worker>> workers;  // one for each of them
  Counters counters;
};
Machine& machine() {
  static Machine m;
  return m;
}

void check_shape(const Launch& l) {
  const auto reject = [&l](const std::string& what) {
    throw KernelError(std::string("kernel ") + l.name + ": cannot launch: " + what);
  };
  const LaunchShape& s = l.shape;
  const auto text = [](const Index3& i) {
    return std::to_string(i.x) + " x " + std::to_string(i.y) + " x " + std::to_string(i.z);
  };
  if (volume(s.block) < 1 || volume(s.block) > 1024 || s.block.z > 64)
    reject("a block of " + text(s.block) + " threads (1 to 1024, z at most 64)");
  if (volume(s.grid) < 1 || s.grid.x > 0x7fffffffu || s.grid.y > 65535 || s.grid.z > 65535)
    reject("a grid of " + text(s.grid) + " blocks (at least 1; y and z at most 65535)");
  if (volume(s.cluster) < 1 || volume(s.cluster) > 16)
    reject("a cluster of " + text(s.cluster) + " blocks (1 to 16)");
  if (s.grid.x % s.cluster.x || s.grid.y % s.cluster.y || s.grid.z % s.cluster.z)
    reject("the grid " + text(s.grid) + " is not a multiple of the cluster " + text(s.cluster));
  if (volume(s.cluster) > 1 && (s.cluster.y > 1 || s.cluster.z > 1))
    reject("clusters along x alone are modelled");
  if (s.shared_bytes > kMaxDynamicShared)
    reject(std::to_string(s.shared_bytes) + " bytes of dynamic shared memory (at most 232448)");
}

}  // namespace

void run(const Launch& launch) {
  if (current) throw KernelError(std::string("kernel ") + launch.name + ": launched from a kernel");
  check_shape(launch);
  Machine& m = machine();
  std::lock_guard lock(m.mutex);
  const Options o = options();
  if (!o.execute) {
    ++m.counters.launches;
    return;
  }
  const std::uint64_t total = volume(launch.shape.grid);
  std::uint64_t side_by_side = volume(launch.shape.cluster);
  if (launch.shape.cooperative)
    side_by_side = total;
  else if (side_by_side == 1)
    side_by_side = static_cast<std::uint64_t>(std::max(o.resident_blocks, 1));
  const std::uint64_t gangs = (total + side_by_side - 1) / side_by_side;

  // Shadow memory of the race detector is that of one OS thread.
  const std::uint64_t cores = std::max(1u, std::thread::hardware_concurrency());
  std::uint64_t workers =
      race::kEnabled ? 1 : (o.workers > 0 ? static_cast<std::uint64_t>(o.workers) : cores);
  workers = std::min(workers, gangs);
  if constexpr (race::kEnabled) race::begin_launch();

  std::atomic<std::uint64_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex result_mutex;
  std::string error;
  std::exception_ptr exception;
  busy_workers = static_cast<int>(workers);
  while (m.workers.size() < workers) m.workers.push_back(std::make_unique<Worker>());
  m.threads.run(static_cast<int>(workers), [&](int i) {
    Worker& w = *m.workers[static_cast<std::size_t>(i)];
    w.gang.counters = {};
    try {
      for (std::uint64_t g; !stop && (g = next++) < gangs;) {
        const std::uint64_t first = g * side_by_side;
        run_gang(w, launch, o, g, first, static_cast<std::size_t>(std::min(side_by_side, total - first)));
        if (w.gang.failed) {
          std::lock_guard guard(result_mutex);
          if (error.empty()) error = w.gang.error;
          stop = true;
        }
      }
    } catch (...) {  // out of memory while preparing a gang
      std::lock_guard guard(result_mutex);
      exception = std::current_exception();
      stop = true;
    }
    --busy_workers;
    std::lock_guard guard(result_mutex);
    m.counters += w.gang.counters;
  });
  ++m.counters.launches;
  if (exception) std::rethrow_exception(exception);
  if (!error.empty()) throw KernelError(error);
}

Status failed_launch(const char* report) noexcept {
  thread_local char text[4096];
  std::snprintf(text, sizeof text, "%s", report);
  return {Code::kCuda, 0, text};
}

// ---- counters --------------------------------------------------------------------------------------------
Counters& Counters::operator+=(const Counters& o) {
  static_assert(sizeof(Counters) % sizeof(std::uint64_t) == 0);
  auto* mine = reinterpret_cast<std::uint64_t*>(this);
  const auto* other = reinterpret_cast<const std::uint64_t*>(&o);
  for (std::size_t i = 0; i < sizeof(Counters) / sizeof(std::uint64_t); ++i) mine[i] += other[i];
  return *this;
}

Counters counters() {
  std::lock_guard lock(machine().mutex);
  return machine().counters;
}

void reset_counters() {
  std::lock_guard lock(machine().mutex);
  machine().counters = {};
}

}  // namespace dsv4::simt
