// The forward pass on ops, their kernels on the SIMT machine, against the recordings and the CPU backend.
#include "tests/support/catch.hpp"
#include "tests/support/files.hpp"
#include "tests/support/shapes.hpp"

#include <sys/wait.h>

#include <cstdlib>
#include <string>

using namespace dsv4;

namespace {

const std::string kData = DSV4_TEST_DATA_DIR;

int validate(const std::string& arguments, std::string* out) {
  const test::TempFolder folder;
  const std::string file = folder / "out";
  const int status =
      std::system(("'" DSV4_VALIDATE_PROGRAM "' " + arguments + " >'" + file + "' 2>&1 </dev/null").c_str());
  *out = test::read_file(file);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string files(const std::string& set) {
  return " --weights '" + kData + "/" + set + ".weights.safetensors' --recording '" + kData + "/" + set +
         ".recording.safetensors'";
}

/// The prefill and the first decodes.
const char* first_calls() { return test::reduced() ? " --calls 0..4" : " --calls 0..20"; }

}  // namespace

TEST_CASE("dsv4_validate --backend simt holds every limit", "[simt]") {
  const std::string set = GENERATE(as<std::string>{}, "tiny-exact", "tiny-deploy");
  const std::string mode = GENERATE(as<std::string>{}, "staged", "free");
  const std::string fused = GENERATE(as<std::string>{}, "", " --fused");
  std::string out;
  // Staged, fused ops are the chains bit for bit (below): the first calls show that they are staged rightly.
  const bool few = test::reduced() || (mode == "staged" && !fused.empty());
  const std::string calls = few ? first_calls() : "";
  const int exit = validate(files(set) + " --backend simt --mode " + mode + fused + calls, &out);
  CAPTURE(set, mode, fused, out);
  REQUIRE(exit == 0);
  REQUIRE(out.find("\nPASS: all ") != std::string::npos);
  REQUIRE(out.find(" 0 unexplained") != std::string::npos);
}

TEST_CASE("fused ops compute what the chains compute, bit for bit", "[simt]") {
  const std::string set = GENERATE(as<std::string>{}, "tiny-exact", "tiny-deploy");
  const test::TempFolder folder;
  const std::string chains = folder / "chains.safetensors", fused = folder / "fused.safetensors";
  const std::string common = files(set) + first_calls() + " --backend simt --dump '";
  std::string out;
  REQUIRE(validate(common + chains + "'", &out) == 0);
  REQUIRE(validate(common + fused + "' --fused", &out) == 0);
  REQUIRE(test::read_file(chains) == test::read_file(fused));
}

TEST_CASE("the exact mode of the ops is the CPU backend's, bit for bit", "[simt]") {
  const test::TempFolder folder;
  const std::string cpu = folder / "cpu.safetensors", simt = folder / "simt.safetensors";
  std::string out;
  const std::string common = files("tiny-exact") + first_calls();
  REQUIRE(validate(common + " --dump '" + cpu + "'", &out) == 0);
  REQUIRE(validate(common + " --backend simt --dump '" + simt + "'", &out) == 0);
  REQUIRE(test::read_file(cpu) == test::read_file(simt));
}

TEST_CASE("--fused without the ops is refused", "[simt]") {
  std::string out;
  REQUIRE(validate(files("tiny-exact") + " --fused", &out) == 2);
  REQUIRE(out == "dsv4_validate: --fused: only with --backend simt or cuda\n");
}

#if !defined(DSV4_WITH_CUDA)
TEST_CASE("--backend cuda says where it is not built", "[simt]") {
  std::string out;
  REQUIRE(validate(files("tiny-exact") + " --backend cuda", &out) == 2);
  REQUIRE(out == "dsv4_validate: --backend cuda: built without CUDA (DSV4_CUDA=ON builds it)\n");
}
#endif
