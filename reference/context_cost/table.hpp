// Tables of short strings, as text, Markdown and CSV.
#pragma once

#include <string>
#include <vector>

namespace dsv4::reference::context_cost {

struct Table {
  std::vector<std::string> header;
  std::string align;                           // one character a column: 'l' left, 'r' right
  std::vector<std::vector<std::string>> rows;  // each as wide as the header
};

/// Columns padded with spaces, two between them; lines end without spaces.
std::string as_text(const Table& table);

/// A GitHub table; '|' in a cell is escaped.
std::string as_markdown(const Table& table);

/// RFC 4180, lines end in LF: a cell with a comma, a quote or a line end is quoted.
std::string as_csv(const Table& table);

}  // namespace dsv4::reference::context_cost
