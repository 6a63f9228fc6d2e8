// Line plots on logarithmic axes, side by side, as one SVG that reads on light and on dark pages.
#pragma once

#include <string>
#include <vector>

namespace dsv4::reference::context_cost {

struct Series {
  std::string name;
  std::vector<double> x, y;  // ascending x; all positive and finite
  std::string end_label;     // beside the last point; may be empty
};

struct Panel {
  std::string title;
  std::string x_label;
  std::string unit;  // of y; ticks carry SI prefixes: "10 GB"
  std::vector<Series> series;
};

/// A whole SVG document. The legend is that of the first panel: series i has the same name, colour and dash
/// in all of them. Text is escaped. Deterministic: the same bytes everywhere for the same input.
std::string plot_svg(const std::string& title, const std::vector<Panel>& panels);

}  // namespace dsv4::reference::context_cost
