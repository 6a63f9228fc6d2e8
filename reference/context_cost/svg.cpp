#include "reference/context_cost/svg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace dsv4::reference::context_cost {

namespace {

// Pixels.
constexpr double kPanelWidth = 330, kPanelHeight = 270;
constexpr double kLeft = 82, kRight = 58;  // of a panel: tick labels, end labels
constexpr double kTop = 104, kBottom = 58;
constexpr double kLabelGap = 14;  // between end labels

// Told apart by dash as well as by colour. Light page, dark page.
struct Style {
  const char *light, *dark, *dash;
};
constexpr std::array<Style, 6> kStyles = {{{"#c2410c", "#fb923c", ""},
                                           {"#1d4ed8", "#79a8ff", ""},
                                           {"#5b6472", "#a3acb9", "7 4"},
                                           {"#15803d", "#5fd38d", "2 3"},
                                           {"#7e22ce", "#cf9bff", "9 3 2 3"},
                                           {"#0f766e", "#4fd1c5", "4 2"}}};

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  return out;
}

std::string with_prefix(double v, const std::string& unit) {
  constexpr std::array<const char*, 7> kPrefixes = {"", "k", "M", "G", "T", "P", "E"};
  std::size_t i = 0;
  // A tick of 1000 computed as 10^3 may lie a rounding below.
  for (; v > 999.9999 && i + 1 < kPrefixes.size(); ++i) v /= 1000;
  return unit.empty() ? fmt::format("{:.4g}{}", v, kPrefixes[i])
                      : fmt::format("{:.4g} {}{}", v, kPrefixes[i], unit);
}

// A logarithmic axis from one round number to another.
struct Axis {
  double low = 0, high = 1;  // log10
  std::vector<double> ticks;

  double at(double v) const { return (std::log10(v) - low) / (high - low); }
};

// Round numbers are 1, 2 and 5 times powers of ten; all are ticks where there are few decades.
Axis axis_of(double smallest, double largest) {
  std::vector<double> round;
  for (int e = static_cast<int>(std::floor(std::log10(smallest))) - 1;
       e <= static_cast<int>(std::ceil(std::log10(largest))) + 1; ++e)
    for (const int m : {1, 2, 5}) round.push_back(m * std::pow(10.0, e));
  constexpr double kSlack = 1e-9;  // ends that are round themselves stay ends
  double low = round.front(), high = round.back();
  for (const double v : round)
    if (v <= smallest * (1 + kSlack)) low = v;
  for (auto v = round.rbegin(); v != round.rend(); ++v)
    if (*v >= largest * (1 - kSlack)) high = *v;
  if (high <= low * (1 + kSlack)) high = 10 * low;  // a single value
  Axis axis{std::log10(low), std::log10(high), {}};
  const bool all = axis.high - axis.low < 2.5;
  for (std::size_t i = 0; i < round.size(); ++i)
    if (round[i] >= low * (1 - kSlack) && round[i] <= high * (1 + kSlack) && (all || i % 3 == 0))
      axis.ticks.push_back(round[i]);
  return axis;
}

std::string style_sheet(std::size_t series) {
  std::string light, dark;
  for (std::size_t i = 0; i < series; ++i) {
    const Style& s = kStyles[i % kStyles.size()];
    light += fmt::format(".s{0}{{stroke:{1}{2}{3}}}.f{0}{{fill:{1}}}\n", i, s.light,
                         s.dash[0] != '\0' ? ";stroke-dasharray:" : "", s.dash);
    dark += fmt::format(".s{0}{{stroke:{1}}}.f{0}{{fill:{1}}}\n", i, s.dark);
  }
  return fmt::format(
      "<style>\ntext{{font:13px system-ui,-apple-system,'Segoe "
      "UI',Helvetica,Arial,sans-serif;fill:#1f2328}}\n"
      ".t{{font-size:17px;font-weight:600}}.h{{font-weight:600}}.m{{fill:#59636e;font-size:12px}}\n"
      ".b{{fill:#ffffff}}.g{{stroke:#d8dee4;stroke-width:1}}.a{{stroke:#8c959f;stroke-width:1}}\n"
      ".l{{fill:none;stroke-width:2.4;stroke-linejoin:round;stroke-linecap:round}}.e{{font-weight:600}}\n{}"
      "@media (prefers-color-scheme:dark){{\ntext{{fill:#e6edf3}}.m{{fill:#9198a1}}.b{{fill:#0d1117}}"
      ".g{{stroke:#2a313a}}.a{{stroke:#656c76}}\n{}}}\n</style>\n",
      light, dark);
}

std::string text(double x, double y, const char* anchor, const std::string& classes, const std::string& s) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" class=\"{}\">{}</text>\n", x, y,
                     anchor, classes, escaped(s));
}
std::string line(double x1, double y1, double x2, double y2, const std::string& classes) {
  return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\"/>\n", x1, y1,
                     x2, y2, classes);
}

// Labels at the lines' ends, moved apart downwards where they would overlap.
std::string end_labels(const Panel& panel, double x, const std::vector<double>& ends) {
  std::vector<std::size_t> order(ends.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t i, std::size_t j) { return ends[i] < ends[j]; });
  std::string out;
  double free_from = 0;
  for (const std::size_t i : order) {
    const double y = std::max(ends[i] + 4, free_from);
    free_from = y + kLabelGap;
    out += text(x + 7, y, "start", fmt::format("e f{}", i), panel.series[i].end_label);
  }
  return out;
}

std::string panel_svg(const Panel& panel, double x0, double y0) {
  double x_low = 1e300, x_high = 0, y_low = 1e300, y_high = 0;
  for (const Series& s : panel.series)
    for (std::size_t i = 0; i < s.x.size(); ++i) {
      x_low = std::min(x_low, s.x[i]), x_high = std::max(x_high, s.x[i]);
      y_low = std::min(y_low, s.y[i]), y_high = std::max(y_high, s.y[i]);
    }
  const Axis ax = axis_of(x_low, x_high), ay = axis_of(y_low, y_high);
  const auto px = [&](double v) { return x0 + ax.at(v) * kPanelWidth; };
  const auto py = [&](double v) { return y0 + (1 - ay.at(v)) * kPanelHeight; };

  std::string out = text(x0, y0 - 14, "start", "h", panel.title);
  for (const double v : ax.ticks) {
    out += line(px(v), y0, px(v), y0 + kPanelHeight, "g");
    out += text(px(v), y0 + kPanelHeight + 18, "middle", "m", with_prefix(v, ""));
  }
  for (const double v : ay.ticks) {
    out += line(x0, py(v), x0 + kPanelWidth, py(v), "g");
    out += text(x0 - 8, py(v) + 4, "end", "m", with_prefix(v, panel.unit));
  }
  out += line(x0, y0 + kPanelHeight, x0 + kPanelWidth, y0 + kPanelHeight, "a");
  out += text(x0 + kPanelWidth / 2, y0 + kPanelHeight + 40, "middle", "m", panel.x_label);

  std::vector<double> ends;
  double right = x0;
  for (std::size_t i = 0; i < panel.series.size(); ++i) {
    const Series& s = panel.series[i];
    out += fmt::format("<polyline class=\"l s{}\" points=\"", i);
    for (std::size_t k = 0; k < s.x.size(); ++k)
      out += fmt::format("{}{:.1f},{:.1f}", k == 0 ? "" : " ", px(s.x[k]), py(s.y[k]));
    out += "\"/>\n";
    ends.push_back(s.y.empty() ? y0 : py(s.y.back()));
    if (!s.x.empty()) right = std::max(right, px(s.x.back()));
  }
  return out + end_labels(panel, right, ends);
}

}  // namespace

std::string plot_svg(const std::string& title, const std::vector<Panel>& panels) {
  constexpr double kPanel = kLeft + kPanelWidth + kRight;
  const double width = kPanel * static_cast<double>(panels.size()), height = kTop + kPanelHeight + kBottom;
  std::size_t series = 0;
  for (const Panel& p : panels) series = std::max(series, p.series.size());
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
      "width=\"{0:.0f}\" height=\"{1:.0f}\">\n<title>{2}</title>\n",
      width, height, escaped(title));
  out += style_sheet(series);
  out += fmt::format("<rect class=\"b\" width=\"{:.0f}\" height=\"{:.0f}\"/>\n", width, height);
  out += text(kLeft, 30, "start", "t", title);
  if (!panels.empty()) {
    double x = kLeft;
    for (std::size_t i = 0; i < panels[0].series.size(); ++i) {
      const std::string& name = panels[0].series[i].name;
      out += line(x, 52, x + 28, 52, fmt::format("l s{}", i));
      out += text(x + 35, 56, "start", "", name);
      x += 35 + 8 * static_cast<double>(name.size()) + 22;  // a generous width of a character
    }
  }
  for (std::size_t i = 0; i < panels.size(); ++i)
    out += panel_svg(panels[i], static_cast<double>(i) * kPanel + kLeft, kTop);
  return out + "</svg>\n";
}

}  // namespace dsv4::reference::context_cost
