// Commands name programs, options, presets and files that exist; CMake and Python blocks parse, Rust
// compiles.
#include "tests/docs/snippets.hpp"
#include "tests/support/catch.hpp"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace {

using namespace dsv4::test;
using namespace dsv4::test::docs;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Words of a line of shell: quotes removed, a comment dropped; each operator (| && ; >) is a word "|".
std::vector<std::string> words_of(const std::string& line) {
  std::vector<std::string> out;
  std::string word;
  bool any = false;
  char quote = 0;
  const auto end = [&] {
    if (any) out.push_back(word);
    word.clear(), any = false;
  };
  for (const char c : line) {
    if (quote != 0) {
      if (c == quote)
        quote = 0;
      else
        word += c;
    } else if (c == '\'' || c == '"') {
      quote = c, any = true;
    } else if (c == ' ' || c == '\t') {
      end();
    } else if (c == '#' && !any) {
      break;
    } else if (std::string("|&;<>()").find(c) != std::string::npos) {
      end();
      if (out.empty() || out.back() != "|") out.push_back("|");
    } else {
      word += c, any = true;
    }
  }
  end();
  return out;
}

// The commands of a block, each a list of words; lines that end in a backslash go on, and what stands in
// $(...) is a command of its own.
std::vector<std::vector<std::string>> commands_of(const std::string& code) {
  std::vector<std::vector<std::string>> out;
  std::string line;
  for (const std::string& part : lines_of(code)) {
    line += part;
    if (line.ends_with("\\")) {
      line.back() = ' ';
      continue;
    }
    static const std::regex substitution("\\$\\(([^()]*)\\)");
    for (std::smatch m; std::regex_search(line, m, substitution);) {
      for (const std::vector<std::string>& inner : commands_of(m[1].str() + "\n")) out.push_back(inner);
      line.replace(static_cast<std::size_t>(m.position()), static_cast<std::size_t>(m.length()),
                   "SUBSTITUTED");
    }
    std::vector<std::string> command;
    const auto end = [&] {
      if (!command.empty()) out.push_back(command);
      command.clear();
    };
    for (const std::string& word : words_of(line)) {
      static const std::regex assignment("[A-Za-z_][A-Za-z_0-9]*=.*");
      if (word == "|")
        end();
      else if (!command.empty() || !std::regex_match(word, assignment))
        command.push_back(word);
    }
    end();
    line.clear();
  }
  return out;
}

// Every text file of these kinds below `folder`.
std::string sources(const std::filesystem::path& folder, const std::set<std::string>& extensions) {
  std::string out;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (entry.is_regular_file() && extensions.count(entry.path().extension().string()) == 1)
      out += read_file(entry.path());
  return out;
}

// CMake files of the project.
const std::string& build_files() {
  static const std::string text = [] {
    std::string all = read_file(root() / "CMakeLists.txt") + sources(root() / "cmake", {".cmake"});
    for (const char* folder : {"kernels", "tests", "bench", "fuzz", "examples"})
      if (std::filesystem::is_directory(root() / folder)) all += sources(root() / folder, {".txt", ".cmake"});
    return all;
  }();
  return text;
}

// What a program accepts: its --help where it is built, else the source that reads its arguments.
std::string options_of(const std::string& program) {
  static std::map<std::string, std::string> known;
  if (const auto found = known.find(program); found != known.end()) return found->second;
  std::string text;
  if (const std::string path = program_path(program); !path.empty())
    text = run("'" + path + "' --help").output;
  const std::map<std::string, const char*> elsewhere = {
      {"dsv4_bench", "bench"}, {"dsv4_gpu_bench", "bench/gpu"}, {"dsv4_gpu_test", "tests/gpu"}};
  if (const auto place = elsewhere.find(program); place != elsewhere.end())
    text = sources(root() / place->second, {".cpp", ".hpp", ".txt"});
  return known[program] = text;
}

// What is wrong with one command; empty if nothing is.
std::string wrong_with(const std::vector<std::string>& command) {
  static const std::set<std::string> outside = {
      "cmake", "ctest",   "cd",         "mkdir", "export", "sudo", "apt-get", "apt",     "dpkg",
      "pip",   "python3", "pkg-config", "cc",    "gcc",    "g++",  "c++",     "clang++", "nvcc",
      "rustc", "cargo",   "git",        "tar",   "ls",     "cat",  "."};
  const std::string program = std::filesystem::path(command[0]).filename().string();
  const bool script = command[0].starts_with("tools/");
  std::string accepted;
  if (script) {
    if (!std::filesystem::exists(root() / command[0])) return "no script " + command[0];
    accepted = read_file(root() / command[0]);
  } else if (program.starts_with("dsv4_test_")) {  // of a folder of tests; its options are Catch2's
    if (!std::filesystem::is_directory(root() / "tests" / program.substr(10))) return "no program " + program;
  } else if (program.starts_with("dsv4_")) {
    accepted = options_of(program);
    if (accepted.empty()) return "no program " + program;
  } else if (outside.count(program) == 0 && !command[0].starts_with("./")) {
    return "unknown command " + command[0];
  } else if (program == "python3" && command.size() > 1 && std::filesystem::exists(root() / command[1])) {
    accepted = read_file(root() / command[1]);
  }
  for (std::size_t i = 1; i < command.size(); ++i) {
    const std::string& word = command[i];
    if (!accepted.empty() && word.starts_with("--") && !contains(accepted, word.substr(0, word.find('='))))
      return program + " has no option " + word;
    if (program == "cmake" && word == "--preset" && i + 1 < command.size() &&
        !contains(read_file(root() / "CMakePresets.json"), "\"name\": \"" + command[i + 1] + "\""))
      return "no preset " + command[i + 1];
    static const std::regex option("-D(DSV4_[A-Z0-9_]+)=.*");
    if (std::smatch m; std::regex_match(word, m, option) && !contains(build_files(), m[1]))
      return "no build option " + m[1].str();
    static const std::regex ours(
        "(tests|reference|tools|examples|python|include|kernels|bench|docs|fuzz)/.*");
    if (std::regex_match(word, ours) && !std::filesystem::exists(root() / word)) return "no file " + word;
  }
  return "";
}

}  // namespace

TEST_CASE("docs: shell commands name what exists") {
  int commands = 0;
  for (const Snippet& s : snippets_in("sh"))
    for (const std::vector<std::string>& command : commands_of(s.code)) {
      CAPTURE(s.where(), command);
      REQUIRE(wrong_with(command) == "");
      ++commands;
    }
  REQUIRE(commands >= 8);
}

TEST_CASE("docs: a command that does not exist is found") {
  const auto wrong = [](const std::string& line) { return wrong_with(commands_of(line + "\n").at(0)); };
  REQUIRE(wrong("tools/test.sh --quick  # a comment") == "");
  REQUIRE(wrong("A=1 build/release/dsv4_run --weights DIR --tokens 1,2") == "");
  REQUIRE(wrong("tools/tests.sh") == "no script tools/tests.sh");
  REQUIRE(wrong("tools/test.sh --fast") == "test.sh has no option --fast");
  REQUIRE(wrong("dsv4_run --checkpoint x") == "dsv4_run has no option --checkpoint");
  REQUIRE(wrong("dsv4_nothing") == "no program dsv4_nothing");
  REQUIRE(wrong("build/release/tests/dsv4_test_docs '[x]'") == "");
  REQUIRE(wrong("dsv4_test_nothing") == "no program dsv4_test_nothing");
  REQUIRE(wrong("frobnicate x") == "unknown command frobnicate");
  REQUIRE(wrong("cmake --preset release") == "");
  REQUIRE(wrong("cmake --preset fast") == "no preset fast");
  REQUIRE(wrong("cmake -B b -DDSV4_CUDA=OFF") == "");
  REQUIRE(wrong("cmake -B b -DDSV4_CUBA=OFF") == "no build option DSV4_CUBA");
  REQUIRE(wrong("python3 tests/nothing.py") == "no file tests/nothing.py");
  REQUIRE(commands_of("cc a.c $(pkg-config --libs x) -lm\n") ==
          std::vector<std::vector<std::string>>{{"pkg-config", "--libs", "x"},
                                                {"cc", "a.c", "SUBSTITUTED", "-lm"}});
  REQUIRE(commands_of("a 'b c' | d && e \\\n  f # g\n") ==
          std::vector<std::vector<std::string>>{{"a", "b c"}, {"d"}, {"e", "f"}});
}

TEST_CASE("docs: CMake blocks parse, and link targets that exist") {
  // Components of the package: each has the name of its target.
  std::set<std::string> targets;
  const std::string package = read_file(root() / "cmake/dsv4Config.cmake.in");
  const std::regex components("(?:foreach\\(dsv4_component|set\\(dsv4_wanted) ([a-z_0-9 ]+)\\)");
  for (auto m = std::sregex_iterator(package.begin(), package.end(), components); m != std::sregex_iterator();
       ++m)
    for (const std::string& word : words_of((*m)[1])) targets.insert(word);
  REQUIRE(targets.count("headers") == 1);
  REQUIRE(targets.count("kernels") == 1);

  // Commands of a project, that a script may not call, do nothing.
  std::string stubs;
  for (const char* command :
       {"project", "include", "add_executable", "add_library", "add_subdirectory", "find_package",
        "target_link_libraries", "target_compile_options", "target_compile_definitions",
        "target_compile_features", "target_include_directories", "set_target_properties",
        "set_source_files_properties", "enable_language", "FetchContent_Declare",
        "FetchContent_MakeAvailable"})
    stubs += std::string("function(") + command + ")\nendfunction()\n";
  const auto check = [&](const std::string& code) {
    const TempFolder folder;
    write_file(folder / "block.cmake", "cmake_policy(VERSION 3.25)\n" + stubs + code);
    return run(std::string("'") + DSV4_DOCS_CMAKE + "' -P '" + std::string(folder / "block.cmake") + "'");
  };
  for (const Snippet& s : snippets_in("cmake")) {
    const Ran ran = check(s.code);
    CAPTURE(s.where());
    INFO(ran.output);
    REQUIRE(ran.exit == 0);
    const std::regex used("dsv4::([A-Za-z_0-9]+)");
    for (auto m = std::sregex_iterator(s.code.begin(), s.code.end(), used); m != std::sregex_iterator();
         ++m) {
      CAPTURE((*m)[0].str());
      REQUIRE(targets.count((*m)[1]) == 1);
    }
  }
  REQUIRE(check("add_executable(a b.cpp)\n").exit == 0);
  REQUIRE(check("add_executable(a b.cpp\n").exit != 0);
  REQUIRE(check("add_programme(a b.cpp)\n").exit != 0);
}

TEST_CASE("docs: Python blocks parse") {
  if (run("command -v python3").exit != 0) {
    WARN("there is no python3");
    return;
  }
  const auto check = [](const std::string& code) {
    const TempFolder folder;
    write_file(folder / "block.py", code);
    return run("python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' '" +
               std::string(folder / "block.py") + "'");
  };
  for (const Snippet& s : snippets_in("python")) {
    CAPTURE(s.where());
    REQUIRE(check(s.code).exit == 0);
  }
  REQUIRE(check("x = (1,\n").exit != 0);
}

TEST_CASE("docs: Rust blocks compile") {
  if (run("command -v rustc").exit != 0) {
    WARN("there is no rustc");
    return;
  }
  const auto check = [](const Snippet& s) {
    const TempFolder folder;
    const bool wrapped = s.mode == Mode::kFunction;
    write_file(folder / "block.rs",
               s.preamble + (wrapped ? "pub fn body() {\n" : "") + s.code + (wrapped ? "}\n" : ""));
    return run("cd '" + folder.path().string() +
               "' && rustc --edition 2021 --crate-type lib --emit metadata -A dead_code block.rs");
  };
  for (const Snippet& s : snippets_in("rust")) {
    const Ran ran = check(s);
    CAPTURE(s.where());
    INFO(ran.output);
    REQUIRE(ran.exit == 0);
  }
  REQUIRE(check(snippets_of("d.md", "```rust\nfn f() -> i32 { 1 }\n```\n").at(0)).exit == 0);
  REQUIRE(check(snippets_of("d.md", "```rust\nfn f() -> i32 { 1.0 }\n```\n").at(0)).exit != 0);
}
