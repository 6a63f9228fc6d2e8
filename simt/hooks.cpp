// What -fsanitize=thread makes the compiler call at each load and store of kernel code, supplied here in
// place of the sanitizer's library. Nothing of the machine itself is compiled so.
//
// Not seen: memcpy, memset and memmove that stay calls under g++ (it instruments them inside its library
// alone; small fixed sizes become loads and stores, and are seen). From version 15 on clang calls the
// __tsan_mem* functions; before, it leaves calls even of 16-byte assignments, which are not seen.
#include "simt/race.hpp"

#if defined(DSV4_SIMT_RACE)

#include "simt/machine.hpp"

#include <cstring>

namespace {

using namespace dsv4::simt;

inline void seen(const void* p, std::size_t bytes, bool write, const void* pc) {
  Thread* t = current;
  if (!t || race::Quiet::depth) return;
  const auto offset = static_cast<const char*>(p) - static_cast<const char*>(t->context.stack_low);
  if (static_cast<std::size_t>(offset) < t->context.stack_bytes) return;  // a thread's own locals
  // The machine may run an instrumented copy of a function template, on memory of its own: the state of its
  // random numbers.
  const Gang* gang = t->block->gang;
  if (static_cast<std::size_t>(static_cast<const char*>(p) - reinterpret_cast<const char*>(gang)) <
      sizeof(Gang))
    return;
  race::plain_access(*t, p, bytes, write, pc);
}

}  // namespace

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

#define DSV4_SIMT_HOOK(name, bytes, write) \
  void __tsan_##name##bytes(void* p) { seen(p, bytes, write, __builtin_return_address(0)); }
#define DSV4_SIMT_HOOKS(bytes)                          \
  DSV4_SIMT_HOOK(read, bytes, false)                    \
  DSV4_SIMT_HOOK(write, bytes, true)                    \
  DSV4_SIMT_HOOK(unaligned_read, bytes, false)          \
  DSV4_SIMT_HOOK(unaligned_write, bytes, true)          \
  DSV4_SIMT_HOOK(volatile_read, bytes, false)           \
  DSV4_SIMT_HOOK(volatile_write, bytes, true)           \
  DSV4_SIMT_HOOK(unaligned_volatile_read, bytes, false) \
  DSV4_SIMT_HOOK(unaligned_volatile_write, bytes, true) \
  void __tsan_read_write##bytes(void* p) {              \
    seen(p, bytes, false, __builtin_return_address(0)); \
    seen(p, bytes, true, __builtin_return_address(0));  \
  }                                                     \
  void __tsan_unaligned_read_write##bytes(void* p) { __tsan_read_write##bytes(p); }
DSV4_SIMT_HOOKS(1)
DSV4_SIMT_HOOKS(2)
DSV4_SIMT_HOOKS(4)
DSV4_SIMT_HOOKS(8)
DSV4_SIMT_HOOKS(16)

void __tsan_read_range(void* p, std::size_t bytes) { seen(p, bytes, false, __builtin_return_address(0)); }
void __tsan_write_range(void* p, std::size_t bytes) { seen(p, bytes, true, __builtin_return_address(0)); }

void* __tsan_memcpy(void* to, const void* from, std::size_t bytes) {
  seen(from, bytes, false, __builtin_return_address(0));
  seen(to, bytes, true, __builtin_return_address(0));
  return std::memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, std::size_t bytes) {
  seen(from, bytes, false, __builtin_return_address(0));
  seen(to, bytes, true, __builtin_return_address(0));
  return std::memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, std::size_t bytes) {
  seen(to, bytes, true, __builtin_return_address(0));
  return std::memset(to, value, bytes);
}

// The host's own atomics: of tests and of the standard library. Kernels use arch/atomic.cuh.
#define DSV4_SIMT_ATOMICS(bits, T)                                                                        \
  T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); } \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) {                                             \
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                                       \
  T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) {                                            \
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                                    \
  }                                                                                                       \
  T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) {                                            \
    return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);                                                    \
  }                                                                                                       \
  T __tsan_atomic##bits##_fetch_and(volatile T* p, T v, int) {                                            \
    return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST);                                                    \
  }                                                                                                       \
  T __tsan_atomic##bits##_fetch_or(volatile T* p, T v, int) {                                             \
    return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST);                                                     \
  }                                                                                                       \
  T __tsan_atomic##bits##_fetch_xor(volatile T* p, T v, int) {                                            \
    return __atomic_fetch_xor(p, v, __ATOMIC_SEQ_CST);                                                    \
  }                                                                                                       \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* c, T v, int, int) {                 \
    return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);               \
  }                                                                                                       \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* c, T v, int, int) {                   \
    return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);               \
  }                                                                                                       \
  T __tsan_atomic##bits##_compare_exchange_val(volatile T* p, T c, T v, int, int) {                       \
    __atomic_compare_exchange_n(p, &c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                     \
    return c;                                                                                             \
  }
DSV4_SIMT_ATOMICS(8, unsigned char)
DSV4_SIMT_ATOMICS(16, unsigned short)
DSV4_SIMT_ATOMICS(32, unsigned int)
DSV4_SIMT_ATOMICS(64, unsigned long)
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }

}  // extern "C"

#endif
