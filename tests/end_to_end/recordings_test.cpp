// The recordings of the published model, within the limits; and recordings with one thing wrong, each named.
#include "reference/validate/validate.hpp"
#include "reference/weights.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/files.hpp"
#include "tests/support/recording_files.hpp"
#include "tests/support/shapes.hpp"

#include <algorithm>
#include <string>
#include <vector>

using namespace dsv4;
using namespace dsv4::reference;
using namespace dsv4::reference::validation;

namespace {

const std::filesystem::path kData = DSV4_TEST_DATA_DIR;

struct Loaded {
  explicit Loaded(const std::string& name)
      : recording(open_recording(kData / (name + ".recording.safetensors"))),
        model(load_model_for(recording, kData / (name + ".weights.safetensors"))),
        file(recording.file) {}
  Recording recording;
  Model model;
  test::EditableFile file;
};

const Loaded& exact() {
  static const Loaded loaded("tiny-exact");
  return loaded;
}
const Loaded& deploy() {
  static const Loaded loaded("tiny-deploy");
  return loaded;
}

Verdict run(const Model& model, const Recording& recording, RunMode mode, std::int64_t last_call = -1) {
  Options options;
  options.run = mode;
  options.last_call = last_call;
  return validate_recording(model, recording, options);
}

std::int64_t calls_of(const Verdict& v, const std::string& tap) {
  for (const TapVerdict& t : v.taps)
    if (t.tap == tap) return t.calls;
  return 0;
}

}  // namespace

TEST_CASE("The recordings hold within the limits, free and staged, with every tensor accounted for") {
  const Loaded& loaded = GENERATE(true, false) ? exact() : deploy();
  const RunMode mode = GENERATE(RunMode::kFree, RunMode::kStaged);
  const Verdict v = run(loaded.model, loaded.recording, mode);
  CAPTURE(loaded.recording.file.name(), v.first_failure);
  REQUIRE(v.holds());
  REQUIRE(v.first_failure.empty());
  REQUIRE(v.failing() == 0);
  REQUIRE(v.unexplained.empty());
  REQUIRE(v.calls == 121);
  REQUIRE(v.tensors == 2407);
  REQUIRE(v.inputs == 3 * 121 + 1);
  REQUIRE(v.compared + v.not_compared == v.tensors - v.inputs);
  if (mode == RunMode::kFree) {
    REQUIRE(v.not_compared == 0);
    REQUIRE(v.taps.size() == 116);
    REQUIRE(calls_of(v, "layers.1.hc_ffn.out") == 121);
    REQUIRE(calls_of(v, "mtp.0.attn.o") == 12);
  } else {
    // 109 decodes of four blocks without their insides; attention of nine full decodes, whose older keys are
    // not recorded; three entries whose tokens are not.
    REQUIRE(v.not_compared == 109 * 4 + 9 * 4 + 3);
    REQUIRE(calls_of(v, "layers.1.hc_ffn.out") == 12);
    REQUIRE(calls_of(v, "layers.1.attn.o") == 3);
    REQUIRE(calls_of(v, "layers.1.attn.entry_new") == 1);
    REQUIRE(calls_of(v, "layers.1.attn.indexer.keys") == 12);
    REQUIRE(calls_of(v, "layers.1.attn.indexer.scores") == 12);
    REQUIRE(calls_of(v, "layers.2.attn.cache") == 1);
  }
  REQUIRE(calls_of(v, "final_norm") == 121);
  REQUIRE(calls_of(v, "logits") == 121);
  REQUIRE(calls_of(v, "mtp.0.logits") == 121);
  REQUIRE(calls_of(v, "layers.1.attn.indexer.topk") == 12);
  REQUIRE(calls_of(v, "layers.0.ffn.gate.indices") == 12);
}

TEST_CASE("One changed element fails, with tap, call, token, head and channel") {
  struct Change {
    std::string tensor;
    std::int64_t element;
    std::string named;  // what the one line must hold
  };
  constexpr std::int64_t kRow = 4 * 512;
  const Change change = GENERATE(
      // The fifth of `rows` is token 4.
      Change{"call.000.layers.1.attn.q", 4 * kRow + 3 * 512 + 77,
             "layers.1.attn.q: .*call 0, token 4 (position 4), head 3, channel 77: "},
      Change{"call.000.layers.0.attn.o", 15 * kRow + 511,
             "layers.0.attn.o: .*call 0, token 139 (position 139), head 0, channel 511: "},
      Change{"call.000.layers.2.hc_attn.comb", 50 * 16 + 7,
             "layers.2.hc_attn.comb: .*token 50 (position 50), comb[1][3]: "},
      Change{"call.000.layers.1.attn.kv", 145 * 512 + 3, "layers.1.attn.kv: .*call 0, entry 5, channel 3: "},
      Change{"call.000.layers.1.attn.kv", 20 * 512 + 500,
             "layers.1.attn.kv: .*token 20 (position 20), channel 500: "},
      Change{"call.000.layers.1.attn.indexer.keys", 34 * 128 + 9,
             "layers.1.attn.indexer.keys: .*call 0, entry 34, channel 9: "},
      Change{"call.000.layers.1.attn.indexer.q", 2 * 8 * 128 + 5 * 128 + 1,
             "layers.1.attn.indexer.q: .*token 2 (position 2), head 5, channel 1: "},
      Change{"call.000.layers.1.hc_ffn.out", 9 * 256 + 2 * 64 + 33,
             "layers.1.hc_ffn.out: .*token 9 (position 9), stream 2, channel 33: "},
      Change{"call.000.mtp.0.ffn.gate.weights", 7 * 6 + 5, "mtp.0.ffn.gate.weights: .*token 7 "},
      Change{"call.001.layers.2.attn.kv_new", 8, "layers.2.attn.kv_new: .*call 1, token 0 (position 140)"},
      Change{"call.002.final_norm", 63, "final_norm: .*call 2, token 0 (position 141), channel 63: "},
      Change{"call.002.logits", 200, "logits: .*call 2, token 0 (position 141), vocabulary id 200: "});
  CAPTURE(change.tensor, change.element);
  test::EditableFile file = exact().file;
  file.set<float>(change.tensor, change.element, file.get<float>(change.tensor, change.element) + 0.125f);
  const Recording recording = file.recording();
  for (const RunMode mode : {RunMode::kFree, RunMode::kStaged}) {
    const Verdict v = run(exact().model, recording, mode, 2);
    CAPTURE(v.first_failure);
    REQUIRE_FALSE(v.holds());
    std::size_t at = 0;
    for (std::size_t begin = 0; begin <= change.named.size();) {  // pieces between ".*", in this order
      const std::size_t end = std::min(change.named.find(".*", begin), change.named.size());
      at = v.first_failure.find(change.named.substr(begin, end - begin), at);
      REQUIRE(at != std::string::npos);
      begin = end + 2;
    }
    REQUIRE(v.first_failure.starts_with(change.tensor.substr(9) + ": "));
  }
}

TEST_CASE("Deploy: too many flipped bits, a wrong row and a NaN fail") {
  test::EditableFile file = deploy().file;
  SECTION("one in a hundred elements off by one bit") {
    const std::string name = "call.000.layers.1.attn.qr";
    for (std::int64_t i = 0; i < 140 * 256; i += 50)
      file.set<std::uint16_t>(name, i, file.get<std::uint16_t>(name, i) ^ 1);
    const Verdict v = run(deploy().model, file.recording(), RunMode::kStaged, 0);
    REQUIRE(v.first_failure.starts_with("layers.1.attn.qr: bit-equal elements 98 % < 99.5 %"));
  }
  SECTION("one row") {
    file.set<bf16>("call.000.layers.0.ffn.out", 17 * 128 + 4, from_float<bf16>(3.0f));
    const Verdict v = run(deploy().model, file.recording(), RunMode::kStaged, 0);
    REQUIRE(v.first_failure.starts_with("layers.0.ffn.out: L2 of a row"));
    REQUIRE(v.first_failure.find("token 17 (position 17), channel 4: ") != std::string::npos);
    REQUIRE(v.first_failure.ends_with("recorded 3"));
  }
  SECTION("a NaN, even where there is no limit") {
    file.set<std::uint16_t>("call.000.layers.2.attn.out", 4 * 128 + 6, 0x7fc0);
    for (const RunMode mode : {RunMode::kFree, RunMode::kStaged}) {
      const Verdict v = run(deploy().model, file.recording(), mode, 0);
      CAPTURE(v.first_failure);
      REQUIRE(v.first_failure.starts_with("layers.2.attn.out: NaN or infinity in 1 places"));
      REQUIRE(v.first_failure.find("token 4 (position 4), channel 6: ") != std::string::npos);
    }
  }
}

TEST_CASE("Selections fail as sets, and may swap only what scores the same") {
  test::EditableFile file = exact().file;
  const std::string idx = "call.000.layers.1.attn.idx", topk = "call.000.layers.1.attn.indexer.topk",
                    experts = "call.000.layers.2.ffn.gate.indices",
                    scores = "call.000.layers.1.attn.indexer.scores";
  const std::int64_t at = 139 * 16;
  SECTION("the order within a row means nothing") {
    const auto first = file.get<std::int32_t>(topk, at), second = file.get<std::int32_t>(topk, at + 1);
    file.set(topk, at, second);
    file.set(topk, at + 1, first);
    REQUIRE(run(exact().model, file.recording(), RunMode::kStaged, 0).holds());
  }
  SECTION("a window row that is missing") {
    file.set<std::int32_t>(idx, 3 * 144 + 2, -1);  // token 3 sees positions 0..3
    const Verdict v = run(exact().model, file.recording(), RunMode::kStaged, 0);
    REQUIRE(v.first_failure.starts_with("layers.1.attn.idx: 1 members differ"));
    REQUIRE(v.first_failure.find("token 3 (position 3), only computed: position 2") != std::string::npos);
  }
  SECTION("another entry") {
    std::int32_t other = 0;  // the lowest that is not among the chosen
    const auto chosen = [&](std::int32_t e) {
      for (std::int64_t i = 0; i < 16; ++i)
        if (file.get<std::int32_t>(topk, at + i) == e) return true;
      return false;
    };
    while (chosen(other)) ++other;
    const auto replaced = file.get<std::int32_t>(topk, at + 15);  // the last to be chosen
    file.set(topk, at + 15, other);
    file.set(idx, 139 * 144 + 128 + 15, 140 + other);
    const Verdict wrong = run(exact().model, file.recording(), RunMode::kStaged, 0);
    REQUIRE(wrong.first_failure.starts_with("layers.1.attn.indexer.topk: 2 members differ"));
    REQUIRE(wrong.first_failure.find("token 139 (position 139)") != std::string::npos);
    // The same with both scores recorded as equal, but for a rounding: a swap.
    const auto score = file.get<float>(scores, 139 * 35 + replaced);
    file.set(scores, 139 * 35 + other, score * (1 - 0x1p-23f));
    const Verdict swapped = run(exact().model, file.recording(), RunMode::kStaged, 0);
    for (const TapVerdict& t : swapped.taps)
      if (t.tap == "layers.1.attn.indexer.topk") {
        REQUIRE(t.holds);
        REQUIRE(t.swaps == 1);
      }
  }
  SECTION("another expert") {
    std::int32_t other = 0;
    for (bool again = true; again; other += again) {
      again = false;
      for (std::int64_t i = 0; i < 6; ++i)
        again = again || file.get<std::int32_t>(experts, 40 * 6 + i) == other;
    }
    file.set(experts, 40 * 6 + 5, other);
    const Verdict v = run(exact().model, file.recording(), RunMode::kStaged, 0);
    REQUIRE(v.first_failure.starts_with("layers.2.ffn.gate.indices: 2 members differ"));
    REQUIRE(v.first_failure.find("token 40 (position 40), only computed: expert") != std::string::npos);
  }
  SECTION("a number that is no entry cannot be used") {
    file.set<std::int32_t>(topk, at, 35);
    const Recording recording = file.recording();
    REQUIRE(test::input_error([&] { run(exact().model, recording, RunMode::kFree, 0); }) ==
            "edited.safetensors: tensor '" + topk + "': row 139 selects 35, must be -1 or in [0, 35)");
  }
}

TEST_CASE("A tensor of no meaning is unexplained; missing taps are none of the comparison's business") {
  test::EditableFile file = exact().file;
  SECTION("unknown names") {
    const std::string name =
        GENERATE("call.000.layers.0.attn.qq", "call.000.layers.3.attn.q", "call.000.layers.0.attn.indexer.q",
                 "call.000.mtp.1.logits", "surprise", "call.0.logits");
    file.put<float>(name, {1}, {0.0f});
    const Verdict v = run(exact().model, file.recording(), RunMode::kFree, 0);
    REQUIRE_FALSE(v.holds());
    REQUIRE(v.failing() == 0);
    REQUIRE(v.unexplained == std::vector<std::string>{name});
  }
  SECTION("an MTP block that is not fed") {
    std::erase_if(file.tensors, [](const auto& t) { return t.first.ends_with(".next_tokens"); });
    const Verdict v = run(exact().model, file.recording(), RunMode::kFree, 0);
    REQUIRE_FALSE(v.holds());
    REQUIRE(v.failing() == 0);
    REQUIRE(std::all_of(v.unexplained.begin(), v.unexplained.end(),
                        [](const std::string& name) { return name.find(".mtp.0.") != std::string::npos; }));
  }
  SECTION("what a missing input leaves uncompared is listed") {
    file.tensors.erase("call.000.layers.1.attn.qr");
    const Verdict v = run(exact().model, file.recording(), RunMode::kStaged, 0);
    REQUIRE(v.holds());
    REQUIRE(calls_of(v, "layers.1.attn.q") == 0);
    REQUIRE(calls_of(v, "layers.1.attn.o") == 1);
    REQUIRE(std::any_of(v.listed.begin(), v.listed.end(), [](const ListedGroup& g) {
      return g.tap == "attn.q" && g.reason == "input not recorded: attn.qr" && g.count == 1;
    }));
  }
}

TEST_CASE("Calls and taps that are not asked for are listed, not compared") {
  Options options;
  options.run = GENERATE(RunMode::kFree, RunMode::kStaged);
  options.first_call = 1;
  options.last_call = 2;
  options.until = "layers.0.hc_ffn.out";
  const Verdict v = validate_recording(exact().model, exact().recording, options);
  REQUIRE(v.holds());
  REQUIRE(v.calls == 3);
  REQUIRE(v.taps.back().tap == "layers.0.hc_ffn.out");
  for (const TapVerdict& t : v.taps) REQUIRE(t.calls <= 2);
  REQUIRE(v.compared + v.not_compared == v.tensors - v.inputs);

  options.until = "layers.7.in";
  REQUIRE(test::input_error([&] { validate_recording(exact().model, exact().recording, options); }) ==
          "--until: 'layers.7.in' is no tap of this model");
  options.until.clear();
  options.first_call = 121;
  options.last_call = -1;
  REQUIRE(test::input_error([&] {
            validate_recording(exact().model, exact().recording, options);
          }).starts_with("--calls: "));
}

TEST_CASE("A dump of a run holds against itself without a difference, whatever the threads") {
  const Loaded& loaded = GENERATE(true, false) ? exact() : deploy();
  const test::TempFolder folder;
  std::string first;
  for (const int threads : test::reduced() ? std::vector{1} : std::vector{1, 2, 5}) {
    Options options;
    options.threads = threads;
    options.dump = folder / ("dump-" + std::to_string(threads));
    REQUIRE(validate_recording(loaded.model, loaded.recording, options).holds());
    const std::string bytes = test::read_file(options.dump);
    if (first.empty()) first = bytes;
    REQUIRE(bytes == first);
  }
  const Recording dump = open_recording(folder / "dump-1");
  REQUIRE(dump.calls.size() == 121);
  // Everything that the recording holds is in the dump, with the same dtype and shape (selections may be
  // padded otherwise).
  for (const StoredTensor& t : loaded.recording.file.tensors()) {
    CAPTURE(t.name);
    const StoredTensor* other = dump.file.find(t.name);
    REQUIRE(other != nullptr);
    REQUIRE(other->dtype == t.dtype);
    REQUIRE(other->shape[0] == t.shape[0]);
  }
  for (const RunMode mode : {RunMode::kFree, RunMode::kStaged}) {
    Options options;
    options.run = mode;
    options.tolerance_scale = 0;
    const Verdict v = validate_recording(loaded.model, dump, options);
    CAPTURE(v.first_failure);
    REQUIRE(v.holds());
    REQUIRE(v.not_compared == 0);
    for (const TapVerdict& t : v.taps) REQUIRE(t.differing == 0);
  }
}

TEST_CASE("Weights and recording must belong together") {
  REQUIRE(test::input_error([] {
            load_model_for(exact().recording, kData / "tiny-deploy.weights.safetensors");
          }).find("config: ") != std::string::npos);
  // The same configuration, another numeric mode.
  test::EditableFile file = exact().file;
  std::string& config = file.metadata["config"];
  config.replace(config.find("\"exact\""), 7, "\"deploy\"");
  std::erase_if(file.tensors, [](const auto& t) {
    return t.second.dtype == DType::kF32;  // activations of the other mode
  });
  const Recording recording = file.recording();
  REQUIRE(test::input_error([&] {
            load_model_for(recording, kData / "tiny-exact.weights.safetensors");
          }).ends_with("config: mode is exact, but edited.safetensors has deploy"));
}
