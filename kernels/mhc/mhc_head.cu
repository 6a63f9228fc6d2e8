// Op mhc_head: checks and launch. The kernels: collapse.cuh.
#include <dsv4/ops/mhc.hpp>

#include "kernels/common/nan_guard.hpp"
#include "kernels/mhc/collapse.cuh"
#include "kernels/mhc/parameters.hpp"

namespace dsv4::ops::inline DSV4_FLAVOUR {

DSV4_OP(mhc_head, MhcHeadParams) {
  constexpr int kRows = mhc::kStreams;
  kernels::Checks<"mhc_head"> c;
  kernels::check_collapse_sizes<"", kRows>(c, p);
  if (!c.ok() || p.tokens == 0) return c.status();
  kernels::check_collapse_pointers<"">(c, p, false);
  kernels::check_workspace<"">(c, p, kernels::collapse_workspace_bytes(p));
  if (!c.ok()) return c.status();
  return kernels::with_type(p.dtype, "mhc_head: dtype", [&](auto type) {
    return kernels::launch_collapse<typename decltype(type)::type, kRows, false>(
        "mhc_head", kernels::collapse_arguments<kRows>(p), {}, stream);
  });
}

std::size_t mhc_head_workspace_bytes(const MhcHeadParams& p) noexcept {
  return kernels::collapse_workspace_bytes(p);
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
