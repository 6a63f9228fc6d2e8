// Every conformance case on the SIMT machine, however it executes, gives the expected words: those that a GPU
// is compared with (dsv4_conformance_cuda).
#include <dsv4/simt/options.hpp>

#include "tests/arch/conformance/harness.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/files.hpp"

#include <cstdio>
#include <fstream>
#include <set>
#include <string>

using namespace dsv4;
using namespace dsv4::conformance;

TEST_CASE("conformance cases give the expected words under every policy", "[arch][conformance]") {
  const ExpectedWords expected = read_expected(DSV4_TEST_DATA_DIR "/arch_conformance.txt");
  simt::Options options = simt::options();
  options.async = GENERATE(simt::Async::kLazy, simt::Async::kEager);
  options.schedule = GENERATE(simt::Schedule::kFifo, simt::Schedule::kLifo);
  const simt::ScopedOptions scope(options);
  std::set<std::string> names;
  for (const Case& c : all_cases()) {
    INFO(c.name);
    CHECK(names.insert(c.name).second);
    CHECK(c.out_words <= 4096);
    const auto found = expected.find(c.name);
    if (found == expected.end()) {
      FAIL_CHECK("not in arch_conformance.txt: run dsv4_conformance --write");
      continue;
    }
    Words words;
    const Status s = run_case(c, words);
    INFO(s.what);
    CHECK(s.ok());
    CHECK(found->second.compare == c.compare);
    CHECK(difference(c.compare, found->second.words, words) == "");
  }
  for (const auto& [name, e] : expected) {
    INFO(name << " is in arch_conformance.txt, but no case has this name");
    CHECK(names.count(name) == 1);
  }
}

TEST_CASE("conformance words are compared by bits, or within 2 ulp", "[arch][conformance]") {
  CHECK(difference(Compare::kBits, {1, 2}, {1, 2}) == "");
  CHECK(difference(Compare::kBits, {1}, {1, 2}) == "1 words expected, 2 found");
  CHECK(difference(Compare::kBits, {1, 2, 3}, {1, 0, 0}) ==
        "2 of 3 words differ, the first is 1: 0x00000002 expected, 0x00000000 found");
  CHECK(difference(Compare::kTwoUlp, {0x3f800000u}, {0x3f800002u}) == "");
  CHECK(difference(Compare::kTwoUlp, {0x3f800000u}, {0x3f7ffffdu}) != "");
  CHECK(difference(Compare::kTwoUlp, {0x3f800000u}, {0xbf800000u}) != "");
  CHECK(difference(Compare::kTwoUlp, {0x00000001u}, {0x80000001u}) == "");  // across zero
  CHECK(difference(Compare::kTwoUlp, {0x7fc00000u}, {0xffffffffu}) == "");  // NaNs
  CHECK(difference(Compare::kTwoUlp, {0x7fc00000u}, {0x7f800000u}) != "");
  CHECK(difference(Compare::kTwoUlp, {0x7f7fffffu}, {0x7f800000u}) == "");  // overflow is one place further
}

TEST_CASE("expected words survive a file, and a damaged file is refused", "[arch][conformance]") {
  const test::TempFolder folder;  // another run of this program may be going on
  const std::string path = folder / "words.txt";
  ExpectedWords written;
  written["a/one"] = {Compare::kBits, {1, 2, 3, 4, 5, 6, 7, 0xfffffff8u, 9}};
  written["b/none"] = {Compare::kTwoUlp, {}};
  written["c/two"] = {Compare::kTwoUlp, {0x3f800000u}};
  write_expected(path, written);
  const ExpectedWords read = read_expected(path);
  REQUIRE(read.size() == written.size());
  for (const auto& [name, e] : written) {
    CHECK(read.at(name).compare == e.compare);
    CHECK(read.at(name).words == e.words);
  }
  for (const char* text : {"a bits\n", "a bats 1\n00000001\n", "a bits 2\n00000001\n", "a bits 1\nxyz\n",
                           "a bits 1\n00000001 00000002\n", "a bits 1\n00000001\na bits 1\n00000001\n"}) {
    CAPTURE(text);
    std::ofstream(path) << text;
    CHECK_THROWS_AS(read_expected(path), std::runtime_error);
  }
  std::remove(path.c_str());
  CHECK_THROWS_AS(read_expected(path), std::runtime_error);
}
