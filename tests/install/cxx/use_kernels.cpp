// Links the installed dsv4::kernels without the CUDA language: wrong sizes are refused, no device needed.
#include <dsv4/ops/embed.hpp>

#include <cstdio>

int main() {
  const dsv4::Status refused =
      dsv4::ops::embed({.tokens = -1, .hidden = 8, .vocab = 3, .streams = 4}, nullptr);
  std::puts(refused.what);
  if (refused.code != dsv4::Code::kInvalidArgument || refused.value != -1) return 1;
  const dsv4::Status empty = dsv4::ops::embed({.tokens = 0, .hidden = 8, .vocab = 3, .streams = 4}, nullptr);
  return empty.ok() ? 0 : 2;
}
