// Conformance cases on the SIMT machine.
#include "tests/arch/conformance/harness.hpp"

#include <cstdlib>
#include <memory>

namespace dsv4::conformance::inline DSV4_FLAVOUR {

// The machine has every instruction, so it stands for the architecture that has the most of them.
Executor executor() { return {.sm = 90, .name = "SIMT machine", .missing = ""}; }

Status run_case(const Case& c, Words& out) {
  // Exactly as large as the case says, so that a sanitizer sees what lies beyond; aligned as on a device.
  const auto allocate = [](int words) {
    constexpr std::size_t kAlign = 256;
    const std::size_t bytes = static_cast<std::size_t>(words > 0 ? words : 1) * sizeof(std::uint32_t);
    void* p = nullptr;
    if (posix_memalign(&p, kAlign, bytes) != 0) std::abort();
    return std::unique_ptr<std::uint32_t, decltype(&std::free)>(static_cast<std::uint32_t*>(p), &std::free);
  };
  const auto output = allocate(c.out_words), scratch = allocate(c.scratch_words);
  for (int i = 0; i < c.out_words; ++i) output.get()[i] = 0;
  for (int i = 0; i < c.scratch_words; ++i) scratch.get()[i] = scratch_word(static_cast<std::uint32_t>(i));
  const Status status = c.run({output.get(), scratch.get()}, nullptr);
  out.assign(output.get(), output.get() + c.out_words);
  return status;
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
