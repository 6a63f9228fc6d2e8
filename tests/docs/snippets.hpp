// The code blocks of README.md and docs/*.md, and how each is to be checked.
//
// A comment just before a block says what the block alone does not:
//     <!-- snippet: file -->               declarations; what cpp and c blocks are without a comment
//     <!-- snippet: function               statements. The lines that follow stand before the function that
//     #include <...>                       they become the body of: includes, and the variables they name
//     dsv4::Stream stream;
//     -->
//     <!-- snippet: same -->               continues the block before it
//     <!-- snippet: excerpt FILE -->       lines of FILE, in order; "..." stands for lines left out, and a
//                                          trailing comment may differ
//     <!-- snippet: output COMMAND -->     lines that a program of the project prints, likewise
//     <!-- snippet: skip (reason) -->      not checked; docs_test counts these
#pragma once

#include "tests/support/catch.hpp"
#include "tests/support/files.hpp"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace dsv4::test::docs {

enum class Mode { kFile, kFunction, kSame, kExcerpt, kOutput, kSkip };

struct Snippet {
  std::string file;      // "docs/simt.md"
  int line = 0;          // of its first line of code
  std::string language;  // "cpp"; empty for a block without one
  Mode mode = Mode::kFile;
  std::string argument;  // excerpt: the file; output: the command; skip: the reason
  std::string preamble;  // function: what stands before it
  std::string code;

  std::string where() const { return file + ":" + std::to_string(line); }
};

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) out.push_back(line);
  return out;
}

inline std::string trimmed(const std::string& s) {
  const std::size_t begin = s.find_first_not_of(" \t"), end = s.find_last_not_of(" \t");
  return begin == s.npos ? "" : s.substr(begin, end - begin + 1);
}

namespace detail {
// Reads the comment that begins at lines[i] into `s`; leaves i at its last line.
inline void read_directive(const std::vector<std::string>& lines, std::size_t& i, Snippet& s) {
  const std::string where = s.file + ":" + std::to_string(i + 1) + ": ";
  std::string head = trimmed(lines[i].substr(std::string("<!-- snippet:").size()));
  const bool one_line = head.ends_with("-->");
  if (one_line) {
    head = trimmed(head.substr(0, head.size() - 3));
  } else {
    for (++i; i < lines.size() && lines[i] != "-->"; ++i) s.preamble += lines[i] + '\n';
    if (i == lines.size()) throw std::runtime_error(where + "the comment does not end");
  }
  const std::string word = head.substr(0, head.find(' '));
  s.argument = trimmed(head.substr(word.size()));
  if (word == "file" || word == "same")
    s.mode = word == "file" ? Mode::kFile : Mode::kSame;
  else if (word == "function")
    s.mode = Mode::kFunction;
  else if (word == "excerpt" && !s.argument.empty())
    s.mode = Mode::kExcerpt;
  else if (word == "output" && !s.argument.empty())
    s.mode = Mode::kOutput;
  else if (word == "skip" && s.argument.size() > 2 && s.argument.front() == '(' && s.argument.back() == ')')
    s.mode = Mode::kSkip;
  else
    throw std::runtime_error(where + "unknown: snippet: " + head);
}
}  // namespace detail

/// The fenced blocks of one Markdown text. Throws std::runtime_error, with file and line, for a fence or a
/// comment that does not end, an unknown comment, and a comment that no block follows.
inline std::vector<Snippet> snippets_of(const std::string& file, const std::string& text) {
  const std::vector<std::string> lines = lines_of(text);
  std::vector<Snippet> out;
  Snippet next;
  next.file = file;
  bool told = false;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string at = file + ":" + std::to_string(i + 1) + ": ";
    if (lines[i].starts_with("<!-- snippet:")) {
      if (told) throw std::runtime_error(at + "two comments for one block");
      detail::read_directive(lines, i, next);
      told = true;
    } else if (lines[i].starts_with("```")) {
      Snippet s = next;
      next = {}, next.file = file, told = false;
      s.language = lines[i].substr(3);
      s.line = static_cast<int>(i) + 2;
      for (++i; i < lines.size() && lines[i] != "```"; ++i) s.code += lines[i] + '\n';
      if (i == lines.size()) throw std::runtime_error(at + "the block does not end");
      out.push_back(std::move(s));
    } else if (told && !trimmed(lines[i]).empty()) {
      throw std::runtime_error(at + "no block follows the comment");
    }
  }
  if (told) throw std::runtime_error(file + ": no block follows the last comment");
  return out;
}

/// Root of the repository.
inline std::filesystem::path root() { return std::filesystem::path(DSV4_DOCS_ROOT); }

/// "README.md", "docs/X.md", "examples/README.md", ...: every document, sorted.
inline std::vector<std::string> documents() {
  std::vector<std::string> out = {"README.md"};
  for (const char* folder : {"docs", "examples", "python"}) {
    if (!std::filesystem::is_directory(root() / folder)) continue;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root() / folder))
      if (entry.path().extension() == ".md")
        out.push_back(std::filesystem::relative(entry.path(), root()).generic_string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

/// Every block of every document, in order.
inline std::vector<Snippet> all_snippets() {
  std::vector<Snippet> out;
  for (const std::string& file : documents()) {
    const std::vector<Snippet> some = snippets_of(file, read_file(root() / file));
    out.insert(out.end(), some.begin(), some.end());
  }
  return out;
}

/// Those of one language that are to be checked as such.
inline std::vector<Snippet> snippets_in(const std::string& language) {
  std::vector<Snippet> out = all_snippets();
  std::erase_if(out, [&](const Snippet& s) {
    return s.language != language || s.mode == Mode::kSkip || s.mode == Mode::kExcerpt ||
           s.mode == Mode::kOutput;
  });
  return out;
}

/// Runs a shell command; its exit status, and what it printed on either stream.
struct Ran {
  int exit;
  std::string output;
};
Ran run(const std::string& command);

/// Where the program of that name was built; empty if this build has none.
std::string program_path(const std::string& name);

}  // namespace dsv4::test::docs
