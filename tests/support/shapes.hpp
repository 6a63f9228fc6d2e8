// Sizes that tests of kernels run with. Sanitized and race builds, 10 to 20 times slower, ask for fewer
// (DSV4_TEST_REDUCED=1).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

namespace dsv4::test {

/// True where the environment asks for reduced shapes.
inline bool reduced() {
  const char* value = std::getenv("DSV4_TEST_REDUCED");
  return value != nullptr && std::string_view(value) != "" && std::string_view(value) != "0";
}

/// Numbers of tokens T: none, one, two, around a tile of 64, a prime beyond four tiles.
/// GENERATE(from_range(test::token_counts()))
inline std::vector<std::int64_t> token_counts() {
  if (reduced()) return {0, 1, 2, 65};
  return {0, 1, 2, 63, 64, 65, 257};
}

/// Hidden sizes D: one group of scales, two, and the published models'. `most` leaves out larger ones, where
/// many tokens would take long.
inline std::vector<std::int64_t> hidden_sizes(std::int64_t most = 7168) {
  std::vector<std::int64_t> sizes;
  for (const std::int64_t d : {128, 256, 4096, 7168})
    if (d <= (reduced() && most > 256 ? 256 : most)) sizes.push_back(d);
  return sizes;
}

struct RowsOf {
  std::int64_t tokens, hidden;
};

/// Every number of tokens at V4-Flash's width, and few at V4-Pro's.
inline std::vector<RowsOf> model_shapes() {
  std::vector<RowsOf> shapes = {{2, 7168}, {3, 7168}};
  for (const std::int64_t tokens : token_counts()) shapes.push_back({tokens, 4096});
  return shapes;
}

}  // namespace dsv4::test
