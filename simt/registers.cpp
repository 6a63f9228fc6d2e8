// setmaxnreg: registers do not exist here, but the rules about who changes their number do.
#include <dsv4/simt/registers.hpp>

#include "simt/machine.hpp"

namespace dsv4::simt {
namespace {

constexpr std::uint32_t kGroup = 4;  // warps

// Calls f(warp number) for the other warps of the calling thread's warpgroup.
template <class F>
void for_other_warps(const Thread& t, F&& f) {
  const std::uint32_t first = t.warp_id / kGroup * kGroup;
  for (std::uint32_t w = first; w < first + kGroup && w < t.block->warps.size(); ++w)
    if (w != t.warp_id) f(w);
}

}  // namespace

void set_max_registers(std::uint32_t count, bool increase, Loc loc) {
  const char* name = increase ? "setmaxnreg.inc" : "setmaxnreg.dec";
  // The count is part of the operation: lanes that disagree diverge.
  meet(kFullMask, kOpSetMaxRegisters + 1000 * count + (increase ? 500 : 0), name, nullptr, loc,
       [=](void**, Warp& warp) {
         const Thread& t = *current;
         const Block& b = *t.block;
         if (b.warps.size() % kGroup != 0)
           fail("%s: a block of %zu warps has no whole warpgroups (%s:%u)", name, b.warps.size(), loc.file,
                loc.line);
         if (warp.max_registers && (increase ? count < warp.max_registers : count > warp.max_registers))
           fail("%s: from %u registers to %u (%s:%u)", name, warp.max_registers, count, loc.file, loc.line);
         warp.max_registers = count;
         ++warp.register_changes;
         for_other_warps(t, [&](std::uint32_t w) {
           const Warp& other = b.warps[w];
           if (other.register_changes == warp.register_changes && other.max_registers != count)
             fail("%s: this warp asks for %u registers, warp %u of its warpgroup for %u (%s:%u)", name, count,
                  w, other.max_registers, loc.file, loc.line);
           if (other.alive == 0 && other.register_changes < warp.register_changes)
             fail("%s: warp %u of this warpgroup exited without it (%s:%u)", name, w, loc.file, loc.line);
         });
       });
}

void check_register_changes(const Thread& t) {
  for_other_warps(t, [&](std::uint32_t w) {
    if (t.block->warps[w].register_changes > t.warp->register_changes)
      fail("setmaxnreg: warp %u of this thread's warpgroup has executed it, this warp exits without", w);
  });
}

}  // namespace dsv4::simt
