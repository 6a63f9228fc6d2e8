// Costs by context length as tables, JSON and panels of a plot; what they rest on as text.
#pragma once

#include "reference/context_cost/cost.hpp"
#include "reference/context_cost/svg.hpp"
#include "reference/context_cost/table.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4::reference::context_cost {

/// "4096", "64k" (thousands), "1M", "512Ki", "1Mi": a context's length. Throws InputError naming the text
/// unless it is in [1, kMaxTokens].
std::int64_t parse_tokens(std::string_view text);

/// The shortest of those spellings.
std::string tokens_text(std::int64_t tokens);

/// A row a length; a model's columns are FLOPs a token (FP8 equivalent), cache, and the shares of V3.2.
Table by_length(std::span<const Model> models, std::span<const std::int64_t> lengths, const Assumptions& a);

/// A row a model and length, plain numbers: for CSV.
Table by_model_and_length(std::span<const Model> models, std::span<const std::int64_t> lengths,
                          const Assumptions& a);

/// The same and the assumptions, models' products and bytes: for programs.
std::string as_json(std::span<const Model> models, std::span<const std::int64_t> lengths,
                    const Assumptions& a);

/// The report's figures beside ours.
Table published_table(const Assumptions& a);

/// What is counted and how, with each product's formula and value, and what other choices would give.
std::string explanation(std::span<const Model> models, const Assumptions& a);

/// FLOPs a token, and cache, over `from` .. `to` tokens.
std::vector<Panel> panels(std::span<const Model> models, std::int64_t from, std::int64_t to,
                          const Assumptions& a);

}  // namespace dsv4::reference::context_cost
