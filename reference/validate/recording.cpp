#include "reference/validate/recording.hpp"

#include "reference/config.hpp"
#include "reference/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

namespace dsv4::reference::validation {

namespace {

struct Name {
  std::int64_t call;
  std::string_view tap;
};

// "call.NNN.tap"
std::optional<Name> parse_name(std::string_view name) {
  if (!name.starts_with("call.")) return {};
  name.remove_prefix(5);
  Name out{};
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), out.call);
  if (error != std::errc{} || out.call < 0 || end == name.data() + name.size() || *end != '.') return {};
  const auto digits = static_cast<std::size_t>(end - name.data());
  if (digits > 9 || digits != fmt::format("{:03}", out.call).size()) return {};
  out.tap = name.substr(digits + 1);
  return out;
}

void require_shape(const StoredTensor& tensor, const std::vector<std::int64_t>& expected) {
  bool same = tensor.shape.size() == expected.size();
  for (std::size_t i = 0; same && i < expected.size(); ++i)
    same = expected[i] < 0 || tensor.shape[i] == expected[i];
  if (same) return;
  std::string text;
  for (const std::int64_t n : expected)
    text += fmt::format("{}{}", text.empty() ? "" : ", ", n < 0 ? "any" : std::to_string(n));
  throw InputError(
      fmt::format("{}: shape is {}, must be [{}]", where(tensor), shape_text(tensor.shape), text));
}

// An I64 or I32 vector whose elements lie in [0, limit).
std::vector<std::int64_t> ids(const StoredTensor& tensor, std::int64_t limit) {
  require_shape(tensor, {-1});
  std::vector<std::int64_t> out = integers(tensor);
  for (std::size_t i = 0; i < out.size(); ++i)
    if (out[i] < 0 || out[i] >= limit)
      throw InputError(
          fmt::format("{}: element {} is {}, must be in [0, {})", where(tensor), i, out[i], limit));
  return out;
}

std::vector<std::int32_t> token_ids(const StoredTensor& tensor, std::int64_t vocab) {
  std::vector<std::int32_t> out;
  for (const std::int64_t id : ids(tensor, vocab)) out.push_back(static_cast<std::int32_t>(id));
  return out;
}

using Inputs = std::map<std::string_view, const StoredTensor*>;  // of one call

void read_inputs(Call& call, const Inputs& inputs, const Recording& r) {
  const auto find = [&](std::string_view name) {
    const auto it = inputs.find(name);
    return it == inputs.end() ? nullptr : it->second;
  };
  const auto get = [&](std::string_view name) -> const StoredTensor& {
    if (const StoredTensor* tensor = find(name)) return *tensor;
    throw InputError(
        fmt::format("{}: tensor '{}{}' is missing: every call needs it", r.file.name(), call.prefix(), name));
  };
  call.inputs = static_cast<int>(inputs.size());
  call.tokens = token_ids(get("tokens"), r.config.vocab);
  if (call.tokens.empty()) throw InputError(fmt::format("{}: a call needs a token", where(get("tokens"))));
  require_shape(get("start_pos"), {1});
  call.start = ids(get("start_pos"), r.config.max_positions)[0];
  if (call.end() > r.config.max_positions)
    throw InputError(fmt::format("{}: the call ends at position {}, the configuration has {}",
                                 where(get("start_pos")), call.end(), r.config.max_positions));
  if (r.mtp) {
    call.next_tokens = token_ids(get("next_tokens"), r.config.vocab);
    if (call.next_tokens.size() != call.tokens.size())
      throw InputError(fmt::format("{}: has {} elements, must be {} as the call's tokens",
                                   where(get("next_tokens")), call.next_tokens.size(), call.count()));
  }
  call.has_rows = find("rows") != nullptr;
  if (call.has_rows) {
    call.rows = ids(*find("rows"), call.count());
  } else {
    for (std::int64_t t = 0; t < call.count(); ++t) call.rows.push_back(t);
  }
}

// Checks where calls start, and notes how far back they step.
void follow_positions(Recording& r) {
  std::int64_t length = 0, high = 0;
  for (const Call& call : r.calls) {
    const auto at = [&] { return fmt::format("{}: tensor '{}start_pos'", r.file.name(), call.prefix()); };
    if (call.start == 0) length = high = 0;
    if (call.start > length)
      throw InputError(fmt::format("{}: is {}, but the sequence has {} tokens", at(), call.start, length));
    if (high - call.start > kMaxRollback)
      throw InputError(
          fmt::format("{}: steps back {} tokens, limit {}", at(), high - call.start, kMaxRollback));
    if (call.start < length)
      r.max_rollback = std::max(r.max_rollback, static_cast<std::int32_t>(high - call.start));
    length = call.end();
    high = std::max(high, length);
  }
}

}  // namespace

std::string Call::prefix() const { return fmt::format("call.{:03}.", number); }

Recording open_recording(const std::filesystem::path& path) {
  return read_recording(SafetensorsFile::open(path));
}

Recording read_recording(SafetensorsFile file) {
  const auto config = file.metadata().find("config");
  if (config == file.metadata().end())
    throw InputError(
        fmt::format("{}: no metadata key 'config': a recording carries its configuration", file.name()));
  const ParsedConfig parsed = parse_config(config->second, file.name());

  struct Parts {
    Inputs inputs;
    std::vector<std::pair<std::string_view, const StoredTensor*>> taps;
  };
  std::map<std::int64_t, Parts> parts;
  std::vector<std::string> unknown;
  bool next_tokens = false;
  for (const StoredTensor& tensor : file.tensors()) {
    const std::optional<Name> name = parse_name(tensor.name);
    if (!name) {
      unknown.push_back(tensor.name);
      continue;
    }
    Parts& call = parts[name->call];
    const std::string_view tap = name->tap;
    next_tokens = next_tokens || tap == "next_tokens";
    if (tap == "tokens" || tap == "next_tokens" || tap == "start_pos" || tap == "rows")
      call.inputs.emplace(tap, &tensor);
    else
      call.taps.emplace_back(tap, &tensor);
  }
  if (parts.empty())
    throw InputError(fmt::format("{}: no tensor 'call.NNN.tokens': not a recording", file.name()));

  const bool mtp = next_tokens && parsed.config.mtp_layers > 0;
  Recording r{
      std::move(file),   parsed.config, parsed.mode, mtp, 0, Plan(parsed.config, parsed.mode, mtp), {},
      std::move(unknown)};
  for (const auto& [number, part] : parts) {
    Call call;
    call.number = number;
    read_inputs(call, part.inputs, r);
    for (const auto& [tap, tensor] : part.taps) {
      const int order = r.plan.order(tap);
      if (order < 0) {
        r.unknown.push_back(tensor->name);
        continue;
      }
      const PlannedTap& planned = r.plan.tap(order);
      if (planned.info->rows == TapRows::kKeyValues && call.start != 0)
        throw InputError(
            fmt::format("{}: belongs to a call from position 0, this one starts at {}; 'kv_new' "
                        "and 'entry_new' hold what later calls add",
                        where(*tensor), call.start));
      require_dtype(*tensor, r.plan.dtype(planned));
      require_shape(*tensor, r.plan.shape(planned, call.span()));
      call.taps.emplace(order, tensor);
    }
    r.calls.push_back(std::move(call));
  }
  follow_positions(r);
  return r;
}

}  // namespace dsv4::reference::validation
