#include "reference/context_cost/table.hpp"

#include <algorithm>
#include <cstddef>

namespace dsv4::reference::context_cost {

namespace {

// Every line of the table, header first.
template <class F>
void for_each_line(const Table& table, F&& f) {
  f(table.header);
  for (const auto& row : table.rows) f(row);
}

std::string replaced(const std::string& text, char from, const std::string& to) {
  std::string out;
  for (const char c : text) c == from ? out += to : out += c;
  return out;
}

}  // namespace

std::string as_text(const Table& table) {
  std::vector<std::size_t> widths(table.header.size(), 0);
  for_each_line(table, [&](const auto& cells) {
    for (std::size_t i = 0; i < widths.size(); ++i) widths[i] = std::max(widths[i], cells[i].size());
  });
  std::string out;
  for_each_line(table, [&](const auto& cells) {
    std::string line;
    for (std::size_t i = 0; i < widths.size(); ++i) {
      const std::string pad(widths[i] - cells[i].size(), ' ');
      if (i > 0) line += "  ";
      line += table.align[i] == 'r' ? pad + cells[i] : cells[i] + pad;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + '\n';
  });
  return out;
}

std::string as_markdown(const Table& table) {
  std::string out;
  bool first = true;
  for_each_line(table, [&](const auto& cells) {
    for (const std::string& cell : cells) out += "| " + replaced(cell, '|', "\\|") + ' ';
    out += "|\n";
    if (!first) return;
    first = false;
    for (const char a : table.align) out += a == 'r' ? "|---:" : "|---";
    out += "|\n";
  });
  return out;
}

std::string as_csv(const Table& table) {
  std::string out;
  for_each_line(table, [&](const auto& cells) {
    for (std::size_t i = 0; i < cells.size(); ++i) {
      if (i > 0) out += ',';
      const bool quoted = cells[i].find_first_of(",\"\r\n") != std::string::npos;
      out += quoted ? '"' + replaced(cells[i], '"', "\"\"") + '"' : cells[i];
    }
    out += '\n';
  });
  return out;
}

}  // namespace dsv4::reference::context_cost
