// The table of README.md that says what the libraries support is what they say of themselves.
#include "tests/docs/snippets.hpp"
#include "tests/support/catch.hpp"

#include <cstddef>
#include <string>

#if defined(DSV4_DOCS_SUPPORT_TABLE)
TEST_CASE("docs: the table of supported formats") {
  using namespace dsv4::test;
  const docs::Ran ran = docs::run(DSV4_DOCS_SUPPORT_TABLE);
  INFO(ran.output);
  REQUIRE(ran.exit == 0);
  REQUIRE(ran.output.find("`attn_attend`") != std::string::npos);
  const std::string begin = "<!-- support_table -->\n", end = "<!-- /support_table -->\n";
  const std::string text = read_file(docs::root() / "README.md");
  const std::size_t from = text.find(begin), to = text.find(end);
  REQUIRE(from != std::string::npos);
  REQUIRE(to != std::string::npos);
  // Where they differ, this is what README.md should have.
  REQUIRE(text.substr(from + begin.size(), to - from - begin.size()) == ran.output);
}
#endif
