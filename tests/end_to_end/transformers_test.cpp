// The recording of transformers' implementation (reference/tools/record_activations.py), within the limits.
#include "reference/validate/validate.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/recording_files.hpp"

#include <algorithm>
#include <string>

using namespace dsv4;
using namespace dsv4::reference;
using namespace dsv4::reference::validation;

namespace {

const std::filesystem::path kData = DSV4_TEST_DATA_DIR;
const std::string kTopk = "layers.1.attn.indexer.topk";

Recording recorded() { return open_recording(kData / "tiny-transformers.recording.safetensors"); }

Verdict run(const Recording& recording, RunMode mode) {
  Options options;
  options.run = mode;
  return validate_recording(load_model_for(recording, kData / "tiny-transformers.weights.safetensors"),
                            recording, options);
}

// The verdict on a tap; none where it was never compared.
TapVerdict tap_of(const Verdict& v, const std::string& name) {
  const auto it =
      std::find_if(v.taps.begin(), v.taps.end(), [&](const TapVerdict& t) { return t.tap == name; });
  return it == v.taps.end() ? TapVerdict{} : *it;
}

}  // namespace

TEST_CASE(
    "transformers' recording holds within the limits, free and staged, with every tensor accounted for") {
  const RunMode mode = GENERATE(RunMode::kFree, RunMode::kStaged);
  const Verdict v = run(recorded(), mode);
  CAPTURE(v.first_failure);
  REQUIRE(v.holds());
  REQUIRE(v.unexplained.empty());
  REQUIRE(v.calls == 127);
  REQUIRE(v.tensors == 1913);
  REQUIRE(v.inputs == 2 * 127 + 1);
  REQUIRE(v.compared + v.not_compared == v.tensors - v.inputs);
  REQUIRE(tap_of(v, "layers.0.attn.entry_new").calls == (mode == RunMode::kFree ? 1 : 0));
  REQUIRE(tap_of(v, "layers.0.attn.cache").calls == 1);
  REQUIRE(tap_of(v, "layers.2.ffn.gate.indices").calls == 12);
  REQUIRE(tap_of(v, "logits").calls == 127);
  // Four index heads: many entries score exactly 0, and torch breaks ties as it likes.
  REQUIRE(tap_of(v, kTopk).calls == (mode == RunMode::kFree ? 127 : 12));
  REQUIRE(tap_of(v, kTopk).swaps > 0);
  if (mode == RunMode::kFree) {
    REQUIRE(v.not_compared == 0);
  } else {
    // 115 decodes of three blocks without their insides, and of the choice without scores; attention of nine
    // full decodes, whose older keys are not recorded; three entries whose tokens are not.
    REQUIRE(v.not_compared == 115 * 3 + 115 + 9 * 3 + 3);
  }
}

TEST_CASE("Free, equal scores that fall otherwise than recorded are the recorded ones' to decide") {
  test::EditableFile file(recorded().file);
  const auto choice_of_a_decode = [](const auto& t) {
    return t.first.ends_with(kTopk) && !t.first.starts_with("call.000.");
  };
  REQUIRE(std::erase_if(file.tensors, choice_of_a_decode) == 126);
  const Verdict v = run(file.recording(), RunMode::kFree);
  REQUIRE_FALSE(v.holds());
  REQUIRE(v.first_failure.starts_with("layers.1.hc_ffn.out: "));
}
