// The parts of the validator: comparing rows and sets, limits, the plan of taps, recordings that cannot be
// used.
#include "reference/validate/compare.hpp"
#include "reference/validate/findings.hpp"
#include "reference/validate/limits.hpp"
#include "reference/validate/plan.hpp"
#include "reference/validate/report.hpp"
#include "reference/validate/verdict.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/files.hpp"
#include "tests/support/random_model.hpp"
#include "tests/support/recording_files.hpp"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

using namespace dsv4;
using namespace dsv4::reference;
using namespace dsv4::reference::validation;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

CallStats compare(const std::vector<float>& computed, const std::vector<float>& recorded,
                  std::int64_t columns) {
  std::vector<RowPair<float>> pairs;
  for (std::int64_t r = 0; r < static_cast<std::int64_t>(computed.size()) / columns; ++r)
    pairs.push_back({computed.data() + r * columns, recorded.data() + r * columns, r + 10});
  return compare_rows<float>(pairs, columns);
}

test::EditableFile small() {
  return test::inputs_to_record(test::tiny_config(), NumericMode::kExact, {{0, 6}, {6, 1}, {7, 1}}, 1);
}

}  // namespace

TEST_CASE("compare_rows: relative L2, rows and elements") {
  const CallStats same = compare({1, 2, 3, 4}, {1, 2, 3, 4}, 2);
  REQUIRE(same.rows == 2);
  REQUIRE(same.elements == 4);
  REQUIRE(same.differing == 0);
  REQUIRE(same.relative() == 0);
  REQUIRE(same.worst_row == 0);

  const CallStats off = compare({3, 4, 0, 10.5f}, {3, 4, 0, 10}, 2);
  REQUIRE(off.differing == 1);
  REQUIRE(off.relative() == Approx(0.5 / std::sqrt(125.0)));
  REQUIRE(off.worst_row == Approx(0.05));
  REQUIRE(off.largest.row == 11);
  REQUIRE(off.largest.column == 1);
  REQUIRE(off.largest.computed == 10.5);
  REQUIRE(off.largest.recorded == 10);

  // The largest difference need not lie in the worst row.
  const CallStats both = compare({100, 1, 0.5f, 0}, {101, 1, 0.25f, 0}, 2);
  REQUIRE(both.largest.row == 10);
  REQUIRE(both.in_worst_row.row == 11);
  REQUIRE(both.worst_row == Approx(1.0));
}

TEST_CASE("compare_rows: rows of zeros, and nothing but zeros") {
  const CallStats row = compare({1, 1, 0, 1e-3f}, {1, 1, 0, 0}, 2);
  REQUIRE(row.worst_row == Approx(1e-3 / (1e-3 * std::sqrt(2.0 / 2))));
  REQUIRE(compare({0, 0}, {0, 0}, 2).relative() == 0);
  REQUIRE(compare({0, 1e-30f}, {0, 0}, 2).relative() == std::numeric_limits<double>::infinity());
  REQUIRE(compare({0, 1e-30f}, {0, 0}, 2).worst_row == std::numeric_limits<double>::infinity());
  REQUIRE(compare({}, {}, 1).relative() == 0);
  REQUIRE(compare({0.0f}, {-0.0f}, 1).differing == 1);  // other bits, no distance
  REQUIRE(compare({0.0f}, {-0.0f}, 1).relative() == 0);
}

TEST_CASE("compare_rows: NaN and infinity must be in the same places") {
  const CallStats same = compare({kNan, kInf, -kInf, 2}, {-kNan, kInf, -kInf, 2}, 4);
  REQUIRE(same.nonfinite == 0);
  REQUIRE(same.differing == 0);
  REQUIRE(same.relative() == 0);
  for (const auto& [computed, recorded] : std::vector<std::pair<float, float>>{
           {kNan, 1}, {1, kNan}, {kInf, -kInf}, {kInf, kNan}, {1e30f, kInf}}) {
    const CallStats s = compare({1, computed, 5}, {1, recorded, 1}, 3);
    REQUIRE(s.nonfinite == 1);
    REQUIRE(s.differing == 2);
    REQUIRE(s.largest.column == 1);  // it comes before any distance
    REQUIRE(std::isfinite(s.relative()));
  }
  const std::vector<bf16> a = {{0x7fc0}, {0x3f80}}, b = {{0xffff}, {0x3f81}};
  const RowPair<bf16> pair{a.data(), b.data(), 0};
  const CallStats s = compare_rows<bf16>({&pair, 1}, 2);
  REQUIRE(s.nonfinite == 0);
  REQUIRE(s.differing == 1);
}

TEST_CASE("compare_sets: multiplicity counts, order does not; swaps need equal scores") {
  const std::function<double(std::int64_t)> score = [](std::int64_t m) {
    return m == 7   ? 1.0
           : m == 8 ? 1.0 + 0.9e-6
           : m == 9 ? 1.0 + 1.2e-6
           : m == 6 ? std::numeric_limits<double>::quiet_NaN()
                    : 0.5 * static_cast<double>(m);
  };
  REQUIRE(compare_sets({3, 1, 2}, {1, 2, 3}, nullptr, 1).equal());
  REQUIRE(compare_sets({}, {}, nullptr, 1).equal());
  const SetDifference twice = compare_sets({1, 1, 2}, {1, 2, 2}, nullptr, 1);
  REQUIRE(twice.wrong == 2);
  REQUIRE(twice.only_computed == 1);
  REQUIRE(twice.only_recorded == 2);
  REQUIRE(compare_sets({1, 2}, {1}, score, 1).wrong == 1);
  REQUIRE(compare_sets({1, 7}, {1, 8}, score, 1).swaps == 1);
  REQUIRE(compare_sets({1, 7}, {1, 8}, score, 1).wrong == 0);
  REQUIRE(compare_sets({1, 7}, {1, 8}, nullptr, 1).wrong == 2);
  REQUIRE(compare_sets({1, 7}, {1, 9}, score, 1).wrong == 2);
  REQUIRE(compare_sets({1, 7}, {1, 9}, score, 2).swaps == 1);  // relative to the row's largest magnitude
  REQUIRE(compare_sets({1, 7, 4}, {1, 8, 5}, score, 1).wrong == 4);
  REQUIRE(compare_sets({6}, {7}, score, 1).wrong == 2);  // NaN
}

TEST_CASE("Limits: patterns, the first that matches decides, scaling") {
  REQUIRE(matches("*", ""));
  REQUIRE(matches("*.pre", "layers.0.hc_attn.pre"));
  REQUIRE_FALSE(matches("*.pre", "layers.0.hc_attn.prefix"));
  REQUIRE(matches("mtp.*logits", "mtp.0.logits"));
  REQUIRE_FALSE(matches("mtp.*logits", "logits"));
  REQUIRE(matches("a*b*c", "axxbyyc"));
  REQUIRE_FALSE(matches("abc", "abcd"));

  const auto only = [](NumericMode mode, RunMode run, const char* tap, double scale = 1) {
    const std::vector<Limit> l = limits_of(mode, run, tap, scale);
    REQUIRE(l.size() == 1);
    return l[0];
  };
  for (const Limit& l : limits(NumericMode::kExact, RunMode::kFree))
    REQUIRE((l.measure == Measure::kSet || l.value == 4e-6));
  REQUIRE(only(NumericMode::kExact, RunMode::kFree, "logits").value == 4e-6);
  REQUIRE(only(NumericMode::kExact, RunMode::kStaged, "layers.3.attn.o").value == 3e-6);
  for (const char* tap : {"layers.0.hc_ffn.mixes", "mtp.0.hc_attn.pre", "layers.1.hc_ffn.post",
                          "layers.1.hc_attn.comb", "layers.2.ffn.gate.weights"}) {
    REQUIRE(only(NumericMode::kExact, RunMode::kStaged, tap).value == 1.5e-6);
    REQUIRE(only(NumericMode::kExact, RunMode::kStaged, tap, 10).value == Approx(1.5e-5));
  }
  for (const NumericMode mode : {NumericMode::kExact, NumericMode::kDeploy})
    for (const char* tap : {"layers.0.attn.idx", "layers.1.attn.indexer.topk", "mtp.0.ffn.gate.indices"})
      REQUIRE(only(mode, RunMode::kStaged, tap).measure == Measure::kSet);

  const auto deploy = [](const char* tap, double scale = 1) {
    return limits_of(NumericMode::kDeploy, RunMode::kStaged, tap, scale);
  };
  for (const char* tap : {"layers.0.attn.out", "layers.0.ffn.shared", "mtp.0.ffn.out"}) {
    REQUIRE(deploy(tap).size() == 2);
    REQUIRE(deploy(tap)[0].measure == Measure::kEqual);
    REQUIRE(deploy(tap)[0].value == 0.97);
    REQUIRE(deploy(tap)[1].measure == Measure::kRowL2);
    REQUIRE(deploy(tap)[1].value == 3e-2);
  }
  REQUIRE(deploy("layers.0.hc_attn.out")[0].value == 0.995);
  REQUIRE(deploy("layers.0.hc_attn.out", 2)[0].value == Approx(0.99));
  REQUIRE(deploy("layers.0.hc_attn.out", 1000)[0].value == 0);
  REQUIRE(deploy("layers.0.attn.indexer.scores")[0].value == 2e-6);
  REQUIRE(deploy("logits")[0].measure == Measure::kPooledL2);
  for (const char* tap : {"logits", "mtp.0.logits"}) {
    const std::vector<Limit> l = limits_of(NumericMode::kDeploy, RunMode::kFree, tap, 1);
    REQUIRE(l.size() == 2);
    REQUIRE(l[0].measure == Measure::kMedianL2);
    REQUIRE(l[0].value == 0.1);
    REQUIRE(l[1].measure == Measure::kCallL2);
    REQUIRE(l[1].value == 0.4);
  }
  // What --help-limits prints holds every line of the table.
  const std::string text = limits_text();
  for (const NumericMode mode : {NumericMode::kExact, NumericMode::kDeploy})
    for (const RunMode run : {RunMode::kFree, RunMode::kStaged})
      for (const Limit& l : limits(mode, run)) {
        REQUIRE(text.find(l.pattern) != std::string::npos);
        REQUIRE(text.find(describe(l)) != std::string::npos);
      }
}

TEST_CASE("The plan: taps in order of execution, shapes") {
  const ModelConfig config = test::tiny_config();
  const Plan plan(config, NumericMode::kDeploy, true);
  const auto before = [&](const char* a, const char* b) {
    return plan.order(a) >= 0 && plan.order(a) < plan.order(b);
  };
  REQUIRE(plan.order("layers.0.in") == 0);
  REQUIRE(before("layers.0.hc_ffn.out", "layers.1.in"));
  REQUIRE(before("layers.1.attn.kv", "layers.1.attn.indexer.scores"));
  REQUIRE(before("layers.1.attn.indexer.topk", "layers.1.attn.idx"));
  REQUIRE(before("layers.2.hc_ffn.out", "final_norm"));
  REQUIRE(before("logits", "mtp.0.in"));
  REQUIRE(plan.taps().back().name == "mtp.0.logits");
  REQUIRE(plan.order("layers.0.attn.indexer.q") == -1);
  REQUIRE(plan.order("layers.0.attn.entry_new") == -1);
  REQUIRE(plan.order("layers.3.in") == -1);
  REQUIRE(Plan(config, NumericMode::kDeploy, false).order("mtp.0.in") == -1);

  const CallSpan span{126, 5, 2};  // positions 126 .. 130
  const auto shape = [&](const char* tap) { return plan.shape(plan.tap(plan.order(tap)), span); };
  using Shape = std::vector<std::int64_t>;
  REQUIRE(shape("layers.1.attn.entry_new") == Shape{1, 512});  // entry 31: tokens 124 .. 127
  REQUIRE(shape("layers.2.attn.entry_new") == Shape{1, 512});
  REQUIRE(shape("layers.1.attn.indexer.keys") == Shape{32, 128});
  REQUIRE(shape("layers.1.attn.indexer.scores") == Shape{5, 32});
  REQUIRE(shape("layers.1.attn.cache") == Shape{160, 512});
  REQUIRE(shape("layers.2.attn.q") == Shape{2, config.heads, 512});
  REQUIRE(shape("layers.2.attn.idx") == Shape{5, -1});
  REQUIRE(shape("mtp.0.logits") == Shape{config.vocab});
  REQUIRE(plan.dtype(plan.tap(plan.order("layers.0.attn.in"))) == DType::kBf16);
  REQUIRE(plan.dtype(plan.tap(plan.order("layers.0.hc_attn.pre"))) == DType::kF32);
  REQUIRE(plan.dtype(plan.tap(plan.order("layers.0.attn.idx"))) == DType::kI32);
}

TEST_CASE("Recordings that cannot be used: one line with file, tensor, value and limit") {
  test::EditableFile file = small();
  const std::string at = "edited.safetensors: tensor '";
  std::string expected;
  SECTION("no configuration") {
    file.metadata.clear();
    expected = "edited.safetensors: no metadata key 'config': a recording carries its configuration";
  }
  SECTION("no call") {
    file.tensors.clear();
    file.put<float>("x", {1}, {0.0f});
    expected = "edited.safetensors: no tensor 'call.NNN.tokens': not a recording";
  }
  SECTION("missing tokens") {
    file.tensors.erase("call.001.tokens");
    expected = at + "call.001.tokens' is missing: every call needs it";
  }
  SECTION("missing start_pos") {
    file.tensors.erase("call.002.start_pos");
    expected = at + "call.002.start_pos' is missing: every call needs it";
  }
  SECTION("missing next_tokens of one call") {
    file.tensors.erase("call.001.next_tokens");
    expected = at + "call.001.next_tokens' is missing: every call needs it";
  }
  SECTION("a token beyond the vocabulary") {
    file.set<std::int64_t>("call.000.tokens", 4, 512);
    expected = at + "call.000.tokens': element 4 is 512, must be in [0, 512)";
  }
  SECTION("a negative token") {
    file.set<std::int64_t>("call.001.next_tokens", 0, -1);
    expected = at + "call.001.next_tokens': element 0 is -1, must be in [0, 512)";
  }
  SECTION("a gap") {
    file.set<std::int64_t>("call.001.start_pos", 0, 7);
    expected = at + "call.001.start_pos': is 7, but the sequence has 6 tokens";
  }
  SECTION("beyond the last position") {
    const std::int64_t most = test::tiny_config().max_positions;
    file.set<std::int64_t>("call.000.start_pos", 0, most - 5);
    expected = at + "call.000.start_pos': the call ends at position " + std::to_string(most + 1) +
               ", the configuration has " + std::to_string(most);
  }
  SECTION("wrong shape") {
    file.put<float>("call.001.layers.0.attn.in", {1, 63}, std::vector<float>(63));
    expected = at + "call.001.layers.0.attn.in': shape is [1, 63], must be [1, 64]";
  }
  SECTION("wrong number of dimensions") {
    file.put<std::int32_t>("call.001.layers.0.attn.idx", {128}, std::vector<std::int32_t>(128));
    expected = at + "call.001.layers.0.attn.idx': shape is [128], must be [1, any]";
  }
  SECTION("listed rows") {
    file.put<std::int32_t>("call.000.rows", {2}, {0, 6});
    expected = at + "call.000.rows': element 1 is 6, must be in [0, 6)";
  }
  SECTION("not the listed rows") {
    file.put<std::int32_t>("call.000.rows", {2}, {0, 5});
    file.put<float>("call.000.layers.0.attn.q", {6, 4, 512}, std::vector<float>(6 * 4 * 512));
    expected = at + "call.000.layers.0.attn.q': shape is [6, 4, 512], must be [2, 4, 512]";
  }
  SECTION("a prefill's keys in a later call") {
    file.put<float>("call.001.layers.0.attn.kv", {1, 512}, std::vector<float>(512));
    expected =
        at +
        "call.001.layers.0.attn.kv': belongs to a call from position 0, this one starts at 6; 'kv_new' "
        "and 'entry_new' hold what later calls add";
  }
  if (!expected.empty()) REQUIRE(test::input_error([&] { file.recording(); }) == expected);
  SECTION("wrong dtype") {
    file.put<bf16>("call.001.layers.0.attn.in", {1, 64}, std::vector<bf16>(64));
    const std::string what = test::input_error([&] { file.recording(); });
    REQUIRE(what.starts_with(at + "call.001.layers.0.attn.in': "));
    REQUIRE(what.find("BF16") != std::string::npos);
    REQUIRE(what.find("F32") != std::string::npos);
  }
  SECTION("a truncated file") {
    std::vector<std::byte> bytes = file.writer().bytes();
    bytes.resize(bytes.size() - 3);
    test::input_error([&] { SafetensorsFile::parse(bytes, "cut.safetensors"); });
  }
}

TEST_CASE("Rollbacks: how far back a recording steps is known before it runs") {
  const ModelConfig config = test::tiny_config();
  const auto recording = [&](const test::Calls& calls) {
    return test::inputs_to_record(config, NumericMode::kExact, calls, 3).recording();
  };
  REQUIRE(recording({{0, 10}, {10, 1}}).max_rollback == 0);
  REQUIRE(recording({{0, 10}, {7, 2}, {9, 3}, {5, 1}}).max_rollback == 7);
  REQUIRE(recording({{0, 10}, {0, 4}, {2, 1}}).max_rollback == 2);  // position 0 begins another sequence
}

TEST_CASE("The report as JSON: every tap, infinities included") {
  test::EditableFile file = small();
  file.put<float>("call.000.logits", {512}, std::vector<float>(512));
  const Recording recording = file.recording();
  Findings findings(recording);
  CallStats stats;
  stats.rows = 1, stats.elements = 512, stats.differing = 512, stats.error2 = 1;
  stats.largest = {0, 3, 1, 0};
  findings.compared(recording.plan.order("logits"), stats);
  const Verdict v = judge(recording, findings, NumericMode::kExact, RunMode::kFree, 1);
  REQUIRE_FALSE(v.holds());
  REQUIRE(
      v.first_failure ==
      "logits: L2 of a call inf > 4e-06; worst at call 0, token 5 (position 5), vocabulary id 3: computed 1, "
      "recorded 0");
  const auto json = nlohmann::json::parse(report_json(v, "r", "w"));
  REQUIRE(json["holds"] == false);
  REQUIRE(json["taps"].size() == 1);
  REQUIRE(json["taps"][0]["tap"] == "logits");
  REQUIRE(json["taps"][0]["largest_call_l2"] == "inf");
  REQUIRE(json["taps"][0]["limits"][0]["value"] == 4e-6);
  REQUIRE(json["first_failure"] == v.first_failure);
  REQUIRE(table(v).find("FAIL: 1 of 1 taps do not hold") != std::string::npos);
}
