// dsv4_context_cost as users call it, and the plot that the documents show.
#include "reference/config.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/files.hpp"

#include <dsv4/model_config.hpp>

#include <nlohmann/json.hpp>

#include <sys/wait.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <string>

using namespace dsv4;

namespace {

struct Ran {
  int exit;
  std::string out, err;
};

Ran run(const std::string& arguments) {
  const test::TempFolder folder;
  const std::string out = folder / "out", err = folder / "err";
  const std::string command = std::string("'") + DSV4_CONTEXT_COST_PROGRAM + "' " + arguments + " >'" + out +
                              "' 2>'" + err + "' </dev/null";
  const int status = std::system(command.c_str());
  REQUIRE(WIFEXITED(status));
  return {WEXITSTATUS(status), test::read_file(out), test::read_file(err)};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("dsv4_context_cost: tables, and the comparison with the report's figures") {
  const Ran table = run("");
  CAPTURE(table.out, table.err);
  REQUIRE(table.exit == 0);
  REQUIRE(table.err.empty());
  REQUIRE(std::count(table.out.begin(), table.out.end(), '\n') == 1 + 8);
  REQUIRE(contains(table.out, "27.07 %"));
  REQUIRE(contains(run("--format markdown --lengths 1M").out, "|---:|"));
  REQUIRE(run("--format csv --model pro --lengths 4,1Ki").out.starts_with("model,tokens,"));

  const Ran published = run("--published");
  REQUIRE(published.exit == 0);
  REQUIRE(contains(published.out, "PASS: all agree"));
  const Ran other = run("--published --index-keys fp8");
  REQUIRE(other.exit == 1);
  REQUIRE(contains(other.out, "DIFFERS"));
  REQUIRE(contains(run("--explain").out, "absorbed Wkv_b"));
}

TEST_CASE("dsv4_context_cost: a model of one's own") {
  const test::TempFolder folder;
  ModelConfig config = kFlash;
  config.hidden = 2048;
  const std::string path = folder / "config.json";
  test::write_file(path, reference::config_to_json(config, reference::NumericMode::kDeploy));
  const Ran ran = run("--format json --lengths 1M --config '" + path + "'");
  CAPTURE(ran.err);
  REQUIRE(ran.exit == 0);
  const auto json = nlohmann::json::parse(ran.out);
  REQUIRE(json["models"].size() == 4);
  REQUIRE(json["models"][3]["name"] == folder.path().filename().string());
  const auto parts = [&](std::size_t m) { return json["models"][m]["lengths"][0]["parts"]; };
  REQUIRE(parts(3)["routed experts"]["flops"].get<double>() * 2 == parts(0)["routed experts"]["flops"]);
  REQUIRE(parts(3)["indexer scores"] == parts(0)["indexer scores"]);
}

TEST_CASE("dsv4_context_cost: unusable input is one line and exit 2") {
  const test::TempFolder folder;
  test::write_file(folder / "bad.json", "{");
  const std::string bad = "--config '" + std::string(folder / "bad.json") + "'";
  const std::string gone = "--config '" + std::string(folder / "gone.json") + "'";
  for (const std::string& arguments :
       {std::string("--lengths 0"), std::string("--lengths 1e6"), std::string("--lengths ''"),
        std::string("--model v4"), std::string("--format html"), std::string("--bf16-rate 0"),
        std::string("--bf16-rate nan"), std::string("--index-keys fp2"), std::string("--explain --published"),
        std::string("--unknown"), std::string("surplus"), std::string("--svg /nowhere/at/all.svg"), bad,
        gone}) {
    const Ran ran = run(arguments);
    CAPTURE(arguments, ran.out, ran.err);
    REQUIRE(ran.exit == 2);
    REQUIRE(ran.out.empty());
    REQUIRE(ran.err.starts_with("dsv4_context_cost: "));
    REQUIRE(std::count(ran.err.begin(), ran.err.end(), '\n') == 1);
  }
}

TEST_CASE("dsv4_context_cost: the documents' plot is what it draws") {
  const test::TempFolder folder;
  const std::string path = folder / "plot.svg";
  const Ran ran = run("--svg '" + path + "'");
  REQUIRE(ran.exit == 0);
  REQUIRE(test::read_file(path) ==
          test::read_file(std::string(DSV4_TEST_DATA_DIR) + "/../../docs/context_cost.svg"));
}
