// Indexer queries: their checks, and which scorer serves them.
#pragma once

#include <dsv4/attention/index_scores.cuh>
#include <dsv4/ops/attn_index.hpp>

#include "kernels/common/cache.hpp"
#include "kernels/common/checks.hpp"
#include "kernels/common/dispatch.hpp"

#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

inline constexpr std::int64_t kIndexEntries = 1 << 20;
inline constexpr std::int32_t kIndexHeads = 64;

/// Queries and keys in fp32: canonical order instead of tensor cores.
inline bool is_exact(const ops::IndexQueries& q) {
  return q.format == ops::CacheFormat::kRows && q.dtype == ops::DType::kF32;
}

/// Sizes and support.
template <class C>
void check_index_sizes(C& c, const ops::IndexQueries& q) {
  using ops::CacheFormat;
  constexpr Text kPrefix("queries.");
  c.template require<kPrefix + Text("tokens"), "must be 0 .. 2^31-1">(q.tokens >= 0 && q.tokens <= INT32_MAX,
                                                                      q.tokens, INT32_MAX);
  c.template require<kPrefix + Text("max_entries"), "must be 0 .. 2^20">(
      q.max_entries >= 0 && q.max_entries <= kIndexEntries, q.max_entries, kIndexEntries);
  c.template require<kPrefix + Text("heads"), "must be 1 .. 64">(q.heads >= 1 && q.heads <= kIndexHeads,
                                                                 q.heads, kIndexHeads);
  c.template require<kPrefix + Text("dim"), "must be 128: no other is compiled">(
      q.dim == attention::kIndexDim, q.dim, attention::kIndexDim, Code::kUnsupported);
  c.template require<kPrefix + Text("format"), "must be kIndexFp4, kIndexFp8 or kRows">(
      q.format == CacheFormat::kIndexFp4 || q.format == CacheFormat::kIndexFp8 ||
          q.format == CacheFormat::kRows,
      static_cast<std::int64_t>(q.format), 0, Code::kUnsupported);
  c.template require<kPrefix + Text("dtype"), "has no instance in this build">(
      q.format != CacheFormat::kRows || q.dtype == ops::DType::kBf16 ||
          (kHasF32 && q.dtype == ops::DType::kF32),
      static_cast<std::int64_t>(q.dtype), 0, Code::kUnsupported);
  c.template require<kPrefix + Text("keys.format"), "must be that of the queries, or kRows queries'">(
      q.keys.format == q.format ||
          (q.format == CacheFormat::kRows && !is_exact(q) &&
           (q.keys.format == CacheFormat::kIndexFp4 || q.keys.format == CacheFormat::kIndexFp8)),
      static_cast<std::int64_t>(q.keys.format), static_cast<std::int64_t>(q.format), Code::kUnsupported);
  c.template require<kPrefix + Text("keys.dtype"), "must be that of the queries">(
      q.keys.format != CacheFormat::kRows || q.keys.dtype == q.dtype, static_cast<std::int64_t>(q.keys.dtype),
      static_cast<std::int64_t>(q.dtype), Code::kUnsupported);
  check_pool_sizes<kPrefix + Text("keys")>(c, q.keys, attention::kIndexDim);
  check_page_table<kPrefix + Text("table")>(c, q.table);
  check_visible<kPrefix + Text("visible")>(c, q.visible);
}

/// Pointers, where there are tokens and entries.
template <class C>
void check_index_pointers(C& c, const ops::IndexQueries& q) {
  using ops::CacheFormat;
  constexpr Text kPrefix("queries.");
  c.template pointer<kPrefix + Text("q")>(q.q, 16);
  if (q.format == CacheFormat::kIndexFp4) c.template pointer<kPrefix + Text("scales")>(q.scales, 1);
  c.template pointer<kPrefix + Text("weights")>(q.weights, 4);
  check_pool_pointers<kPrefix + Text("keys")>(c, q.keys);
  c.template optional<kPrefix + Text("table.pages")>(q.table.pages, 4);
  c.template optional<kPrefix + Text("table.sequence_of")>(q.table.sequence_of, 4);
  check_visible_pointers<kPrefix + Text("visible")>(c, q.visible);
}

/// f(scorer, problem) for the IndexScorer (as Type<>) and the IndexProblem of queries that passed the checks
/// and are not exact.
template <class F>
Status with_index_scorer(const ops::IndexQueries& q, F&& f) noexcept {
  using ops::CacheFormat;
  const auto with = [&](auto queries, auto keys) -> Status {
    using Queries = decltype(queries);
    using Pool = decltype(keys);
    const attention::IndexProblem<Queries, Pool> problem = {.queries = queries,
                                                            .weights = q.weights,
                                                            .keys = keys,
                                                            .table = page_table(q.table),
                                                            .sequence_of_or_null = q.table.sequence_of,
                                                            .heads = q.heads};
    return q.heads <= 16 ? f(Type<attention::IndexScorer<Queries, Pool, 1>>{}, problem)
                         : f(Type<attention::IndexScorer<Queries, Pool, 4>>{}, problem);
  };
  const auto fp4_keys = [&] { return page_pool<attention::IndexFp4Pool>(q.keys); };
  const auto fp8_keys = [&] { return page_pool<attention::IndexFp8Pool>(q.keys); };
  if (q.format == CacheFormat::kIndexFp4) return with(attention::Fp4Queries(q.q, q.scales), fp4_keys());
  if (q.format == CacheFormat::kIndexFp8) return with(attention::Fp8Queries(q.q, nullptr), fp8_keys());
  const attention::Bf16Queries rows(q.q, nullptr);
  if (q.keys.format == CacheFormat::kIndexFp4) return with(rows, fp4_keys());
  if (q.keys.format == CacheFormat::kIndexFp8) return with(rows, fp8_keys());
  return with(rows, row_pool<bf16>(q.keys, attention::kIndexDim));
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
