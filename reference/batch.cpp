#include "reference/batch.hpp"

#include <algorithm>

namespace dsv4::reference {

Status make_batch(const Model& model, std::span<const Append> appends, Batch* batch) {
  const ModelConfig& config = model.config;
  Batch b;
  bool any_mtp = false, any_plain = false;
  for (const Append& a : appends) {
    DSV4_REQUIRE(a.state != nullptr, invalid_argument("append: state is null"));
    DSV4_REQUIRE(a.state->mode() == model.mode, invalid_argument("append: state of another numeric mode"));
    const std::int32_t blocks = a.state->has_mtp() ? config.blocks() : config.layers;
    DSV4_REQUIRE(
        a.state->blocks() == blocks,
        invalid_argument("append: state of another configuration (blocks)", a.state->blocks(), blocks));
    for (int i = 0; i < blocks; ++i)
      DSV4_REQUIRE(a.state->block(i).kind == config.kind(i),
                   invalid_argument("append: state of another configuration (kind of block)", i));
    for (const Segment& s : b.segments)
      DSV4_REQUIRE(s.state != a.state, invalid_argument("append: one sequence twice in a batch"));
    (a.state->has_mtp() ? any_mtp : any_plain) = true;
    const auto count = static_cast<std::int64_t>(a.tokens.size());
    DSV4_REQUIRE(
        a.next_tokens.size() == (a.state->has_mtp() ? a.tokens.size() : 0),
        invalid_argument("append: next_tokens must be as many as tokens with an MTP block, else none",
                         static_cast<std::int64_t>(a.next_tokens.size()), count));
    DSV4_REQUIRE(a.state->length() + count <= config.max_positions,
                 invalid_argument("append: sequence longer than max_position_embeddings",
                                  a.state->length() + count, config.max_positions));
    for (const auto& ids : {a.tokens, a.next_tokens})
      for (const std::int32_t id : ids)
        DSV4_REQUIRE(id >= 0 && id < config.vocab,
                     invalid_argument("append: token id out of range", id, config.vocab));
    const auto segment = static_cast<std::int32_t>(b.segments.size());
    b.segments.push_back({a.state, b.rows(), count, a.state->length()});
    for (std::int64_t i = 0; i < count; ++i) {
      b.position.push_back(a.state->length() + i);
      b.segment_of.push_back(segment);
    }
    b.tokens.insert(b.tokens.end(), a.tokens.begin(), a.tokens.end());
    b.next_tokens.insert(b.next_tokens.end(), a.next_tokens.begin(), a.next_tokens.end());
  }
  DSV4_REQUIRE(!(any_mtp && any_plain),
               invalid_argument("append: sequences with and without an MTP block in a batch"));
  *batch = std::move(b);
  return {};
}

std::int64_t chunk_limit(const ModelConfig& config, std::int64_t length) {
  constexpr std::int64_t kBytes = std::int64_t{128} << 20;
  // The widest activations alive at once: queries and outputs of all heads, streams twice, experts' rows,
  // index scores.
  const std::int64_t heads = std::int64_t{3} * config.heads * kHeadDim;
  const std::int64_t streams = std::int64_t{3} * kStreams * config.hidden;
  const std::int64_t experts =
      std::int64_t{config.active_experts} * (3 * config.expert_inner + 2 * config.hidden);
  const std::int64_t scores = length / kCsaRatio + 1;
  return std::clamp<std::int64_t>(kBytes / (4 * (heads + streams + experts + scores)), 1, 512);
}

}  // namespace dsv4::reference
