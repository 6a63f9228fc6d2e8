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

/// Saves the caller into `from` and continues `to`. Returns when something switches back. No allocation, no
/// system call; callee-saved registers only. `dying` = the caller is never resumed.
void switch_context(Context& from, Context& to, bool dying = false);

/// The first call of a new fiber's entry.
void context_started();

}  // namespace dsv4::simt
