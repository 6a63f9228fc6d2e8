#include <dsv4/core/workspace.hpp>

#include "tests/support/catch.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

using dsv4::kWorkspaceAlignment;
using dsv4::Workspace;

namespace {

struct Parts {
  float* sums;
  std::uint8_t* flags;
  double* empty;
  std::int32_t* last;
};

std::size_t walk(Parts* parts, void* base_or_null, std::int64_t tokens) {
  Workspace w(base_or_null);
  parts->sums = w.take<float>(tokens * 3);
  parts->flags = w.take<std::uint8_t>(tokens);
  parts->empty = w.take<double>(0);
  parts->last = w.take<std::int32_t>(1);
  return w.bytes();
}

}  // namespace

TEST_CASE("a workspace's size and its pointers come from one walk", "[core][workspace]") {
  const std::int64_t tokens = GENERATE(0, 1, 21, 22, 64, 256, 257);
  CAPTURE(tokens);
  Parts none{}, parts{};
  const std::size_t bytes = walk(&none, nullptr, tokens);
  REQUIRE(none.sums == nullptr);
  REQUIRE(none.last == nullptr);

  std::vector<std::byte> memory(bytes + kWorkspaceAlignment);
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  std::byte* base =
      memory.data() + (kWorkspaceAlignment - address % kWorkspaceAlignment) % kWorkspaceAlignment;
  REQUIRE(walk(&parts, base, tokens) == bytes);
  const auto offset = [base](const void* p) {
    return static_cast<std::size_t>(static_cast<const std::byte*>(p) - base);
  };
  const auto n = static_cast<std::size_t>(tokens);
  REQUIRE(offset(parts.sums) == 0);
  REQUIRE(offset(parts.flags) >= 12 * n);  // the parts do not overlap
  REQUIRE(offset(parts.empty) >= offset(parts.flags) + n);
  REQUIRE(offset(parts.last) >= offset(parts.empty));
  REQUIRE(bytes >= offset(parts.last) + 4);
  for (const void* p : {static_cast<void*>(parts.sums), static_cast<void*>(parts.flags),
                        static_cast<void*>(parts.empty), static_cast<void*>(parts.last)})
    REQUIRE(offset(p) % kWorkspaceAlignment == 0);
  REQUIRE(bytes < 13 * n + 4 + 4 * kWorkspaceAlignment);  // no more than the rounding of each part
}

TEST_CASE("a workspace too large for memory has a size that no buffer meets", "[core][workspace]") {
  constexpr std::size_t kMax = std::numeric_limits<std::size_t>::max();
  alignas(kWorkspaceAlignment) std::byte memory[kWorkspaceAlignment];
  Workspace w(memory);
  REQUIRE(w.take<float>(1) != nullptr);
  REQUIRE(w.take<double>(std::numeric_limits<std::int64_t>::max()) == nullptr);
  REQUIRE(w.bytes() == kMax);
  REQUIRE(w.take<float>(1) == nullptr);
  REQUIRE(w.bytes() == kMax);
  Workspace sum;  // parts that fit one by one, but not together
  for (int i = 0; i < 3; ++i) sum.take<std::uint8_t>(std::numeric_limits<std::int64_t>::max());
  REQUIRE(sum.bytes() == kMax);
}
