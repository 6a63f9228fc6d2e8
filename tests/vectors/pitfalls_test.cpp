// The list of what implementations of the model got wrong, each line with a case that fails where it is done.
#include "tests/support/catch.hpp"
#include "tests/vectors/engine.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace {

using namespace dsv4::reference;
using namespace dsv4::reference::vectors;
using M = Mistake;

struct Pitfall {
  const char *what, *op, *case_name;
  Mistake mistake;
};

// Pitfalls that an oracle can fall into on purpose.
constexpr Pitfall kPitfalls[] = {
    {"RoPE base of the wrong layer kind", "rope", "window_layer", M::kRopeOtherKind},
    {"RoPE base of the wrong layer kind: q", "attn_q_proj", "csa_layer", M::kRopeOtherKind},
    {"RoPE base of the wrong layer kind: kv", "attn_kv_proj", "csa_layer", M::kRopeOtherKind},
    {"RoPE base of the wrong layer kind: compressor", "attn_compress", "csa_chunks", M::kRopeOtherKind},
    {"RoPE base of the wrong layer kind: indexer", "attn_index_prep", "random", M::kRopeOtherKind},
    {"RoPE base of the wrong layer kind: output", "attn_out_proj", "window_layer", M::kRopeOtherKind},
    {"YaRN of the wrong layer kind", "rope", "csa_layer", M::kNoYarn},
    {"half-split instead of interleaved pairs", "rope", "hca_layer", M::kHalfSplit},
    {"half-split instead of interleaved pairs: kv", "attn_kv_proj", "window_layer", M::kHalfSplit},
    {"the first 64 channels instead of the last", "attn_q_proj", "window_layer", M::kFirstChannels},
    {"mscale folded in", "rope", "csa_layer", M::kMscale},
    {"mscale folded into the softmax's scale", "attn_attend", "both_pools", M::kMscale},
    {"inverse rotation missing", "attn_out_proj", "csa_layer", M::kWrongDirection},
    {"comb not transposed", "mhc_post", "random", M::kCombNotTransposed},
    {"comb not transposed where it is made", "mhc_pre", "random", M::kCombNotTransposed},
    {"post without its factor 2", "mhc_pre", "random", M::kPostNoFactor2},
    {"one Sinkhorn half-step too few", "mhc_pre", "deep_comb", M::kSinkhornStepShort},
    {"Sinkhorn ends on rows", "mhc_pre", "deep_comb", M::kSinkhornEndsOnRows},
    {"no eps", "mhc_pre", "tiny_pre", M::kNoHcEps},
    {"no eps in Sinkhorn", "mhc_pre", "deep_comb", M::kNoHcEps},
    {"no eps in the head", "mhc_head", "tiny_pre", M::kNoHcEps},
    {"no eps in a norm", "rms_norm", "small", M::kNormNoEps},
    {"per-head q norm missing", "attn_q_proj", "window_layer", M::kQueryNormMissing},
    {"q norm over all heads", "attn_q_proj", "csa_layer", M::kQueryNormOverHeads},
    {"window and compressed entries in two softmaxes", "attn_attend", "both_pools", M::kTwoSoftmaxes},
    {"sink added per split", "attn_attend", "both_pools", M::kSinkPerSplit},
    {"sink missing", "attn_attend", "both_pools", M::kSinkMissing},
    {"softmax without its maximum", "attn_attend", "large_scores", M::kMaxNotSubtracted},
    {"padding attended to", "attn_attend", "no_entry", M::kPaddingAttended},
    {"an index outside the pool clamped, NaN behind it", "attn_attend", "no_entry", M::kIndexClamped},
    {"compressed entry visible one token early (CSA)", "visibility", "csa", M::kVisibleEarly},
    {"compressed entry visible one token early (HCA)", "visibility", "hca", M::kVisibleEarly},
    {"compressed entry visible one token late (CSA)", "visibility", "csa", M::kVisibleLate},
    {"compressed entry visible one token late (HCA)", "visibility", "hca", M::kVisibleLate},
    {"a window of 127", "visibility", "window", M::kWindowShort},
    {"visible one token early in the selection", "attn_select", "few", M::kVisibleEarly},
    {"visible one token late in the selection", "attn_select", "few", M::kVisibleLate},
    {"top-k before visibility", "attn_select", "random", M::kSelectBeforeMask},
    {"block 0 of the overlap filled with zeros scores", "attn_compress", "csa", M::kBlock0Zeros},
    {"previous block lost between chunks", "attn_compress", "csa_chunks", M::kPreviousBlockLost},
    {"halves of the overlap swapped", "attn_compress", "csa", M::kHalvesSwapped},
    {"ape added twice (CSA)", "attn_compress", "csa", M::kApeTwice},
    {"ape added twice (HCA)", "attn_compress", "hca", M::kApeTwice},
    {"entry rotated at its index instead of i*m (CSA)", "attn_compress", "csa", M::kEntryAtIndex},
    {"entry rotated at its index instead of i*m (HCA)", "attn_compress", "hca", M::kEntryAtIndex},
    {"ReLU after the head sum", "attn_index_scores", "random", M::kReluAfterSum},
    {"no ReLU", "attn_index_scores", "random", M::kReluMissing},
    {"indexer sharing the main compressor", "attn_compress", "csa", M::kIndexSharesMain},
    {"Hadamard on the keys alone", "attn_index_prep", "random", M::kHadamardMissing},
    {"Hadamard on the queries alone", "attn_compress", "csa", M::kHadamardMissing},
    {"NaN scores becoming indices", "attn_select", "nan", M::kNanChosen},
    {"ties changing the selected set", "attn_select", "ties", M::kTiesHigher},
    {"ties changing the selected set: zeros", "attn_select", "zeros", M::kTiesHigher},
    {"top-k larger than what is visible", "attn_select", "few", M::kPadsWithZero},
    {"bias leaking into weights", "moe_gate", "bias", M::kBiasInWeights},
    {"bias not selecting", "moe_gate", "bias", M::kBiasIgnored},
    {"scale before renormalising", "moe_gate", "scored", M::kScaleBeforeRenorm},
    {"softplus overflows", "moe_gate", "large", M::kSoftplusOverflows},
    {"ties of experts", "moe_gate", "ties", M::kTiesHigher},
    {"hash layers taking weights from anywhere but the gate", "moe_gate", "hashed", M::kHashWeightsUniform},
    {"hash layers selecting by score", "moe_gate", "hashed", M::kHashIgnored},
    {"a table row naming one expert twice", "moe_gate", "hashed_duplicates", M::kDuplicatesOnce},
    {"clamp after the product", "moe_experts", "routed_clamp", M::kClampAfterProduct},
    {"no clamp", "moe_experts", "routed_clamp", M::kClampMissing},
    {"shared expert without clamp", "moe_experts", "shared_clamp", M::kClampMissing},
    {"routing weight after W2", "moe_experts", "routed", M::kWeightAfterW2},
    {"W1 and W3 swapped", "moe_experts", "routed", M::kGateUpSwapped},
    {"nibbles of FP4 weights swapped", "moe_experts", "routed", M::kNibblesSwapped},
    {"nibbles of FP4 activations swapped", "act_quant", "fp4_32_ties", M::kNibblesSwapped},
    {"quantising with the unrounded scale and storing the rounded one", "act_quant", "fp8_128_scales",
     M::kScaleUnrounded},
    {"the unrounded scale in an entry", "attn_kv_proj", "csa_layer", M::kScaleUnrounded},
    {"log2/ceil instead of exact bits (FP8, 128)", "act_quant", "fp8_128_scales", M::kScaleLog2},
    {"log2/ceil instead of exact bits (FP8, 64)", "act_quant", "fp8_64_scales", M::kScaleLog2},
    {"log2/ceil instead of exact bits (FP4)", "act_quant", "fp4_32_scales", M::kScaleLog2},
    {"truncation instead of rounding to even", "act_quant", "fp8_128_ties", M::kTruncates},
    {"halves away from zero", "act_quant", "fp4_32_ties", M::kHalfAway},
    {"no floor of the maximum", "act_quant", "fp8_64_special", M::kNoAmaxFloor},
    {"padded tokens leaking into the pools", "attn_compress", "csa_padded", M::kPaddingLeaks},
    {"Wo_a on quantised activations", "attn_out_proj", "csa_layer", M::kQuantisedBeforeWoA},
    {"a sum over experts in bf16", "moe_combine", "random", M::kSumInBf16},
};

const VectorFile& vectors_of(const std::string& op) {
  static std::map<std::string, VectorFile> known;
  const auto found = known.find(op);
  if (found != known.end()) return found->second;
  const auto bytes = vectors_bytes(*find_op(op), tiny_sizes(), "tiny", 1);
  return known.emplace(op, parse_vectors(dsv4::test::engine::in_memory(bytes, "vectors"))).first->second;
}

const StoredCase& case_of(const VectorFile& vectors, const std::string& name) {
  const auto found = std::find_if(vectors.cases.begin(), vectors.cases.end(),
                                  [&](const StoredCase& c) { return c.given.name == name; });
  CAPTURE(vectors.op->name.data(), name);
  REQUIRE(found != vectors.cases.end());
  return *found;
}

// The check of one case's outputs alone.
OpResult checked(const VectorFile& vectors, const std::string& case_name, const Outputs& outputs) {
  SafetensorsWriter writer;
  dsv4::test::engine::add(writer, case_name, outputs);
  CheckOptions options;
  options.partial = true;
  return check_op(vectors, dsv4::test::engine::in_memory(writer.bytes(), "outputs"), options);
}

Outputs engine_of(const VectorFile& vectors, const std::string& name) {
  return dsv4::test::engine::run(std::string(vectors.op->name), case_of(vectors, name).given.problem);
}

}  // namespace

TEST_CASE("vectors: every known pitfall fails the case that is there for it", "[vectors][pitfalls]") {
  for (const Pitfall& pitfall : kPitfalls) {
    CAPTURE(pitfall.what, pitfall.op, pitfall.case_name);
    const VectorFile& vectors = vectors_of(pitfall.op);
    const StoredCase& c = case_of(vectors, pitfall.case_name);
    Outputs outputs;
    for (const Output& o : vectors.op->oracle(c.given.problem, pitfall.mistake))
      outputs[o.name] = expected_of(o).array;
    const OpResult result = checked(vectors, pitfall.case_name, outputs);
    CHECK(result.wrong() > 0);
    CHECK(std::any_of(result.likely.begin(), result.likely.end(),
                      [&](const Likely& l) { return l.mistake == pitfall.mistake; }));
    CHECK(checked(vectors, pitfall.case_name, engine_of(vectors, pitfall.case_name)).wrong() == 0);
  }
}

TEST_CASE("vectors: a token whose bits depend on its batch", "[vectors][pitfalls]") {
  const VectorFile& vectors = vectors_of("mhc_pre");
  REQUIRE(case_of(vectors, "alone").given.same_as == "random");
  for (const bool altered : {false, true}) {
    SafetensorsWriter writer;
    for (const StoredCase& c : vectors.cases) {
      Outputs outputs = engine_of(vectors, c.given.name);
      if (altered && c.given.name == "alone") {  // the last bit of one coefficient: far inside its bound
        std::uint32_t bits = 0;
        std::memcpy(&bits, outputs["comb"].bytes.data() + 20, 4);
        bits ^= 1;
        std::memcpy(outputs["comb"].bytes.data() + 20, &bits, 4);
      }
      dsv4::test::engine::add(writer, c.given.name, outputs);
    }
    const OpResult result = check_op(vectors, dsv4::test::engine::in_memory(writer.bytes(), "outputs"), {});
    REQUIRE(result.wrong() == (altered ? 1 : 0));
    REQUIRE(result.likely.empty());
    for (const OutputResult& r : result.outputs)
      REQUIRE(r.depends_on_batch == (altered && r.case_name == "alone" && r.output == "comb"));
  }
}

TEST_CASE("vectors: a sink that overflows to NaN, and a NaN lost", "[vectors][pitfalls]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const VectorFile& attend = vectors_of("attn_attend");
  for (const char* name : {"sinks", "sink_infinite", "empty_rows"}) {
    Outputs outputs = engine_of(attend, name);
    outputs["o"] = Array::make(DType::kF32, outputs["o"].shape, [&](std::int64_t) { return nan; });
    const OpResult result = checked(attend, name, outputs);
    REQUIRE(result.outputs.at(0).comparison.nonfinite == result.outputs.at(0).comparison.values);
    REQUIRE(result.outputs.at(0).comparison.where == "[0, 0, 0]");
  }
  const VectorFile& norm = vectors_of("rms_norm");
  Outputs outputs = engine_of(norm, "special");
  const Array out = outputs["out"];
  outputs["out"] =
      Array::make(DType::kF32, out.shape, [&](std::int64_t i) { return i / 128 == 2 ? 0 : out.at(i); });
  REQUIRE(checked(norm, "special", outputs).outputs.at(0).comparison.nonfinite == 128);
}

TEST_CASE("vectors: positions of the last tokens, rounded", "[vectors][pitfalls]") {
  for (const char* op : {"rope", "attn_q_proj", "attn_kv_proj", "attn_index_prep"}) {
    const VectorFile& vectors = vectors_of(op);
    Problem p = case_of(vectors, "far").given.problem;
    const Array positions = p.array("positions");
    REQUIRE(positions.at(positions.count() - 1) == tiny_sizes().max_positions - 1);
    p.in["positions"] = Array::make(DType::kI64, positions.shape,
                                    [&](std::int64_t i) { return bf16_round(positions.at(i)); });
    CAPTURE(op);
    REQUIRE(checked(vectors, "far", dsv4::test::engine::run(op, p)).wrong() > 0);
  }
  REQUIRE(case_of(vectors_of("attn_compress"), "csa_far").given.problem.integer("start") == (1 << 20) - 8);
}

TEST_CASE("vectors: nothing to do is a case too", "[vectors][pitfalls]") {
  struct Empty {
    const char *op, *case_name;
  };
  for (const Empty& e :
       {Empty{"rms_norm", "empty"}, Empty{"rope", "empty"}, Empty{"mhc_pre", "empty"},
        Empty{"mhc_post", "empty"}, Empty{"attn_kv_proj", "empty"}, Empty{"attn_compress", "empty"},
        Empty{"attn_compress", "short"}, Empty{"attn_index_scores", "no_entries"},
        Empty{"attn_select", "empty"}, Empty{"attn_attend", "empty"}, Empty{"moe_gate", "empty"},
        Empty{"moe_experts", "empty"}, Empty{"moe_combine", "empty"}}) {
    CAPTURE(e.op, e.case_name);
    const VectorFile& vectors = vectors_of(e.op);
    for (const Expected& out : case_of(vectors, e.case_name).outputs) REQUIRE(out.array.count() == 0);
    REQUIRE(checked(vectors, e.case_name, engine_of(vectors, e.case_name)).wrong() == 0);
  }
}
