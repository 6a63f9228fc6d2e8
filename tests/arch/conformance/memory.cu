// Loads and stores of every width and hint, ordered accesses, and atomics.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/memory.cuh>

#include "tests/arch/conformance/case.hpp"

#include <cstdint>
#include <type_traits>
#include <vector>

namespace dsv4::conformance::inline DSV4_FLAVOUR {
namespace {

using arch::Cache;
using arch::Order;
using arch::Scope;
using Kernel = void (*)(std::uint32_t*, std::uint32_t*);

constexpr int kScratch = 4096;

Status launch_words(const char* name, Kernel kernel, unsigned blocks, unsigned threads, Buffers b,
                    Stream stream) noexcept {
  return arch::launch(name, kernel, {.grid = {blocks, 1, 1}, .block = {threads, 1, 1}}, stream, b.out,
                      b.scratch);
}

// 64 threads copy 1024 bytes, in pieces of T, from `in` to `out`.
template <class T, Cache kLoad, Cache kStore>
DSV4_DEVICE void copy(const std::uint32_t* in, std::uint32_t* out) {
  for (unsigned i = arch::thread_idx().x; i < 1024 / sizeof(T); i += 64)
    arch::store<kStore>(reinterpret_cast<T*>(out) + i, arch::load<kLoad>(reinterpret_cast<const T*>(in) + i));
}
template <Cache kLoad, Cache kStore>
DSV4_DEVICE void copy_each_width(const std::uint32_t* in, std::uint32_t* out) {
  copy<std::uint8_t, kLoad, kStore>(in, out);
  copy<std::uint16_t, kLoad, kStore>(in + 256, out + 256);
  copy<float, kLoad, kStore>(in + 512, out + 512);
  copy<arch::Vec<std::uint16_t, 4>, kLoad, kStore>(in + 768, out + 768);
  copy<arch::Vec<std::uint32_t, 4>, kLoad, kStore>(in + 1024, out + 1024);
}
DSV4_KERNEL(64) copy_default(std::uint32_t* out, std::uint32_t* scratch) {
  copy_each_width<Cache::kDefault, Cache::kDefault>(scratch, out);
}
DSV4_KERNEL(64) copy_streaming(std::uint32_t* out, std::uint32_t* scratch) {
  copy_each_width<Cache::kStreaming, Cache::kStreaming>(scratch, out);
}
DSV4_KERNEL(64) copy_read_only(std::uint32_t* out, std::uint32_t* scratch) {
  copy_each_width<Cache::kReadOnly, Cache::kDefault>(scratch, out);
}
DSV4_KERNEL(64) copy_keep(std::uint32_t* out, std::uint32_t* scratch) {
  copy_each_width<Cache::kKeep, Cache::kStreaming>(scratch, out);
}
DSV4_KERNEL(64) prefetch(std::uint32_t* out, std::uint32_t* scratch) {
  const unsigned t = arch::thread_idx().x;
  arch::prefetch_l2(scratch + 16 * t);
  arch::nanosleep(100);
  out[t] = arch::load(scratch + 16 * t);
}

// Each word of `at` takes 64 operands, in any order.
template <class T>
DSV4_DEVICE void each_atomic(T* at, int shift) {
  const unsigned t = arch::thread_idx().x;
  const auto v = static_cast<T>(scratch_word(t)) * static_cast<T>(shift == 32 ? 0x100000001 : 1);
  if (t == 0)
    at[1] = at[3] =
        static_cast<T>(~T{0} ^ (std::is_signed_v<T> ? static_cast<T>(T{1} << (8 * sizeof(T) - 1)) : T{0}));
  arch::sync_threads();
  arch::atomic_add(at + 0, v);
  arch::atomic_min(at + 1, v);
  arch::atomic_max<Order::kAcquire>(at + 2, v);
  arch::atomic_and<Order::kRelease>(at + 3, static_cast<T>(v | static_cast<T>(~T{0} << shift / 2)));
  arch::atomic_or<Order::kAcqRel, Scope::kBlock>(at + 4, static_cast<T>(v & static_cast<T>(0xff)));
  arch::atomic_xor<Order::kRelaxed, Scope::kSystem>(at + 5, v);
  if (t == 0) arch::atomic_exch(at + 6, v);
  if (t == 1) arch::atomic_cas(at + 7, static_cast<T>(0), v);
  if (t == 2) arch::atomic_cas(at + 8, static_cast<T>(1), v);  // finds 0
}
DSV4_KERNEL(64) atomic_u32(std::uint32_t* out, std::uint32_t*) { each_atomic(out, 16); }
DSV4_KERNEL(64) atomic_i32(std::uint32_t* out, std::uint32_t*) {
  each_atomic(reinterpret_cast<std::int32_t*>(out), 16);
}
DSV4_KERNEL(64) atomic_u64(std::uint32_t* out, std::uint32_t*) {
  each_atomic(reinterpret_cast<std::uint64_t*>(out), 32);
}
// Integers, so that the order does not matter; then global subnormals, which are zeros.
DSV4_KERNEL(64) atomic_f32(std::uint32_t* out, std::uint32_t*) {
  auto* sum = reinterpret_cast<float*>(out);
  const unsigned t = arch::thread_idx().x;
  arch::atomic_add(sum, static_cast<float>(t));
  arch::atomic_add<Order::kRelaxed, Scope::kBlock>(sum + 1, -0.5f);
  if (t == 0) {
    constexpr float kSubnormal = 1e-40f;
    arch::atomic_add(sum + 2, kSubnormal);
    DSV4_SHARED(float, shared);
    shared = kSubnormal;
    arch::atomic_add<Order::kRelaxed, Scope::kBlock>(&shared, kSubnormal);
    sum[3] = shared;
  }
}
// What each atomic returns: the tickets of 64 threads are 0..63.
DSV4_KERNEL(64) atomic_ticket(std::uint32_t* out, std::uint32_t*) {
  DSV4_SHARED(std::uint32_t, next);
  if (arch::thread_idx().x == 0) next = 0;
  arch::sync_threads();
  const std::uint32_t ticket = arch::atomic_add<Order::kRelaxed, Scope::kBlock>(&next, 1);
  out[ticket] = ticket + 1;
  const std::uint32_t old = arch::atomic_add(out + 64, 3);
  arch::atomic_or(out + 65 + old / 3 / 32, 1u << old / 3 % 32);
}

// Block 0 hands a value to block 1, which hands it back: flags at out[64..], 8 bytes and 4.
template <bool kFences>
DSV4_DEVICE void ping_pong(std::uint32_t* out) {
  if (arch::thread_idx().x != 0) return;
  auto* there = reinterpret_cast<std::uint64_t*>(out + 64);
  std::uint32_t* back = out + 66;
  const auto raise = [](auto* flag) {
    if constexpr (kFences) {
      arch::fence();
      arch::store_relaxed(flag, 1);
    } else {
      arch::store_release(flag, 1);
    }
  };
  const auto await = [](const auto* flag) {
    if constexpr (kFences) {
      while (arch::load_relaxed(flag) == 0) arch::nanosleep(50);
      arch::fence();
    } else {
      while (arch::load_acquire(flag) == 0) {
      }
    }
  };
  if (arch::block_idx().x == 0) {
    for (unsigned i = 0; i < 32; ++i) out[i] = scratch_word(i);
    raise(there);
  } else {
    await(there);
    for (unsigned i = 0; i < 32; ++i) out[32 + i] = out[i] + 1;
    raise(back);
  }
}
DSV4_KERNEL(32) acquire_release(std::uint32_t* out, std::uint32_t*) { ping_pong<false>(out); }
DSV4_KERNEL(32) fences(std::uint32_t* out, std::uint32_t*) { ping_pong<true>(out); }

}  // namespace

std::vector<Case> memory_cases() {
#define DSV4_CASE(kernel, blocks, threads, words)                                                          \
  Case {                                                                                                   \
    "memory/" #kernel, Compare::kBits, 80, false, words, kScratch, [](Buffers b, Stream stream) noexcept { \
      return launch_words("memory/" #kernel, kernel, blocks, threads, b, stream);                          \
    }                                                                                                      \
  }
  return {DSV4_CASE(copy_default, 1, 64, 1280),   DSV4_CASE(copy_streaming, 1, 64, 1280),
          DSV4_CASE(copy_read_only, 1, 64, 1280), DSV4_CASE(copy_keep, 1, 64, 1280),
          DSV4_CASE(prefetch, 1, 64, 64),         DSV4_CASE(atomic_u32, 1, 64, 9),
          DSV4_CASE(atomic_i32, 1, 64, 9),        DSV4_CASE(atomic_u64, 1, 64, 18),
          DSV4_CASE(atomic_f32, 1, 64, 4),        DSV4_CASE(atomic_ticket, 1, 64, 67),
          DSV4_CASE(acquire_release, 2, 32, 67),  DSV4_CASE(fences, 2, 32, 67)};
#undef DSV4_CASE
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
