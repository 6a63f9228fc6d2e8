// Recording and validating models of other configurations than the recorded ones: what a run dumps, a second
// run reproduces without a difference, and a changed element is found.
#include "reference/validate/validate.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/files.hpp"
#include "tests/support/random_model.hpp"
#include "tests/support/recording_files.hpp"

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

using namespace dsv4;
using namespace dsv4::reference;
using namespace dsv4::reference::validation;

namespace {

struct Case {
  std::string name;
  std::function<void(ModelConfig&)> change;
  std::vector<std::int32_t> ratios;  // layers, then the MTP block's if there is one
  std::int32_t mtp;
  test::Calls calls;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"no MTP block, one layer of each kind in another order",
       [](ModelConfig& c) { c.hash_layers = 0; },
       {128, 0, 4},
       0,
       {{0, 130}, {130, 1}, {131, 1}, {132, 3}}},
      {"chunks of any size",
       [](ModelConfig& c) { c.index_top_k = 5; },
       {4, 4, 128, 0},
       1,
       {{0, 3}, {3, 1}, {4, 4}, {8, 130}, {138, 7}, {145, 1}}},
      {"other sizes, all experts active, no clamps",
       [](ModelConfig& c) {
         c.hidden = 96, c.heads = 6, c.o_groups = 3, c.o_lora_rank = 24, c.q_lora_rank = 40;
         c.experts = 5, c.active_experts = 5, c.expert_inner = 48, c.index_heads = 3, c.index_top_k = 7;
         c.swiglu_limit = 0, c.shared_swiglu_limit = 0, c.hash_layers = 2, c.vocab = 333;
       },
       {4, 128, 4},
       1,
       {{0, 21}, {21, 20}, {41, 1}, {42, 1}, {43, 1}}},
      {"the smallest",
       [](ModelConfig& c) {
         c.hidden = 1, c.heads = 1, c.o_groups = 1, c.o_lora_rank = 1, c.q_lora_rank = 1, c.vocab = 2;
         c.experts = 1, c.active_experts = 1, c.expert_inner = 1, c.index_heads = 1, c.index_top_k = 1;
         c.hash_layers = 0;
       },
       {4, 0},
       1,
       {{0, 1}, {1, 1}, {2, 7}, {9, 1}}},
      {"rollbacks and a second sequence",
       [](ModelConfig&) {},
       {0, 4, 128, 4},
       1,
       {{0, 126}, {126, 1}, {127, 5}, {125, 3}, {128, 1}, {120, 9}, {0, 6}, {6, 1}, {3, 2}, {5, 1}}},
      {"an MTP block with compression",
       [](ModelConfig& c) { c.hash_layers = 1; },
       {0, 4},
       1,
       {{0, 9}, {9, 1}, {10, 1}, {11, 1}}},
  };
  return all;
}

ModelConfig config_of(const Case& c) {
  ModelConfig config = test::tiny_config();
  config.mtp_layers = c.mtp;
  config.layers = static_cast<std::int32_t>(c.ratios.size()) - c.mtp;
  config.hash_layers = std::min(config.hash_layers, config.layers);
  config.compress_ratio = {};
  std::copy(c.ratios.begin(), c.ratios.end(), config.compress_ratio.begin());
  c.change(config);
  INFO(validate(config).what);
  REQUIRE(validate(config).ok());
  return config;
}

Verdict run(const Model& model, const Recording& recording, RunMode mode, double scale = 1) {
  Options options;
  options.run = mode;
  options.tolerance_scale = scale;
  return validate_recording(model, recording, options);
}

}  // namespace

TEST_CASE("Models of any configuration: a dump holds against itself, free and staged, call by call") {
  const std::size_t which = GENERATE(range(std::size_t{0}, std::size_t{6}));
  REQUIRE(cases().size() == 6);
  const NumericMode mode = GENERATE(NumericMode::kExact, NumericMode::kDeploy);
  const Case& c = cases()[which];
  CAPTURE(c.name, mode == NumericMode::kExact);
  const ModelConfig config = config_of(c);
  const Model model = test::random_model(config, mode, 100 + which);
  const Recording inputs = test::inputs_to_record(config, mode, c.calls, 7).recording();
  REQUIRE(test::input_error([&] { run(model, inputs, RunMode::kFree); }) ==
          "edited.safetensors: holds inputs alone, nothing to compare (--dump records them)");

  const test::TempFolder folder;
  Options options;
  options.dump = folder / "dump.safetensors";
  const Verdict nothing = validate_recording(model, inputs, options);
  REQUIRE(nothing.holds());
  REQUIRE(nothing.taps.empty());
  const Recording dump = open_recording(options.dump);
  REQUIRE(dump.calls.size() == c.calls.size());
  REQUIRE(dump.mtp == (config.mtp_layers > 0));
  for (const RunMode run_mode : {RunMode::kFree, RunMode::kStaged}) {
    const Verdict v = run(model, dump, run_mode, 0);
    CAPTURE(v.first_failure, run_mode == RunMode::kFree);
    REQUIRE(v.holds());
    REQUIRE(v.unexplained.empty());
    REQUIRE(v.not_compared == 0);  // everything is recorded, so everything can be staged
    for (const TapVerdict& t : v.taps) {
      CAPTURE(t.tap);
      REQUIRE(t.differing == 0);
      REQUIRE(t.swaps == 0);
    }
  }

  // Any one tap of the last call, changed: it is the one that fails.
  test::EditableFile file(dump.file);
  const Call& last = dump.calls.back();
  int changed = 0;
  for (const auto& [order, tensor] : last.taps) {
    const PlannedTap& tap = dump.plan.tap(order);
    if (order % 3 != static_cast<int>(which % 3) || tensor->count() == 0) continue;
    if (tap.info->elements == TapElements::kIndex || tap.info->rows == TapRows::kCache) continue;
    test::EditableFile broken = file;
    const std::int64_t element = tensor->count() - 1;
    if (tensor->dtype == DType::kF32)
      broken.set<float>(tensor->name, element, broken.get<float>(tensor->name, element) + 3.0f);
    else
      broken.set<bf16>(tensor->name, element,
                       from_float<bf16>(to_float(broken.get<bf16>(tensor->name, element)) + 3.0f));
    const Verdict v = run(model, broken.recording(), RunMode::kStaged, 0);
    CAPTURE(tensor->name, v.first_failure);
    REQUIRE_FALSE(v.holds());
    REQUIRE(v.first_failure.starts_with(tap.name + ": "));
    REQUIRE(v.first_failure.find("call " + std::to_string(last.number) + ", ") != std::string::npos);
    if (++changed == 6) break;
  }
  REQUIRE(changed > 0);
}

TEST_CASE("A recording of the same tokens in other chunks holds the same final values") {
  const NumericMode mode = GENERATE(NumericMode::kExact, NumericMode::kDeploy);
  const Case c{"", [](ModelConfig&) {}, {0, 4, 128, 0}, 1, {{0, 140}}};
  const ModelConfig config = config_of(c);
  const Model model = test::random_model(config, mode, 5);
  const test::TempFolder folder;
  // The same 140 tokens in one call, and in five.
  test::EditableFile whole = test::inputs_to_record(config, mode, c.calls, 11), cut = whole;
  std::erase_if(cut.tensors, [](const auto&) { return true; });
  std::int64_t number = 0;
  for (const auto& [start, count] : test::Calls{{0, 5}, {5, 1}, {6, 100}, {106, 33}, {139, 1}}) {
    const std::string prefix = "call.00" + std::to_string(number++) + ".";
    for (const std::string name : {"tokens", "next_tokens"}) {
      std::vector<std::int64_t> ids;
      for (std::int64_t t = 0; t < count; ++t)
        ids.push_back(whole.get<std::int64_t>("call.000." + name, start + t));
      cut.put<std::int64_t>(prefix + name, {count}, ids);
    }
    cut.put<std::int64_t>(prefix + "start_pos", {1}, {start});
  }
  Options options;
  options.dump = folder / "whole";
  validate_recording(model, whole.recording(), options);
  options.dump = folder / "cut";
  validate_recording(model, cut.recording(), options);
  const test::EditableFile a(SafetensorsFile::open(folder / "whole")),
      b(SafetensorsFile::open(folder / "cut"));
  for (const std::string name : {"logits", "mtp.0.logits"})
    REQUIRE(a.tensors.at("call.000." + name).bytes == b.tensors.at("call.004." + name).bytes);
  const auto& streams = a.tensors.at("call.000.layers.2.hc_ffn.out").bytes;
  const auto& last = b.tensors.at("call.004.layers.2.hc_ffn.out").bytes;
  REQUIRE(std::equal(last.rbegin(), last.rend(), streams.rbegin()));
}

TEST_CASE("A recording may hold any of the taps") {
  const Case c{"", [](ModelConfig&) {}, {0, 4, 128, 0}, 1, {{0, 30}, {30, 1}, {31, 1}}};
  const ModelConfig config = config_of(c);
  const Model model = test::random_model(config, NumericMode::kDeploy, 6);
  const test::TempFolder folder;
  Options options;
  options.dump = folder / "dump";
  validate_recording(model, test::inputs_to_record(config, NumericMode::kDeploy, c.calls, 13).recording(),
                     options);
  test::EditableFile file(SafetensorsFile::open(options.dump));
  const std::uint64_t seed = GENERATE(range(1, 9));
  test::Random random(seed);
  std::erase_if(file.tensors, [&](const auto& t) {
    const bool input = t.first.ends_with("tokens") || t.first.ends_with("start_pos");
    return !input && random.integer(0, 3) == 0;
  });
  const Recording recording = file.recording();
  for (const RunMode mode : {RunMode::kFree, RunMode::kStaged}) {
    const Verdict v = run(model, recording, mode, 0);
    CAPTURE(seed, v.first_failure);
    REQUIRE(v.holds());
    REQUIRE(v.unexplained.empty());
    REQUIRE(v.inputs + v.compared + v.not_compared == v.tensors);
    if (mode == RunMode::kFree) REQUIRE(v.not_compared == 0);
    if (mode == RunMode::kStaged) REQUIRE(v.not_compared > 0);
  }
}
