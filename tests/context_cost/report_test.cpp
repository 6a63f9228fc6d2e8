// Lengths, tables, JSON and the plot.
#include "reference/context_cost/report.hpp"

#include "tests/support/catch.hpp"
#include "tests/support/files.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

using namespace dsv4::reference::context_cost;
using dsv4::test::input_error;

namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// What of `xml` is not well-formed: unbalanced or misspelt tags, attributes given twice or without quotes,
// raw
// '<' and unknown entities; empty if nothing is. Comments, CDATA and declarations are not expected.
std::string malformed(const std::string& xml) {
  std::vector<std::string> open;
  const auto name_char = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == ':';
  };
  std::size_t i = 0;
  const auto name = [&] {
    std::string out;
    while (i < xml.size() && name_char(xml[i])) out += xml[i++];
    return out;
  };
  const auto spaces = [&] {
    while (i < xml.size() && (xml[i] == ' ' || xml[i] == '\n')) ++i;
  };
  const auto bad_entity = [&] {
    for (const char* e : {"&amp;", "&lt;", "&gt;", "&quot;"})
      if (xml.compare(i, std::string(e).size(), e) == 0) return false;
    return true;
  };
  while (i < xml.size()) {
    if (xml[i] == '&' && bad_entity()) return "entity at " + std::to_string(i);
    if (xml[i] != '<') {
      if (open.empty() && xml[i] != '\n') return "text outside at " + std::to_string(i);
      ++i;
      continue;
    }
    if (xml[++i] == '/') {
      ++i;
      const std::string closed = name();
      if (open.empty() || open.back() != closed || xml[i++] != '>') return "closing " + closed;
      open.pop_back();
      continue;
    }
    const std::string element = name();
    if (element.empty()) return "raw < at " + std::to_string(i);
    std::vector<std::string> attributes;
    for (spaces(); i < xml.size() && name_char(xml[i]); spaces()) {
      attributes.push_back(name());
      if (std::count(attributes.begin(), attributes.end(), attributes.back()) > 1)
        return "twice " + attributes.back();
      if (xml.compare(i, 2, "=\"") != 0) return "value of " + attributes.back();
      for (i += 2; i < xml.size() && xml[i] != '"'; ++i)
        if (xml[i] == '<' || (xml[i] == '&' && bad_entity())) return "inside " + attributes.back();
      ++i;
    }
    const bool empty = xml.compare(i, 2, "/>") == 0;
    i += empty ? 2 : 1;
    if (i > xml.size() || xml[i - 1] != '>') return "end of " + element;
    if (!empty) open.push_back(element);
  }
  return open.empty() ? "" : "open " + open.back();
}

}  // namespace

TEST_CASE("context cost: lengths are read and written with their suffixes") {
  REQUIRE(parse_tokens("1") == 1);
  REQUIRE(parse_tokens("4096") == 4096);
  REQUIRE(parse_tokens("64k") == 64'000);
  REQUIRE(parse_tokens("64Ki") == 65'536);
  REQUIRE(parse_tokens("1M") == 1'000'000);
  REQUIRE(parse_tokens("1Mi") == 1 << 20);
  REQUIRE(parse_tokens("4096Mi") == kMaxTokens);
  for (const char* text : {"", "0", "-1", "1.5k", "k", "1 k", "1K", "1kk", "0x10", "4097Mi", "4294967297",
                           "99999999999999999999", "9223372036854775807M", "1e6"}) {
    CAPTURE(text);
    REQUIRE(contains(input_error([&] { parse_tokens(text); }), "context length"));
  }
  for (const std::int64_t n : {1, 999, 1000, 1024, 4096, 65'536, 100'001, 1'000'000, 1 << 20})
    REQUIRE(parse_tokens(tokens_text(n)) == n);
  REQUIRE(tokens_text(1'000'000) == "1M");
  REQUIRE(tokens_text(1 << 20) == "1Mi");
  REQUIRE(tokens_text(4096) == "4Ki");
  REQUIRE(tokens_text(999) == "999");
}

TEST_CASE("context cost: tables as text, Markdown and CSV") {
  const Table t{{"name", "n"}, "lr", {{"a|b", "1"}, {"c,\"d\"", "22"}}};
  REQUIRE(as_text(t) == "name    n\na|b     1\nc,\"d\"  22\n");
  REQUIRE(as_markdown(t) == "| name | n |\n|---|---:|\n| a\\|b | 1 |\n| c,\"d\" | 22 |\n");
  REQUIRE(as_csv(t) == "name,n\na|b,1\n\"c,\"\"d\"\"\",22\n");
}

TEST_CASE("context cost: the rows say what the costs are") {
  const std::vector<Model> models = published_models();
  const std::vector<std::int64_t> lengths = {1000, 1'000'000};
  const Table wide = by_length(models, lengths, {});
  REQUIRE(wide.header.size() == 1 + 4 + 4 + 2);
  REQUIRE(wide.rows.size() == 2);
  REQUIRE(wide.rows[1] == std::vector<std::string>{"1M", "116.6", "10.17 %", "3517.5", "7.32 %", "310.2",
                                                   "27.07 %", "5036.0", "10.48 %", "1146.1", "48068.0"});
  const Table raw = by_model_and_length(models, lengths, {});
  REQUIRE(raw.rows.size() == 6);
  for (const auto& row : raw.rows) REQUIRE(row.size() == raw.header.size());
  REQUIRE(raw.align.size() == raw.header.size());
  REQUIRE(raw.rows[5][6] == "48068.00");  // V3.2, bytes a token

  const auto json = nlohmann::json::parse(as_json(models, lengths, {}));
  REQUIRE(json["assumptions"]["entry_bytes"] == 584);
  REQUIRE(json["models"].size() == 3);
  for (std::size_t m = 0; m < 3; ++m) {
    const auto& at = json["models"][m]["lengths"][1];
    const Cost c = cost(models[m], 1'000'000, {});
    REQUIRE(at["tokens"] == 1'000'000);
    REQUIRE(at["fp8_flops_per_token"] == c.fp8_flops);
    REQUIRE(at["cache_bytes"] == c.cache.total);
    double sum = 0;
    for (const auto& part : at["parts"]) sum += part["flops"].get<double>();
    REQUIRE(sum == Approx(c.flops).epsilon(1e-12));
  }
}

TEST_CASE("context cost: the explanation lists every product of every model") {
  const std::vector<Model> models = published_models();
  const std::string text = explanation(models, {});
  for (const Model& m : models)
    for (const Term& t : terms(m, 1, {})) {
      REQUIRE(contains(text, std::string(t.part)));
      REQUIRE(contains(text, std::string(t.formula)));
    }
  REQUIRE(contains(text, "27.07 %"));
  REQUIRE(contains(text, "584 bytes an entry, 68 an index key"));
}

TEST_CASE("context cost: plots are well-formed, whatever the names, and their points lie inside") {
  std::vector<Model> models = published_models();
  models.push_back({"<a & \"b\">", dsv4::kFlash});
  for (const auto& [from, to] : {std::pair<std::int64_t, std::int64_t>{1000, 1'000'000}, {1, 1}, {7, 9}}) {
    const std::vector<Panel> p = panels(models, from, to, {});
    REQUIRE(p.size() == 2);
    for (const Panel& panel : p)
      for (const Series& s : panel.series) {
        REQUIRE(s.x.size() == s.y.size());
        REQUIRE(s.x.front() == static_cast<double>(from));
        REQUIRE(s.x.back() == static_cast<double>(to));
        REQUIRE(std::is_sorted(s.x.begin(), s.x.end()));
      }
    const std::string svg = plot_svg("title & <more>", p);
    CAPTURE(svg);
    REQUIRE(malformed(svg).empty());
    REQUIRE(!contains(svg, "nan"));
    REQUIRE(!contains(svg, "inf"));
    REQUIRE(contains(svg, "title &amp; &lt;more&gt;"));
    REQUIRE(contains(svg, "&lt;a &amp; &quot;b&quot;&gt;"));
    REQUIRE(contains(svg, "prefers-color-scheme:dark"));
    // Every polyline of a panel stays in the drawing.
    for (std::size_t at = svg.find("points=\""); at != svg.npos; at = svg.find("points=\"", at + 1)) {
      const std::string points = svg.substr(at + 8, svg.find('"', at + 8) - at - 8);
      for (std::size_t i = 0; i < points.size();) {
        const std::size_t comma = points.find(',', i), end = std::min(points.find(' ', comma), points.size());
        const double x = std::stod(points.substr(i, comma - i));
        const double y = std::stod(points.substr(comma + 1, end - comma - 1));
        REQUIRE((x >= 80 && x <= 940 && y >= 104 && y <= 104 + 270));
        i = end + 1;
      }
    }
  }
  REQUIRE(!malformed("<a><b></a>").empty());  // the checker's own check
  REQUIRE(!malformed("<a b=\"1\" b=\"2\"/>").empty());
  REQUIRE(!malformed("<a>&nbsp;</a>").empty());
}

TEST_CASE("context cost: ticks are round numbers that include both ends") {
  const Panel p{"p", "x", "B", {{"s", {1, 10, 1000}, {3, 500, 70'000}, "end"}}};
  const std::string svg = plot_svg("t", {p});
  for (const char* tick : {">1<", ">10<", ">100<", ">1k<", ">10 B<", ">100 B<", ">10 kB<", ">end<"})
    REQUIRE(contains(svg, tick));
  REQUIRE(contains(plot_svg("t", {{"p", "x", "B", {{"s", {1, 2}, {1e9, 5e9}, ""}}}}), ">2 GB<"));
  REQUIRE(malformed(plot_svg("t", {})).empty());
}
