// Global memory: loads and stores with cache hints, prefetch. PTX ISA, "ld", "ld.global.nc", "st",
// "createpolicy", "prefetch", "nanosleep":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-ld
#pragma once

#include <dsv4/arch/atomic.cuh>
#include <dsv4/arch/config.cuh>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#if defined(DSV4_SIMT_EMULATION)
#include <dsv4/simt/memory.hpp>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// N values that one instruction moves.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  static_assert(sizeof(T) * N <= 16 && (sizeof(T) * N & (sizeof(T) * N - 1)) == 0,
                "Vec: 1, 2, 4, 8 or 16 bytes");
  T v[N];

  DSV4_HD constexpr T& operator[](int i) { return v[i]; }
  DSV4_HD constexpr const T& operator[](int i) const { return v[i]; }
};

/// How long the caches should keep what an access touches.
enum class Cache {
  kDefault,
  kStreaming,  // touched once: not in L1, first to leave L2
  kReadOnly,   // loads: ld.global.nc; nobody writes there during the launch, or what it reads is undefined
  kKeep,       // loads: used again soon, by others too: last to leave L2
};

#if !defined(DSV4_SIMT_EMULATION)
namespace detail {

// A register (four, for 16 bytes) that carries `kBytes` bytes.
template <int kBytes>
struct Word;
template <>
struct Word<1> {
  using type = std::uint16_t;  // there is no 8-bit register
};
template <>
struct Word<2> {
  using type = std::uint16_t;
};
template <>
struct Word<4> {
  using type = std::uint32_t;
};
template <>
struct Word<8> {
  using type = std::uint64_t;
};
template <>
struct Word<16> {
  using type = uint4;
};

// L2's part of a hint is a policy in a register, on sm_80 and later.
#define DSV4_ARCH_POLICY(priority) \
  "{ .reg .b64 policy; createpolicy.fractional.L2::" priority ".b64 policy, 1.0; "
#define DSV4_ARCH_LOADS(name, qualifier, before, modifiers, after, ...)                                   \
  template <int kBytes>                                                                                   \
  __device__ __forceinline__ typename Word<kBytes>::type load_##name(std::size_t p) {                     \
    typename Word<kBytes>::type w;                                                                        \
    if constexpr (kBytes == 1)                                                                            \
      asm qualifier(before "ld.global" modifiers ".u8 %0, [%1]" after : "=h"(w) : "l"(p) : __VA_ARGS__);  \
    else if constexpr (kBytes == 2)                                                                       \
      asm qualifier(before "ld.global" modifiers ".u16 %0, [%1]" after : "=h"(w) : "l"(p) : __VA_ARGS__); \
    else if constexpr (kBytes == 4)                                                                       \
      asm qualifier(before "ld.global" modifiers ".u32 %0, [%1]" after : "=r"(w) : "l"(p) : __VA_ARGS__); \
    else if constexpr (kBytes == 8)                                                                       \
      asm qualifier(before "ld.global" modifiers ".u64 %0, [%1]" after : "=l"(w) : "l"(p) : __VA_ARGS__); \
    else                                                                                                  \
      asm qualifier(before "ld.global" modifiers ".v4.u32 {%0, %1, %2, %3}, [%4]" after                   \
                    : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w)                                          \
                    : "l"(p)                                                                              \
                    : __VA_ARGS__);                                                                       \
    return w;                                                                                             \
  }
// What the read-only path gives does not depend on other instructions, so the compiler may move those loads.
DSV4_ARCH_LOADS(read_only, , "", ".nc", ";")
DSV4_ARCH_LOADS(streaming, volatile, DSV4_ARCH_POLICY("evict_first"), ".L1::no_allocate.L2::cache_hint",
                ", policy; }", "memory")
DSV4_ARCH_LOADS(keep, volatile, DSV4_ARCH_POLICY("evict_last"), ".L2::cache_hint", ", policy; }", "memory")
#undef DSV4_ARCH_LOADS

template <int kBytes>
__device__ __forceinline__ void store_streaming(std::size_t p, const typename Word<kBytes>::type& w) {
#define DSV4_ARCH_STORE(type, operands, ...)                                                   \
  asm volatile(DSV4_ARCH_POLICY("evict_first") "st.global.L1::no_allocate.L2::cache_hint" type \
                                               " [%0], " operands ", policy; }" ::"l"(p),      \
               __VA_ARGS__                                                                     \
               : "memory")
  if constexpr (kBytes == 1)
    DSV4_ARCH_STORE(".u8", "%1", "h"(w));
  else if constexpr (kBytes == 2)
    DSV4_ARCH_STORE(".u16", "%1", "h"(w));
  else if constexpr (kBytes == 4)
    DSV4_ARCH_STORE(".u32", "%1", "r"(w));
  else if constexpr (kBytes == 8)
    DSV4_ARCH_STORE(".u64", "%1", "l"(w));
  else
    DSV4_ARCH_STORE(".v4.u32", "{%1, %2, %3, %4}", "r"(w.x), "r"(w.y), "r"(w.z), "r"(w.w));
#undef DSV4_ARCH_STORE
}
#undef DSV4_ARCH_POLICY

}  // namespace detail
#endif

/// One load of 1, 2, 4, 8 or 16 bytes of global memory, aligned to its size.
template <Cache kCache = Cache::kDefault, class T>
DSV4_DEVICE T load(const T* p DSV4_LOC) {
  static_assert(std::is_trivially_copyable_v<T>);
  static_assert(sizeof(T) <= 16 && (sizeof(T) & (sizeof(T) - 1)) == 0, "load: 1, 2, 4, 8 or 16 bytes");
#if defined(DSV4_SIMT_EMULATION)
  T value;
  simt::load(&value, p, sizeof(T), kCache == Cache::kReadOnly, loc);
  return value;
#else
  using Word = typename detail::Word<sizeof(T)>::type;
  const std::size_t address = __cvta_generic_to_global(p);
  Word w;
  if constexpr (kCache == Cache::kStreaming)
    w = detail::load_streaming<sizeof(T)>(address);
  else if constexpr (kCache == Cache::kReadOnly)
    w = detail::load_read_only<sizeof(T)>(address);
  else if constexpr (kCache == Cache::kKeep)
    w = detail::load_keep<sizeof(T)>(address);
  else if constexpr (sizeof(T) == 1)
    w = *reinterpret_cast<const std::uint8_t*>(p);
  else
    w = *reinterpret_cast<const Word*>(p);
  T value;
  __builtin_memcpy(&value, &w, sizeof(T));
  return value;
#endif
}

/// One store of 1, 2, 4, 8 or 16 bytes of global memory, aligned to its size. kDefault or kStreaming.
template <Cache kCache = Cache::kDefault, class T>
DSV4_DEVICE void store(T* p, std::type_identity_t<T> value DSV4_LOC) {
  static_assert(std::is_trivially_copyable_v<T>);
  static_assert(sizeof(T) <= 16 && (sizeof(T) & (sizeof(T) - 1)) == 0, "store: 1, 2, 4, 8 or 16 bytes");
  static_assert(kCache == Cache::kDefault || kCache == Cache::kStreaming, "store: kDefault or kStreaming");
#if defined(DSV4_SIMT_EMULATION)
  simt::store(p, &value, sizeof(T), loc);
#else
  using Word = typename detail::Word<sizeof(T)>::type;
  Word w = {};
  __builtin_memcpy(&w, &value, sizeof(T));
  if constexpr (kCache == Cache::kStreaming)
    detail::store_streaming<sizeof(T)>(__cvta_generic_to_global(p), w);
  else if constexpr (sizeof(T) == 1)
    *reinterpret_cast<std::uint8_t*>(p) = static_cast<std::uint8_t>(w);
  else
    *reinterpret_cast<Word*>(p) = w;
#endif
}

/// Asks for the cache line of global memory at p to be brought into L2. A hint: nothing waits.
DSV4_DEVICE void prefetch_l2(const void* p DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::prefetch(p, loc);
#else
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(p)));
#endif
}

/// Sleeps for about `ns` nanoseconds, at most a millisecond. A spin loop calls it, or an acquire load.
DSV4_DEVICE void nanosleep(unsigned ns DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  static_cast<void>(ns);
  simt::nanosleep(loc);
#else
  __nanosleep(ns);
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
