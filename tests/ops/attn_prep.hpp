// What the tests of attn_q_proj, attn_kv_proj, attn_index_prep and attn_qk_prep share: inputs, parameters,
// and what the primitives make of them.
#pragma once

#include <dsv4/attention/indexer.hpp>
#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/attention/kv_proj.hpp>
#include <dsv4/attention/q_proj.hpp>
#include <dsv4/core/rope.hpp>
#include <dsv4/ops/attn_proj.hpp>

#include "tests/support/op_buffers.hpp"
#include "tests/support/oracle_attention.hpp"
#include "tests/support/random.hpp"

#include <cstdint>
#include <cstring>
#include <vector>

namespace dsv4::test {

inline constexpr int kHeadDim = 512, kIndexDim = 128, kRopeDim = 64, kPairs = kRopeDim / 2;
inline constexpr float kPrepEps = 1e-6f;

/// Those of compressed layers, YaRN included.
inline std::vector<float> prep_frequencies() {
  const auto f = rope::frequencies<kRopeDim>({160000.0, 16.0, 65536, 32.0, 1.0});
  return {f.begin(), f.end()};
}

/// Distinct, unordered, the ends of the longest context first.
inline std::vector<std::int32_t> prep_positions(std::int64_t tokens) {
  std::vector<std::int32_t> p;
  for (std::int64_t t = 0; t < tokens; ++t)
    p.push_back(t == 0 ? (1 << 20) - 1 : t == 1 ? 0 : static_cast<std::int32_t>(t * 40503 % (1 << 20)));
  return p;
}

/// Normal values in T, rows x cols.
template <class T>
std::vector<T> prep_values(std::int64_t n, std::uint64_t seed, double sigma = 1.0) {
  return stored<T>(normal(n, seed, sigma));
}

inline std::vector<math::SinCos> prep_angles(std::int64_t position) {
  std::vector<math::SinCos> table(kPairs);
  rope::angles(SerialCoop{}, table.data(), prep_frequencies().data(), position, kPairs);
  return table;
}

/// finish_query of every head.
template <class T>
std::vector<T> finished_queries(std::vector<T> q, const std::vector<std::int32_t>& positions,
                                std::int64_t heads) {
  for (std::size_t t = 0; t < positions.size(); ++t) {
    const auto angles = prep_angles(positions[t]);
    for (std::int64_t h = 0; h < heads; ++h)
      attention::finish_query(SerialCoop{}, q.data() + (static_cast<std::int64_t>(t) * heads + h) * kHeadDim,
                              angles.data(), kHeadDim, kRopeDim, kPrepEps);
  }
  return q;
}

/// finish_key_value of every row.
template <class T>
std::vector<T> finished_key_values(std::vector<T> kv, const std::vector<float>& weight,
                                   const std::vector<std::int32_t>& positions) {
  for (std::size_t t = 0; t < positions.size(); ++t)
    attention::finish_key_value(SerialCoop{}, kv.data() + t * kHeadDim, weight.data(),
                                prep_angles(positions[t]).data(), kHeadDim, kRopeDim, kPrepEps);
  return kv;
}

/// Rows as 584-byte entries give them back.
template <class T>
std::vector<T> through_entries(const std::vector<T>& rows) {
  std::vector<T> out;
  alignas(16) std::uint8_t page[592];
  const attention::KvPagePool pool{page, 592, 1, 1};
  for (std::size_t r = 0; r < rows.size(); r += kHeadDim) {
    float back[kHeadDim];
    pool.write(SerialCoop{}, 0, rows.data() + r);
    pool.read(0, back);
    for (const float v : back) out.push_back(from_float<T>(v));
  }
  return out;
}

/// finish_index_query of every head.
template <class T>
std::vector<T> finished_index_queries(std::vector<T> q, const std::vector<std::int32_t>& positions,
                                      std::int64_t heads) {
  float scratch[kIndexDim];
  for (std::size_t t = 0; t < positions.size(); ++t) {
    const auto angles = prep_angles(positions[t]);
    for (std::int64_t h = 0; h < heads; ++h)
      attention::finish_index_query<kIndexDim>(
          SerialCoop{}, q.data() + (static_cast<std::int64_t>(t) * heads + h) * kIndexDim, angles.data(),
          kRopeDim, scratch);
  }
  return q;
}

/// A paged pool of 584-byte entries in poisoned memory, and the op's view of it. slots need not fill the last
/// page.
struct KvPages {
  KvPages(std::int64_t slot_count, std::int32_t page_rows, std::int64_t padding)
      : bytes((slot_count + page_rows - 1) / page_rows, 584 * page_rows,
              RowLayout{(584 * std::int64_t{page_rows} + 15) / 16 * 16 + padding, 16}) {
    pool.data = bytes.data();
    pool.format = ops::CacheFormat::kKv584;
    pool.slots = slot_count;
    pool.page_rows = page_rows;
    pool.stride = padding == 0 ? 0 : bytes.stride();  // 0 stands for the least
  }
  attention::KvPagePool primitive() { return {bytes.data(), bytes.stride(), pool.page_rows, pool.slots}; }

  Rows<std::uint8_t> bytes;  // a page a row
  ops::CachePool pool;
};

/// Slots in an order of no pattern, each at most once; every third is none.
inline std::vector<std::int32_t> prep_slots(std::int64_t tokens, std::int64_t slots) {
  const std::int32_t none[] = {-1, INT32_MIN, INT32_MAX, static_cast<std::int32_t>(slots)};
  std::vector<std::int32_t> free, out;
  for (std::int64_t s = 0; s < slots; ++s) free.push_back(static_cast<std::int32_t>(s));
  Random random(5);
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (t % 3 == 1 || free.empty()) {
      out.push_back(none[t / 3 % 4]);
      continue;
    }
    const auto i = static_cast<std::size_t>(random.integer(0, static_cast<std::int64_t>(free.size()) - 1));
    out.push_back(free[i]);
    free.erase(free.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return out;
}

}  // namespace dsv4::test
