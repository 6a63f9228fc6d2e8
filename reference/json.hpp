// JSON from untrusted text: strict where nlohmann's defaults are lenient.
#pragma once

#include "reference/error.hpp"
#include "reference/printable.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4::reference {

inline constexpr int kJsonMaxDepth = 16;

/// Parses `text`. Throws InputError, prefixed with `where` (a file, already printable), for invalid JSON or
/// UTF-8, for a key given twice in one object and for nesting deeper than kJsonMaxDepth.
inline nlohmann::json parse_json(std::string_view text, const std::string& where) {
  using json = nlohmann::json;
  std::vector<std::set<std::string>> keys;  // of every object that is still open
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start || event == json::parse_event_t::array_start) {
      if (depth >= kJsonMaxDepth)
        throw InputError(fmt::format("{}: JSON nested deeper than {} levels", where, kJsonMaxDepth));
      keys.emplace_back();
    } else if (event == json::parse_event_t::object_end || event == json::parse_event_t::array_end) {
      keys.pop_back();
    } else if (event == json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second)
        throw InputError(fmt::format("{}: duplicate key '{}'", where, printable(key)));
    }
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::exception& e) {
    std::string_view what = e.what();  // "[json.exception.parse_error.101] parse error at ..."
    if (const auto end = what.find("] "); end != what.npos) what.remove_prefix(end + 2);
    throw InputError(fmt::format("{}: invalid JSON: {}", where, printable(what, 400)));
  }
}

/// A JSON value as messages print it: short and escaped.
inline std::string quoted_json(const nlohmann::json& value) {
  return printable(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), 80);
}

}  // namespace dsv4::reference
