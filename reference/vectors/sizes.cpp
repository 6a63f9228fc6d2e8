// Sizes of the vectors: see sizes.hpp.
#include "reference/vectors/sizes.hpp"

#include "reference/config.hpp"
#include "reference/mapped_file.hpp"
#include "reference/printable.hpp"

#include <cstddef>

namespace dsv4::reference::vectors {

Sizes tiny_sizes() {
  Sizes s = kFlash;
  s.vocab = 64, s.hidden = 128, s.heads = 4, s.q_lora_rank = 64, s.o_groups = 2, s.o_lora_rank = 8;
  s.index_heads = 4, s.index_top_k = 4;
  s.experts = 8, s.active_experts = 3, s.expert_inner = 128;
  return s;
}

Sizes sizes_of(const std::string& config) {
  if (config == "tiny") return tiny_sizes();
  if (config == "flash") return kFlash;
  if (config == "pro") return kPro;
  constexpr std::size_t kLargest = 1 << 20;
  return parse_config(read_text(config, kLargest), printable(config)).config;
}

}  // namespace dsv4::reference::vectors
