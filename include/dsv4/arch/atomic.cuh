// Loads and stores that order memory, fences and atomics, of global or shared memory. PTX ISA, "ld", "st",
// "membar / fence" and "atom":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#memory-consistency-model
// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-atom
#pragma once

#include <dsv4/arch/config.cuh>

#include <cstdint>
#include <type_traits>

#if defined(DSV4_SIMT_EMULATION)
#include <dsv4/simt/memory.hpp>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

#if defined(DSV4_SIMT_EMULATION)
using Scope = simt::Scope;
using Order = simt::Order;
#else
/// The threads that an operation is ordered for.
enum class Scope : std::uint8_t { kBlock, kCluster, kDevice, kSystem };
/// kAcquire: later accesses stay behind it; kRelease: earlier ones stay before it.
enum class Order : std::uint8_t { kRelaxed, kAcquire, kRelease, kAcqRel };
#endif

namespace detail {

template <class T>
using Bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;

template <class To, class From>
DSV4_DEVICE To as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

template <class T>
inline constexpr bool kAtomic32or64 = std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8);
template <class T>
inline constexpr bool kIsAtomicInteger = std::is_integral_v<T> &&
                                         (sizeof(T) == 4 || (sizeof(T) == 8 && std::is_unsigned_v<T>));

#if !defined(DSV4_SIMT_EMULATION)
// asm volatile("<head>.<scope><tail>" operands) for the scope kScope. Clusters exist from sm_90 on; before,
// device is the next larger scope.
#if __CUDA_ARCH__ >= 900
#define DSV4_ARCH_CLUSTER "cluster"
#else
#define DSV4_ARCH_CLUSTER "gpu"
#endif
#define DSV4_ARCH_SCOPED(head, tail, ...)                                   \
  do {                                                                      \
    if constexpr (kScope == Scope::kBlock)                                  \
      asm volatile(head ".cta" tail __VA_ARGS__ : "memory");                \
    else if constexpr (kScope == Scope::kCluster)                           \
      asm volatile(head "." DSV4_ARCH_CLUSTER tail __VA_ARGS__ : "memory"); \
    else if constexpr (kScope == Scope::kDevice)                            \
      asm volatile(head ".gpu" tail __VA_ARGS__ : "memory");                \
    else                                                                    \
      asm volatile(head ".sys" tail __VA_ARGS__ : "memory");                \
  } while (false)
// The same with an order between head and scope.
#define DSV4_ARCH_ORDERED(head, tail, ...)                  \
  do {                                                      \
    if constexpr (kOrder == Order::kRelaxed)                \
      DSV4_ARCH_SCOPED(head ".relaxed", tail, __VA_ARGS__); \
    else if constexpr (kOrder == Order::kAcquire)           \
      DSV4_ARCH_SCOPED(head ".acquire", tail, __VA_ARGS__); \
    else if constexpr (kOrder == Order::kRelease)           \
      DSV4_ARCH_SCOPED(head ".release", tail, __VA_ARGS__); \
    else                                                    \
      DSV4_ARCH_SCOPED(head ".acq_rel", tail, __VA_ARGS__); \
  } while (false)
#endif

template <Order kOrder, Scope kScope, class T>
DSV4_DEVICE T load_ordered(const T* p DSV4_LOC) {
  static_assert(kAtomic32or64<T>, "4 or 8 bytes");
#if defined(DSV4_SIMT_EMULATION)
  return as<T>(static_cast<Bits<T>>(simt::atomic_load(p, sizeof(T), kOrder, kScope, loc)));
#else
  Bits<T> w;
  if constexpr (sizeof(T) == 4)
    DSV4_ARCH_ORDERED("ld", ".u32 %0, [%1];", : "=r"(w) : "l"(p));
  else
    DSV4_ARCH_ORDERED("ld", ".u64 %0, [%1];", : "=l"(w) : "l"(p));
  return as<T>(w);
#endif
}

template <Order kOrder, Scope kScope, class T>
DSV4_DEVICE void store_ordered(T* p, T value DSV4_LOC) {
  static_assert(kAtomic32or64<T>, "4 or 8 bytes");
#if defined(DSV4_SIMT_EMULATION)
  simt::atomic_store(p, as<Bits<T>>(value), sizeof(T), kOrder, kScope, loc);
#else
  const Bits<T> w = as<Bits<T>>(value);
  if constexpr (sizeof(T) == 4)
    DSV4_ARCH_ORDERED("st", ".u32 [%0], %1;", ::"l"(p), "r"(w));
  else
    DSV4_ARCH_ORDERED("st", ".u64 [%0], %1;", ::"l"(p), "l"(w));
#endif
}

}  // namespace detail

// ---- loads and stores (4 or 8 bytes) ---------------------------------------------------------------------
/// ld.acquire: what the thread whose store_release or releasing atomic gave the value did before is seen.
template <Scope kScope = Scope::kDevice, class T>
DSV4_DEVICE T load_acquire(const T* p DSV4_LOC) {
  return detail::load_ordered<Order::kAcquire, kScope>(p DSV4_LOC_OF);
}
/// ld.relaxed: no race with atomics and ordered stores, and no order but through fence().
template <Scope kScope = Scope::kDevice, class T>
DSV4_DEVICE T load_relaxed(const T* p DSV4_LOC) {
  return detail::load_ordered<Order::kRelaxed, kScope>(p DSV4_LOC_OF);
}
/// st.release.
template <Scope kScope = Scope::kDevice, class T>
DSV4_DEVICE void store_release(T* p, std::type_identity_t<T> value DSV4_LOC) {
  detail::store_ordered<Order::kRelease, kScope>(p, value DSV4_LOC_OF);
}
/// st.relaxed.
template <Scope kScope = Scope::kDevice, class T>
DSV4_DEVICE void store_relaxed(T* p, std::type_identity_t<T> value DSV4_LOC) {
  detail::store_ordered<Order::kRelaxed, kScope>(p, value DSV4_LOC_OF);
}

/// fence.acq_rel. Before a relaxed store or atomic it releases, after a relaxed load or atomic it acquires.
/// It speaks for the calling thread alone: what other threads of the block wrote is released only if a
/// barrier came before the fence.
template <Scope kScope = Scope::kDevice>
DSV4_DEVICE void fence() {
#if defined(DSV4_SIMT_EMULATION)
  simt::fence(kScope);
#else
  DSV4_ARCH_SCOPED("fence.acq_rel", ";", ::);
#endif
}

// ---- atomics ---------------------------------------------------------------------------------------------
// Each returns the value before. A result that nobody uses makes the compiler emit red.

#if defined(DSV4_SIMT_EMULATION)
#define DSV4_ARCH_ATOMIC(name, instruction, u32, i32, u64, unsigned_op, signed_op)               \
  template <Order kOrder = Order::kRelaxed, Scope kScope = Scope::kDevice, class T>              \
  DSV4_DEVICE T atomic_##name(T* p, std::type_identity_t<T> v DSV4_LOC) {                        \
    static_assert(detail::kIsAtomicInteger<T>, "32-bit integers, 64-bit unsigned integers");     \
    return static_cast<T>(                                                                       \
        simt::atomic_rmw(std::is_signed_v<T> ? simt::Rmw::signed_op : simt::Rmw::unsigned_op, p, \
                         static_cast<detail::Bits<T>>(v), 0, sizeof(T), kOrder, kScope, loc));   \
  }
#else
#define DSV4_ARCH_ATOMIC(name, instruction, u32, i32, u64, unsigned_op, signed_op)                       \
  template <Order kOrder = Order::kRelaxed, Scope kScope = Scope::kDevice, class T>                      \
  DSV4_DEVICE T atomic_##name(T* p, std::type_identity_t<T> v) {                                         \
    static_assert(detail::kIsAtomicInteger<T>, "32-bit integers, 64-bit unsigned integers");             \
    detail::Bits<T> old, w = static_cast<detail::Bits<T>>(v);                                            \
    if constexpr (sizeof(T) == 8)                                                                        \
      DSV4_ARCH_ORDERED("atom", "." instruction "." u64 " %0, [%1], %2;", : "=l"(old) : "l"(p), "l"(w)); \
    else if constexpr (std::is_signed_v<T>)                                                              \
      DSV4_ARCH_ORDERED("atom", "." instruction "." i32 " %0, [%1], %2;", : "=r"(old) : "l"(p), "r"(w)); \
    else                                                                                                 \
      DSV4_ARCH_ORDERED("atom", "." instruction "." u32 " %0, [%1], %2;", : "=r"(old) : "l"(p), "r"(w)); \
    return static_cast<T>(old);                                                                          \
  }
#endif
DSV4_ARCH_ATOMIC(min, "min", "u32", "s32", "u64", kMinU, kMinS)
DSV4_ARCH_ATOMIC(max, "max", "u32", "s32", "u64", kMaxU, kMaxS)
DSV4_ARCH_ATOMIC(and, "and", "b32", "b32", "b64", kAnd, kAnd)
DSV4_ARCH_ATOMIC(or, "or", "b32", "b32", "b64", kOr, kOr)
DSV4_ARCH_ATOMIC(xor, "xor", "b32", "b32", "b64", kXor, kXor)
DSV4_ARCH_ATOMIC(exch, "exch", "b32", "b32", "b64", kExchange, kExchange)
#undef DSV4_ARCH_ATOMIC

/// Integers, and fp32 (round to nearest even; in global memory subnormals become zeros of their sign).
template <Order kOrder = Order::kRelaxed, Scope kScope = Scope::kDevice, class T>
DSV4_DEVICE T atomic_add(T* p, std::type_identity_t<T> v DSV4_LOC) {
  static_assert(detail::kIsAtomicInteger<T> || std::is_same_v<T, float>,
                "32-bit integers, 64-bit unsigned integers, float");
#if defined(DSV4_SIMT_EMULATION)
  constexpr simt::Rmw kOp = std::is_same_v<T, float> ? simt::Rmw::kAddF32 : simt::Rmw::kAdd;
  return detail::as<T>(static_cast<detail::Bits<T>>(
      simt::atomic_rmw(kOp, p, detail::as<detail::Bits<T>>(v), 0, sizeof(T), kOrder, kScope, loc)));
#else
  T old;
  if constexpr (std::is_same_v<T, float>)
    DSV4_ARCH_ORDERED("atom", ".add.f32 %0, [%1], %2;", : "=f"(old) : "l"(p), "f"(v));
  else if constexpr (sizeof(T) == 8)
    DSV4_ARCH_ORDERED("atom", ".add.u64 %0, [%1], %2;", : "=l"(old) : "l"(p), "l"(v));
  else
    DSV4_ARCH_ORDERED("atom", ".add.u32 %0, [%1], %2;", : "=r"(old) : "l"(p), "r"(v));
  return old;
#endif
}

/// *p = desired where *p is `expected`.
template <Order kOrder = Order::kRelaxed, Scope kScope = Scope::kDevice, class T>
DSV4_DEVICE T atomic_cas(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> desired DSV4_LOC) {
  static_assert(detail::kIsAtomicInteger<T>, "32-bit integers, 64-bit unsigned integers");
#if defined(DSV4_SIMT_EMULATION)
  return static_cast<T>(simt::atomic_rmw(simt::Rmw::kCas, p, static_cast<detail::Bits<T>>(desired),
                                         static_cast<detail::Bits<T>>(expected), sizeof(T), kOrder, kScope,
                                         loc));
#else
  T old;
  if constexpr (sizeof(T) == 8)
    DSV4_ARCH_ORDERED("atom", ".cas.b64 %0, [%1], %2, %3;",
                      : "=l"(old)
                      : "l"(p), "l"(expected), "l"(desired));
  else
    DSV4_ARCH_ORDERED("atom", ".cas.b32 %0, [%1], %2, %3;",
                      : "=r"(old)
                      : "l"(p), "r"(expected), "r"(desired));
  return old;
#endif
}

#if !defined(DSV4_SIMT_EMULATION)
#undef DSV4_ARCH_ORDERED
#undef DSV4_ARCH_SCOPED
#undef DSV4_ARCH_CLUSTER
#endif

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
