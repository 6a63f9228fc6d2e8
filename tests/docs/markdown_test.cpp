// The documents themselves: blocks have known languages, excerpts are true, links lead somewhere.
#include "tests/docs/snippets.hpp"
#include "tests/support/catch.hpp"

#include <sys/wait.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace dsv4::test::docs {

Ran run(const std::string& command) {
  const TempFolder folder;
  const std::string out = folder / "out";
  const int status = std::system(("{ " + command + "\n} >'" + out + "' 2>&1 </dev/null").c_str());
  REQUIRE(WIFEXITED(status));
  return {WEXITSTATUS(status), read_file(out)};
}

std::string program_path(const std::string& name) {
  std::istringstream paths(DSV4_DOCS_PROGRAMS);
  for (std::string path; std::getline(paths, path, ':');)
    if (std::filesystem::path(path).filename() == name) return path;
  return "";
}

}  // namespace dsv4::test::docs

namespace {

using namespace dsv4::test;
using namespace dsv4::test::docs;

// What an excerpt compares: without indentation, alignment and a trailing comment.
std::string bare(const std::string& line) {
  static const std::regex spaces("\\s+");
  return trimmed(std::regex_replace(line.substr(0, line.find("  //")), spaces, " "));
}

// First line of `code` that is not in `file`, after the one before it; empty if all are.
std::string not_in(const std::string& file, const std::string& code) {
  const std::vector<std::string> lines = lines_of(file);
  std::size_t i = 0;
  for (const std::string& line : lines_of(code)) {
    const std::string wanted = bare(line);
    if (wanted.empty() || wanted == "..." || wanted.starts_with("//")) continue;
    while (i < lines.size() && bare(lines[i]) != wanted) ++i;
    if (i++ >= lines.size()) return line;
  }
  return "";
}

// GitHub's name of a heading.
std::string anchor_of(const std::string& heading) {
  std::string out;
  for (const char c : heading) {
    const auto u = static_cast<unsigned char>(c);
    if (std::isalnum(u) != 0 || c == '-' || c == '_' || u >= 0x80) out += static_cast<char>(std::tolower(u));
    if (c == ' ') out += '-';
  }
  return out;
}

std::set<std::string> anchors(const std::string& text) {
  std::set<std::string> out;
  bool code = false;
  for (const std::string& line : lines_of(text)) {
    if (line.starts_with("```")) code = !code;
    if (!code && line.starts_with("#"))
      out.insert(anchor_of(trimmed(line.substr(line.find_first_not_of('#')))));
  }
  return out;
}

std::string error_of(const std::string& text) {
  try {
    snippets_of("d.md", text);
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("docs: blocks and the comments before them are found") {
  const std::vector<Snippet> s =
      snippets_of("d.md",
                  "# T\n```cpp\nint a;\n```\n"
                  "<!-- snippet: function\n#include <x>\nint b;\n-->\n```cpp\nb = 1;\n```\n"
                  "<!-- snippet: excerpt f.hpp -->\n\n```cpp\nint c;\n```\n"
                  "<!-- snippet: skip (why) -->\n```sh\nrm -r /\n```\n"
                  "<!-- snippet: output prog --x -->\n```text\ny\n```\n");
  REQUIRE(s.size() == 5);
  REQUIRE((s[0].mode == Mode::kFile && s[0].code == "int a;\n" && s[0].where() == "d.md:3"));
  REQUIRE((s[1].mode == Mode::kFunction && s[1].preamble == "#include <x>\nint b;\n" && s[1].line == 10));
  REQUIRE((s[2].mode == Mode::kExcerpt && s[2].argument == "f.hpp"));
  REQUIRE((s[3].mode == Mode::kSkip && s[3].argument == "(why)" && s[3].language == "sh"));
  REQUIRE((s[4].mode == Mode::kOutput && s[4].argument == "prog --x"));

  REQUIRE(error_of("```cpp\nint a;\n") == "d.md:1: the block does not end");
  REQUIRE(error_of("\n<!-- snippet: functions -->\n```\n```\n") == "d.md:2: unknown: snippet: functions");
  REQUIRE(error_of("<!-- snippet: skip -->\n```\n```\n").starts_with("d.md:1: unknown"));
  REQUIRE(error_of("<!-- snippet: file -->\ntext\n").starts_with("d.md:2: no block follows"));
  REQUIRE(error_of("<!-- snippet: file -->\n").ends_with("no block follows the last comment"));
  REQUIRE(error_of("<!-- snippet: function\nint a;\n").starts_with("d.md:1: the comment does not end"));

  REQUIRE(not_in("a\n  b   c  // old\nd\n", "b c       // new\n...\nd\n").empty());
  REQUIRE(not_in("a\nb\n", "b\na\n") == "a");
  REQUIRE(anchor_of("C ABI: `dsv4.h`, in short") == "c-abi-dsv4h-in-short");
}

TEST_CASE("docs: every block is checked, but for few that say why not") {
  const std::set<std::string> checked = {"cpp", "c", "sh", "cmake", "python", "rust"},
                              data = {"", "text", "json", "toml"};
  int skipped = 0;
  for (const Snippet& s : all_snippets()) {
    CAPTURE(s.where(), s.language);
    if (s.mode == Mode::kSkip) {
      WARN(s.where() << " is not checked: " << s.argument);
      ++skipped;
    } else if (s.mode == Mode::kExcerpt) {
      REQUIRE(not_in(read_file(root() / s.argument), s.code).empty());
    } else if (s.mode == Mode::kOutput) {
      const std::size_t name = std::min(s.argument.find(' '), s.argument.size());
      const std::string path = program_path(s.argument.substr(0, name));
      REQUIRE(!path.empty());
      const Ran ran = run("'" + path + "'" + s.argument.substr(name));
      REQUIRE(ran.exit == 0);
      REQUIRE(not_in(ran.output, s.code).empty());
    } else {
      REQUIRE(checked.count(s.language) + data.count(s.language) == 1);
    }
  }
  REQUIRE(skipped <= 2);
}

TEST_CASE("docs: links lead to files and headings of the repository") {
  const std::regex link("\\]\\(([^)\\s]+)\\)");
  int links = 0;
  for (const std::string& file : documents()) {
    const std::string text = read_file(root() / file);
    for (auto m = std::sregex_iterator(text.begin(), text.end(), link); m != std::sregex_iterator(); ++m) {
      const std::string target = (*m)[1];
      CAPTURE(file, target);
      if (target.find("://") != target.npos) continue;
      ++links;
      const std::size_t hash = std::min(target.find('#'), target.size());
      const auto path = hash == 0
                            ? root() / file
                            : root() / std::filesystem::path(file).parent_path() / target.substr(0, hash);
      REQUIRE(std::filesystem::exists(path));
      if (hash < target.size()) REQUIRE(anchors(read_file(path)).count(target.substr(hash + 1)) == 1);
    }
  }
  REQUIRE(links > 5);
}
