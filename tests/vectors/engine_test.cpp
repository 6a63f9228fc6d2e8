// The primitives of include/dsv4 pass every vector: an engine of other arithmetic than the oracles'.
#include "reference/vectors/report.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/files.hpp"
#include "tests/vectors/engine_attention.hpp"
#include "tests/vectors/engine_moe.hpp"
#include "tests/vectors/engine_rows.hpp"

#include <array>
#include <map>
#include <span>
#include <string>

namespace dsv4::test::engine {

Outputs run(const std::string& op, const Problem& problem) {
  static const std::map<std::string, Outputs (*)(const Problem&)> all = {
      {"rms_norm", rms_norm},
      {"act_quant", act_quant},
      {"rope", rope},
      {"hadamard", hadamard},
      {"mhc_pre", mhc_collapse},
      {"mhc_post", mhc_post},
      {"mhc_head", mhc_collapse},
      {"attn_q_proj", attn_q_proj},
      {"attn_kv_proj", attn_kv_proj},
      {"attn_compress", attn_compress},
      {"attn_index_prep", attn_index_prep},
      {"attn_index_scores", attn_index_scores},
      {"visibility", visibility},
      {"attn_select", attn_select},
      {"attn_attend", attn_attend},
      {"attn_out_proj", attn_out_proj},
      {"moe_gate", moe_gate},
      {"moe_experts", moe_experts},
      {"moe_combine", moe_combine},
      {"mtp_input", mtp_input},
      {"lm_head", lm_head},
  };
  return all.at(op)(problem);
}

}  // namespace dsv4::test::engine

namespace {

using namespace dsv4::reference;
using namespace dsv4::reference::vectors;

// What is wrong with the primitives' outputs of an op, with nothing named as a mistake if nothing is wrong.
std::string wrong_outputs(const Op& op, const Sizes& sizes, std::uint64_t seed) {
  const dsv4::test::TempFolder folder;
  const auto bytes = vectors_bytes(op, sizes, "test", seed);
  const std::string path = folder / "v.safetensors";
  const std::array chunks = {std::span<const std::byte>(bytes)};
  write_atomically(path, chunks);
  const VectorFile vectors = read_vectors(path);
  SafetensorsWriter writer;
  for (const StoredCase& c : vectors.cases)
    dsv4::test::engine::add(writer, c.given.name,
                            dsv4::test::engine::run(std::string(op.name), c.given.problem));
  const OpResult result = check_op(vectors, dsv4::test::engine::in_memory(writer.bytes(), "outputs"), {});
  REQUIRE(result.likely.empty() == (result.wrong() == 0));
  if (result.wrong() == 0) return "";
  return report_text({{result}});
}

}  // namespace

TEST_CASE("vectors: the primitives pass every one of them", "[vectors]") {
  for (const Op& op : ops()) {
    CAPTURE(std::string(op.name));
    for (const std::uint64_t seed : {1, 2, 3}) REQUIRE(wrong_outputs(op, tiny_sizes(), seed) == "");
  }
}

TEST_CASE("vectors: the primitives pass them at other sizes", "[vectors]") {
  Sizes sizes = tiny_sizes();
  sizes.hidden = 416, sizes.heads = 6, sizes.o_groups = 3, sizes.o_lora_rank = 40, sizes.index_heads = 7;
  sizes.index_top_k = 9, sizes.experts = 61, sizes.active_experts = 6, sizes.expert_inner = 160;
  sizes.route_scale = 2.5f, sizes.swiglu_limit = 7, sizes.shared_swiglu_limit = 7;
  for (const Op& op : ops()) {
    CAPTURE(std::string(op.name));
    REQUIRE(wrong_outputs(op, sizes, 4) == "");
  }
}

// The arithmetic of the vectors at widths where sums are long: not among the ordinary tests, for its time.
TEST_CASE("vectors: the primitives pass them at published sizes", "[.published]") {
  for (const Sizes& sizes : {dsv4::kFlash, dsv4::kPro})
    for (const Op& op : ops()) {
      CAPTURE(std::string(op.name), sizes.hidden);
      CHECK(wrong_outputs(op, sizes, 1) == "");
    }
}
