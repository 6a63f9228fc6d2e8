// Blocks of C++ and C compile, without warnings.
#include "tests/docs/snippets.hpp"
#include "tests/support/catch.hpp"

#include <set>
#include <string>
#include <vector>

namespace {

using namespace dsv4::test;
using namespace dsv4::test::docs;

// Whether what the block declares stands in a namespace already.
bool has_namespace(const Snippet& s) {
  for (const std::string& line : lines_of(s.code)) {
    const std::string code = trimmed(line);
    if (!code.empty() && !code.starts_with("//") && !code.starts_with("#"))
      return s.mode == Mode::kFile && code.starts_with("namespace ");
  }
  return false;
}

// All blocks in one file, so that headers are parsed once: includes come first, and each block without a
// namespace gets one, "same" ones that of the block before them.
std::string translation_unit(const std::vector<Snippet>& snippets) {
  std::string includes, body;
  std::set<std::string> seen;
  const auto add = [&](const std::string& code, const std::string& file, int line) {
    body += "#line " + std::to_string(line) + " \"" + file + "\"\n";
    for (const std::string& l : lines_of(code)) {
      const bool include = trimmed(l).starts_with("#include");
      if (include && seen.insert(trimmed(l)).second) includes += trimmed(l) + '\n';
      body += include ? "\n" : l + '\n';
    }
  };
  bool wrapped = false;
  for (std::size_t i = 0; i < snippets.size(); ++i) {
    const Snippet& s = snippets[i];
    const bool begins = s.mode != Mode::kSame;
    if (begins) wrapped = !has_namespace(s);
    if (begins && wrapped) body += "namespace snippet_" + std::to_string(i) + " {\n";
    if (!s.preamble.empty()) add(s.preamble, s.file, s.line - 2);
    if (s.mode == Mode::kFunction) body += "[[maybe_unused]] void body_" + std::to_string(i) + "() {\n";
    add(s.code, s.file, s.line);
    if (s.mode == Mode::kFunction) body += "}\n";
    if (wrapped && (i + 1 == snippets.size() || snippets[i + 1].mode != Mode::kSame)) body += "}\n";
  }
  return includes + body;
}

Ran compile(const std::string& source, const std::string& flags) {
  const TempFolder folder;
  write_file(folder / "snippets", source);
  return run(std::string("'") + DSV4_DOCS_COMPILER + "' -fsyntax-only -Wall -Wextra -Werror -I'" +
             (root() / "include").string() + "' -I'" + root().string() + "' " + flags + " '" +
             std::string(folder / "snippets") + "'");
}

// Kernels as the SIMT machine sees them, ops of its flavour.
const std::string kCpp = "-x c++ -std=c++20 -DDSV4_SIMT_EMULATION -Wno-psabi -Wno-main";

}  // namespace

TEST_CASE("docs: C++ blocks compile") {
  const std::vector<Snippet> snippets = snippets_in("cpp");
  REQUIRE(snippets.size() >= 7);
  const Ran ran = compile(translation_unit(snippets), kCpp);
  INFO(ran.output);
  REQUIRE(ran.exit == 0);
}

TEST_CASE("docs: C blocks compile") {
  for (const Snippet& s : snippets_in("c")) {
    REQUIRE((s.mode == Mode::kFile || s.mode == Mode::kFunction));
    const bool wrapped = s.mode == Mode::kFunction;
    const Ran ran =
        compile(s.preamble + (wrapped ? "void body(void) {\n" : "") + s.code + (wrapped ? "}\n" : ""),
                "-x c -std=c11");
    CAPTURE(s.where());
    INFO(ran.output);
    REQUIRE(ran.exit == 0);
  }
}

TEST_CASE("docs: a block that does not compile is found, by its place") {
  std::vector<Snippet> two = snippets_of("d.md",
                                         "```cpp\n#include <string>\nint f() { return 0; }\n```\n"
                                         "<!-- snippet: function\nstd::string s;\n-->\n```cpp\ns = 1.5f;\n"
                                         "t.clear();\n```\n");
  REQUIRE(compile(translation_unit({two[0]}), kCpp).exit == 0);
  const Ran ran = compile(translation_unit(two), kCpp);
  REQUIRE(ran.exit != 0);
  REQUIRE(ran.output.find("d.md:10:") != std::string::npos);
  two[1].code = "s.clear();\n";
  REQUIRE(compile(translation_unit(two), kCpp).exit == 0);
  two[1].mode = Mode::kSame;  // statements outside a function
  REQUIRE(compile(translation_unit(two), kCpp).exit != 0);
}
