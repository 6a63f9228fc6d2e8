// One context switch, written by hand for x86-64 and aarch64.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define DSV4_SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DSV4_SIMT_ASAN 1
#endif
#endif

namespace dsv4::simt {

/// A suspended stack.
struct Context {
  void* sp = nullptr;
  const void* stack_low = nullptr;
  std::size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // ASan's
};

/// Prepares `c` to run entry() on the stack [low, low + bytes) when first switched to. entry never returns.
void make_context(Context& c, void* low, std::size_t bytes, void (*entry)());

namespace detail {
// Pushes the callee-saved registers, stores the stack pointer, loads the other one and pops. To the compiler
// a function of some other file: it knows that caller-saved registers change.
extern "C" void dsv4_simt_switch(void** from_sp, void* to_sp);
#if defined(DSV4_SIMT_ASAN)
void before_switch(Context& from, Context& to, bool dying);
void after_switch(Context* self);
#else
inline void before_switch(Context&, Context&, bool) {}
inline void after_switch(Context*) {}
#endif
}  // namespace detail

/// Saves the caller into `from` and continues `to`. Returns when something switches back. No allocation, no
/// system call; callee-saved registers only. `dying` = the caller is never resumed. Always inlined: after a
/// switch every `ret` is predicted wrongly, so the fewer frames the better.
[[gnu::always_inline]] inline void switch_context(Context& from, Context& to, bool dying = false) {
  detail::before_switch(from, to, dying);
  detail::dsv4_simt_switch(&from.sp, to.sp);
  detail::after_switch(&from);
}

/// The first call of a new fiber's entry.
inline void context_started() { detail::after_switch(nullptr); }

}  // namespace dsv4::simt
