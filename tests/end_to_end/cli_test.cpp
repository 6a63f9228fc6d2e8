// The programs as users call them: exit codes and messages.
#include "tests/support/catch.hpp"
#include "tests/support/files.hpp"
#include "tests/support/random_model.hpp"
#include "tests/support/recording_files.hpp"

#include <nlohmann/json.hpp>

#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>

using namespace dsv4;
using namespace dsv4::reference;

namespace {

const std::string kData = DSV4_TEST_DATA_DIR;
const std::string kExact = " --weights '" + kData + "/tiny-exact.weights.safetensors'";
const std::string kRecording = " --recording '" + kData + "/tiny-exact.recording.safetensors'";

struct Ran {
  int exit;
  std::string out, err;
};

Ran run(const std::string& program, const std::string& arguments) {
  const test::TempFolder folder;
  const std::string out = folder / "out", err = folder / "err";
  const std::string command = "'" + program + "' " + arguments + " >'" + out + "' 2>'" + err + "' </dev/null";
  const int status = std::system(command.c_str());
  REQUIRE(WIFEXITED(status));
  return {WEXITSTATUS(status), test::read_file(out), test::read_file(err)};
}
Ran validate(const std::string& arguments) { return run(DSV4_VALIDATE_PROGRAM, arguments); }
Ran generate(const std::string& arguments) { return run(DSV4_RUN_PROGRAM, arguments); }

// Exit 2 with one line on stderr and nothing on stdout; returns the line.
std::string refused(const Ran& ran) {
  CAPTURE(ran.out, ran.err);
  REQUIRE(ran.exit == 2);
  REQUIRE(ran.out.empty());
  REQUIRE(std::count(ran.err.begin(), ran.err.end(), '\n') == 1);
  REQUIRE(ran.err.back() == '\n');
  return ran.err.substr(0, ran.err.size() - 1);
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("dsv4_validate: exit 0 with a table, a report and a dump that holds against itself") {
  const test::TempFolder folder;
  const std::string report = folder / "report.json", dump = folder / "dump.safetensors";
  const Ran ran = validate(kExact + kRecording + " --mode staged --calls 0..2 --report '" + report +
                           "' --dump '" + dump + "' --threads 2");
  CAPTURE(ran.out, ran.err);
  REQUIRE(ran.exit == 0);
  REQUIRE(ran.err.empty());
  REQUIRE(ran.out.starts_with("tap "));
  REQUIRE(contains(ran.out, "\nlayers.1.attn.indexer.scores "));
  REQUIRE(contains(ran.out, "not requested (--calls)"));
  REQUIRE(contains(ran.out, "\nPASS: all "));
  const auto json = nlohmann::json::parse(test::read_file(report));
  REQUIRE(json["holds"] == true);
  REQUIRE(json["run_mode"] == "staged");
  REQUIRE(json["numeric_mode"] == "exact");
  REQUIRE(json["calls"] == 3);

  const Ran again = validate(kExact + " --recording '" + dump + "' --calls 1 --until layers.0.attn.q");
  REQUIRE(again.exit == 0);
  REQUIRE(contains(again.out, "not requested (--until)"));
}

TEST_CASE("dsv4_validate: exit 1 names the first failing tap; a larger tolerance lets it pass") {
  const test::TempFolder folder;
  test::EditableFile file(SafetensorsFile::open(kData + "/tiny-exact.recording.safetensors"));
  const std::string name = "call.000.layers.0.attn.qr";
  file.set<float>(name, 130 * 32 + 31, file.get<float>(name, 130 * 32 + 31) + 0.01f);
  const std::string path = folder / "changed.safetensors";
  file.writer().write(path);
  const std::string arguments = kExact + " --recording '" + path + "' --calls 0";
  const Ran ran = validate(arguments);
  CAPTURE(ran.out);
  REQUIRE(ran.exit == 1);
  REQUIRE(contains(ran.out, "first failing tap: layers.0.attn.qr: L2 of a call "));
  REQUIRE(contains(ran.out, "worst at call 0, token 130 (position 130), channel 31: computed "));
  REQUIRE(contains(ran.out, "\nFAIL: 1 of "));
  REQUIRE(validate(arguments + " --tolerance-scale 1000").exit == 0);

  file.put<float>("call.000.layers.0.attn.quux", {1}, {0.0f});
  file.set<float>(name, 130 * 32 + 31, file.get<float>(name, 130 * 32 + 31) - 0.01f);
  file.writer().write(path);
  const Ran unknown = validate(arguments + " --tolerance-scale 1000");
  REQUIRE(unknown.exit == 1);
  REQUIRE(contains(unknown.out, "unexplained tensors"));
  REQUIRE(contains(unknown.out, "call.000.layers.0.attn.quux"));
}

TEST_CASE("dsv4_validate: exit 2 and one line for what cannot be used") {
  const test::TempFolder folder;
  const std::string prefix = "dsv4_validate: ";
  REQUIRE(refused(validate("")) == prefix + "--weights is required");
  REQUIRE(refused(validate(kExact)) == prefix + "--recording is required");
  REQUIRE(contains(refused(validate("--mode other")), "--mode"));
  REQUIRE(contains(refused(validate("--backend gpu")), "--backend"));
  REQUIRE(contains(refused(validate("--surprise")), "--surprise"));
  REQUIRE(contains(refused(validate("--threads -1")), "--threads"));
  REQUIRE(contains(refused(validate("--tolerance-scale x")), "--tolerance-scale"));
  for (const char* calls : {"x", "3..1", "1...2", "..", "-1..2", "99999999999"})
    REQUIRE(contains(refused(validate(kExact + kRecording + " --calls=" + calls)), "--calls"));
  REQUIRE(refused(validate(kExact + kRecording + " --calls 200..300")) ==
          prefix + "--calls: " + kData +
              "/tiny-exact.recording.safetensors has no call in 200..300, its calls are "
              "0..120");
  REQUIRE(refused(validate(kExact + kRecording + " --until attn.q")) ==
          prefix + "--until: 'attn.q' is no tap of this model");
  REQUIRE(contains(refused(validate(kExact + " --recording /does/not/exist")), "/does/not/exist"));
  REQUIRE(contains(refused(validate(" --weights /does/not/exist" + kRecording)), "/does/not/exist"));
  REQUIRE(
      contains(refused(validate(kExact + " --recording '" + kData + "/tiny-deploy.recording.safetensors'")),
               "tiny-exact.weights.safetensors: config: "));
  REQUIRE(contains(refused(validate(kExact + " --recording '" + kData + "/tiny-exact.weights.safetensors'")),
                   "not a recording"));
  REQUIRE(contains(refused(validate(kExact + " --recording '" + kData + "/rope.safetensors'")), "config"));
  const std::string cut = folder / "cut.safetensors";
  test::write_file(cut, test::read_file(kData + "/tiny-exact.recording.safetensors").substr(0, 4'000'000));
  REQUIRE(contains(refused(validate(kExact + " --recording '" + cut + "'")), cut));
  REQUIRE(contains(refused(validate(kExact + kRecording + " --calls 0 --dump /does/not/exist/dump")),
                   "/does/not/exist/dump"));
  REQUIRE(contains(refused(validate(kExact + kRecording + " --calls 0 --report /does/not/exist/report")),
                   "/does/not/exist/report"));
}

TEST_CASE("dsv4_validate: help") {
  const Ran help = validate("--help");
  REQUIRE(help.exit == 0);
  for (const char* option : {"--weights", "--recording", "--mode", "--backend", "--until", "--calls",
                             "--threads", "--report", "--dump", "--tolerance-scale", "--help-limits"})
    REQUIRE(contains(help.out, option));
  const Ran limits = validate("--help-limits");
  REQUIRE(limits.exit == 0);
  REQUIRE(contains(limits.out, "L2 of each call <= 4e-06"));
}

TEST_CASE("dsv4_validate: a folder of shards") {
  const test::TempFolder folder;
  ModelConfig config = test::tiny_config();
  const Model model = test::random_model(config, NumericMode::kExact, 3);
  test::write_checkpoint(model, folder / "shards", 3);
  test::inputs_to_record(config, NumericMode::kExact, {{0, 9}, {9, 1}}, 4)
      .writer()
      .write(folder / "inputs.safetensors");
  const std::string weights = " --weights '" + (folder / "shards").string() + "'",
                    inputs = " --recording '" + (folder / "inputs.safetensors").string() + "'",
                    dump = (folder / "dump.safetensors").string();
  REQUIRE(contains(refused(validate(weights + inputs)), "nothing to compare"));
  REQUIRE(validate(weights + inputs + " --dump '" + dump + "'").exit == 0);
  REQUIRE(validate(weights + " --recording '" + dump + "' --tolerance-scale 0").exit == 0);
}

TEST_CASE("dsv4_run: greedy tokens, the same for any number of threads") {
  const std::string one = generate(kExact + " --tokens 1,2,3 --steps 5 --threads 1").out;
  REQUIRE(std::count(one.begin(), one.end(), ',') == 4);
  REQUIRE(one.back() == '\n');
  const Ran two = generate(kExact + " --tokens 1,2,3 --steps 5 --threads 2");
  REQUIRE(two.exit == 0);
  REQUIRE(two.out == one);
  REQUIRE(contains(two.err, "tokens/s"));
  // Decoding on from what was generated gives the rest.
  const std::string first = one.substr(0, one.find(','));
  REQUIRE(generate(kExact + " --tokens 1,2,3," + first + " --steps 4").out == one.substr(first.size() + 1));
  REQUIRE(generate("--help").exit == 0);
}

TEST_CASE("dsv4_run: exit 2 and one line for what cannot be used") {
  REQUIRE(contains(refused(generate("")), "--weights"));
  REQUIRE(contains(refused(generate(kExact)), "--tokens"));
  REQUIRE(contains(refused(generate(kExact + " --tokens 1,x")), "--tokens"));
  REQUIRE(contains(refused(generate(kExact + " --tokens 512")), "512"));
  REQUIRE(contains(refused(generate(kExact + " --tokens 1 --steps 5000")), "max_position"));
  REQUIRE(contains(refused(generate(kExact + " --tokens 1 --steps -1")), "--steps"));
  REQUIRE(contains(refused(generate("--weights /does/not/exist --tokens 1")), "/does/not/exist"));
}
