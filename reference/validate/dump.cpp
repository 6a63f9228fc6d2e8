#include "reference/validate/dump.hpp"

#include "reference/config.hpp"

namespace dsv4::reference::validation {

Dump::Dump(const Recording& recording, std::int64_t calls) : recording_(recording) {
  writer_.metadata("config", config_to_json(recording.config, recording.mode));
  const auto add = [&](const std::string& name, const std::vector<std::int32_t>& ids) {
    const std::vector<std::int64_t> wide(ids.begin(), ids.end());
    writer_.add<std::int64_t>(name, {static_cast<std::int64_t>(wide.size())}, wide);
  };
  for (const Call& call : std::span(recording.calls).first(static_cast<std::size_t>(calls))) {
    add(call.prefix() + "tokens", call.tokens);
    if (!call.next_tokens.empty()) add(call.prefix() + "next_tokens", call.next_tokens);
    writer_.add<std::int64_t>(call.prefix() + "start_pos", {1}, std::span(&call.start, 1));
    if (!call.has_rows) continue;
    const std::vector<std::int32_t> rows(call.rows.begin(), call.rows.end());
    writer_.add<std::int32_t>(call.prefix() + "rows", {static_cast<std::int64_t>(rows.size())}, rows);
  }
}

}  // namespace dsv4::reference::validation
