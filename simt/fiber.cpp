#include <dsv4/simt/fiber.hpp>

#include <cstdint>
#include <cstdlib>

#if defined(DSV4_SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
__asm__(R"(
.text
.p2align 4
.globl dsv4_simt_switch
.hidden dsv4_simt_switch
.type dsv4_simt_switch, @function
dsv4_simt_switch:
  endbr64
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rdx
  jmp *%rdx
.size dsv4_simt_switch, .-dsv4_simt_switch
)");
#elif defined(__aarch64__)
__asm__(R"(
.text
.p2align 4
.globl dsv4_simt_switch
.hidden dsv4_simt_switch
.type dsv4_simt_switch, %function
dsv4_simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size dsv4_simt_switch, .-dsv4_simt_switch
)");
#else
#error "the SIMT machine has no context switch for this processor (x86-64 and aarch64 have one)"
#endif

namespace dsv4::simt {

#if defined(DSV4_SIMT_ASAN)
namespace detail {

static thread_local constinit Context* asan_from = nullptr;

void before_switch(Context& from, Context& to, bool dying) {
  asan_from = &from;
  __sanitizer_start_switch_fiber(dying ? nullptr : &from.fake_stack, to.stack_low, to.stack_bytes);
}
void after_switch(Context* self) {
  const void* low = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(self ? self->fake_stack : nullptr, &low, &bytes);
  if (asan_from && !asan_from->stack_low) {  // the OS thread's own stack, seen for the first time
    asan_from->stack_low = low;
    asan_from->stack_bytes = bytes;
  }
}

}  // namespace detail
#endif

void make_context(Context& c, void* low, std::size_t bytes, void (*entry)()) {
  c.stack_low = low;
  c.stack_bytes = bytes;
  c.fake_stack = nullptr;
  const auto top = (reinterpret_cast<std::uintptr_t>(low) + bytes) & ~std::uintptr_t{15};
  auto** p = reinterpret_cast<void**>(top);
#if defined(__x86_64__)
  *--p = nullptr;  // the entry's return address: back traces end here, and rsp % 16 == 8 at its first
                   // instruction
  *--p = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--p = nullptr;
#else
  for (int i = 0; i < 20; ++i) *--p = nullptr;
  p[11] = reinterpret_cast<void*>(entry);  // x30
#endif
  c.sp = p;
}

}  // namespace dsv4::simt
