// CheckTap: what each token attends to, and which experts it goes to.
#include "reference/validate/check_tap.hpp"

#include <dsv4/attention/visibility.hpp>
#include <dsv4/linear/weight.hpp>
#include <dsv4/moe/gate.hpp>

#include "reference/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace dsv4::reference::validation {

namespace {

// A window row is its position, an entry its index beyond this.
constexpr std::int64_t kFirstEntry = std::int64_t{1} << 40;

using Members = std::vector<std::vector<std::int64_t>>;

// Rows of a selection without their padding, each number through `member`.
template <class F>
Members read_members(const StoredTensor& tensor, const F& member) {
  const std::vector<std::int32_t> all = values<std::int32_t>(tensor);
  const std::int64_t rows = tensor.shape[0], columns = tensor.shape[1];
  Members out(static_cast<std::size_t>(rows));
  for (std::int64_t t = 0; t < rows; ++t)
    for (std::int64_t i = 0; i < columns; ++i) {
      const std::int32_t v = all[static_cast<std::size_t>(t * columns + i)];
      if (v != -1) out[static_cast<std::size_t>(t)].push_back(member(t, v));
    }
  return out;
}

[[noreturn]] void refuse(const StoredTensor& tensor, std::int64_t row, std::int64_t value,
                         std::int64_t limit) {
  throw InputError(
      fmt::format("{}: row {} selects {}, must be -1 or in [0, {})", where(tensor), row, value, limit));
}

Members members_of(const Selected& selected) {
  Members out(static_cast<std::size_t>(selected.window.rows()));
  for (std::int64_t t = 0; t < selected.window.rows(); ++t) {
    std::vector<std::int64_t>& row = out[static_cast<std::size_t>(t)];
    for (std::int64_t i = 0; i < selected.window.cols(); ++i)
      if (const std::int32_t p = selected.window.row(t)[i]; p >= 0) row.push_back(p);
    for (std::int64_t i = 0; i < selected.entries.cols(); ++i)
      if (const std::int32_t e = selected.entries.row(t)[i]; e >= 0) row.push_back(kFirstEntry + e);
  }
  return out;
}

// Rows of `members` in [begin, end), less `begin`, padded with -1 to `columns` or more.
Tensor<std::int32_t> pack(const Members& members, std::int64_t begin, std::int64_t end,
                          std::int64_t columns) {
  std::vector<std::vector<std::int32_t>> rows(members.size());
  for (std::size_t t = 0; t < members.size(); ++t) {
    for (const std::int64_t m : members[t])
      if (m >= begin && m < end) rows[t].push_back(static_cast<std::int32_t>(m - begin));
    columns = std::max(columns, static_cast<std::int64_t>(rows[t].size()));
  }
  Tensor<std::int32_t> out(static_cast<std::int64_t>(members.size()), columns);
  for (std::size_t t = 0; t < members.size(); ++t) {
    std::int32_t* row = out.row(static_cast<std::int64_t>(t));
    std::fill(std::copy(rows[t].begin(), rows[t].end(), row), row + columns, -1);
  }
  return out;
}

}  // namespace

template <class T>
Members CheckTap<T>::read_topk(const StoredTensor& tensor, int block) const {
  const std::int64_t entries = entries_of(block);
  return read_members(tensor, [&](std::int64_t t, std::int32_t v) {
    if (v < 0 || v >= entries) refuse(tensor, t, v, entries);
    return kFirstEntry + v;
  });
}

// A prefill numbers rows of `attn.kv`, a later call ring slots and entries.
template <class T>
Members CheckTap<T>::read_idx(const StoredTensor& tensor, int block) const {
  const std::int64_t window = call().start == 0 ? call().count() : kWindow;
  const std::int64_t limit = window + entries_of(block);
  return read_members(tensor, [&](std::int64_t t, std::int32_t v) -> std::int64_t {
    if (v < 0 || v >= limit) refuse(tensor, t, v, limit);
    if (v >= window) return kFirstEntry + v - window;
    if (call().start == 0) return v;
    const std::int64_t position = position_of_slot(v, call().start + t);
    if (position < 0)
      throw InputError(fmt::format("{}: row {} selects ring slot {}, which is empty", where(tensor), t, v));
    return position;
  });
}

// Compares the rows whose inputs are recorded. `computed` then holds what the pass goes on from: where the
// sets are equal, the computed order; the recorded members where a staged run differs, or a free one by swaps
// alone. Returns whether any row was exchanged.
template <class T>
template <class ScoreOf>
bool CheckTap<T>::compare_members(int order, Members& computed, const Members& rec,
                                  std::initializer_list<Value> inputs, const ScoreOf& score_of) {
  const Mask usable = inputs_recorded(inputs);
  CallStats stats;
  bool exchanged = false;
  for (std::size_t t = 0; t < computed.size(); ++t) {
    std::function<double(std::int64_t)> score;
    double magnitude = 0;
    SetDifference d = compare_sets(computed[t], rec[t], score, magnitude);
    if (!d.equal()) {
      score_of(static_cast<std::int64_t>(t), score, magnitude);
      d = compare_sets(computed[t], rec[t], score, magnitude);
    }
    if (usable[t]) {
      const auto shown = [](std::int64_t m) {
        return static_cast<double>(m >= kFirstEntry ? m - kFirstEntry : m);
      };
      ++stats.rows;
      stats.elements += static_cast<std::int64_t>(rec[t].size());
      stats.differing += d.wrong;
      stats.swaps += d.swaps;
      if (d.wrong > 0 && stats.largest.row < 0) {
        const bool entry = std::max(d.only_computed, d.only_recorded) >= kFirstEntry;
        stats.largest = {static_cast<std::int64_t>(t), entry ? 1 : 0, shown(d.only_computed),
                         shown(d.only_recorded)};
      }
    }
    if (staged() ? !d.equal() : d.swaps > 0) {
      computed[t] = rec[t];
      exchanged = true;
    }
  }
  finish(order, stats, missing(inputs));
  return exchanged;
}

template <class T>
void CheckTap<T>::dump_selection(int block, const Selected& selected) {
  if (dump_or_null_ == nullptr) return;
  const bool prefill = call().start == 0;
  const std::int64_t window = selected.window.cols(), columns = window + selected.entries.cols();
  const auto first_entry = static_cast<std::int32_t>(prefill ? call().count() : kWindow);
  std::vector<std::int32_t> idx;
  for (std::int64_t t = 0; t < selected.window.rows(); ++t) {
    for (std::int64_t i = 0; i < window; ++i) {
      const std::int32_t p = selected.window.row(t)[i];
      idx.push_back(p < 0 || prefill ? p : p % kWindow);
    }
    for (std::int64_t i = 0; i < selected.entries.cols(); ++i) {
      const std::int32_t e = selected.entries.row(t)[i];
      idx.push_back(e < 0 ? e : first_entry + e);
    }
  }
  if (recording_.config.kind(block) == LayerKind::kCsa)
    dump<std::int32_t>(order(block, "attn.indexer.topk"),
                       {selected.entries.data(), static_cast<std::size_t>(selected.entries.size())},
                       selected.entries.cols());
  dump<std::int32_t>(order(block, "attn.idx"), idx, columns);
}

template <class T>
void CheckTap<T>::selection(int block, const Batch& batch, Selected& selected) {
  const History& h = history_[static_cast<std::size_t>(block)];
  dump_selection(block, selected);
  const bool csa = recording_.config.kind(block) == LayerKind::kCsa;
  Members members = members_of(selected);
  bool exchanged = false;

  // Swaps: by the recorded scores, or the computed ones where none were recorded.
  const StoredTensor* const scores_tensor = csa ? recorded(order(block, "attn.indexer.scores")) : nullptr;
  std::vector<float> scores;
  const auto score_of = [&](std::int64_t t, std::function<double(std::int64_t)>& score, double& magnitude) {
    if (!csa) return;
    if (scores.empty() && scores_tensor != nullptr) scores = values<float>(*scores_tensor);
    const float* row = scores_.row(t);
    if (scores_tensor != nullptr) row = scores.data() + t * scores_.cols();
    const std::int64_t visible =
        attention::visible_entries(batch.position[static_cast<std::size_t>(t)], kCsaRatio);
    for (std::int64_t e = 0; e < visible; ++e)
      magnitude = std::max(magnitude, static_cast<double>(std::abs(row[e])));
    score = [row, visible](std::int64_t m) {
      // No swap with a window row or with an entry that the token does not see.
      const std::int64_t e = m - kFirstEntry;
      return e < 0 || e >= visible ? std::numeric_limits<double>::quiet_NaN() : static_cast<double>(row[e]);
    };
  };

  bool chosen = entries_of(block) == 0;  // the entries are recorded by themselves, or there are none yet
  if (csa) {
    const int topk = order(block, "attn.indexer.topk");
    if (const StoredTensor* tensor = recorded(topk)) {
      Members entries = members, window = members;
      for (std::size_t t = 0; t < members.size(); ++t) {
        std::erase_if(entries[t], [](std::int64_t m) { return m < kFirstEntry; });
        std::erase_if(window[t], [](std::int64_t m) { return m >= kFirstEntry; });
      }
      if (compare_members(topk, entries, read_topk(*tensor, block), {kScores}, score_of)) {
        exchanged = true;
        for (std::size_t t = 0; t < members.size(); ++t) {
          members[t] = window[t];
          members[t].insert(members[t].end(), entries[t].begin(), entries[t].end());
        }
      }
      chosen = true;
    }
  }
  const int idx = order(block, "attn.idx");
  mark_followed(kIdx, false);
  if (const StoredTensor* tensor = recorded(idx)) {
    const auto inputs = [&]() -> std::initializer_list<Value> {
      static constexpr std::initializer_list<Value> kFromScores = {kScores}, kFromPositions = {};
      return csa && !chosen ? kFromScores : kFromPositions;
    }();
    exchanged = compare_members(idx, members, read_idx(*tensor, block), inputs, score_of) || exchanged;
    mark_followed(kIdx, true);
  }
  if (exchanged) {
    selected.window = pack(members, 0, kFirstEntry, selected.window.cols());
    selected.entries =
        pack(members, kFirstEntry, std::numeric_limits<std::int64_t>::max(), selected.entries.cols());
  }
  if (!staged()) return;
  for (std::size_t t = 0; t < members.size(); ++t)
    masks_[kKeyValues][t] = std::all_of(members[t].begin(), members[t].end(), [&](std::int64_t m) {
      return m >= kFirstEntry ? h.entry[static_cast<std::size_t>(m - kFirstEntry)] != 0
                              : h.window[static_cast<std::size_t>(m)] != 0;
    });
}

// Selection scores of one token, score + bias, in double from the gate's input.
template <class T>
std::vector<double> CheckTap<T>::gate_scores(int block, std::int64_t row) const {
  const bool layer = block < recording_.config.layers;
  const FfnWeights& w = layer ? model_.layers[static_cast<std::size_t>(block)].ffn : model_.mtp[0].block.ffn;
  std::vector<float> weights(static_cast<std::size_t>(w.gate.cols));
  std::vector<double> out;
  for (std::int64_t e = 0; e < w.gate.rows; ++e) {
    linear::visit(w.gate, [&](const auto& matrix) {
      matrix.decode(weights.data(), e, 0, static_cast<int>(w.gate.cols));
    });
    double logit = 0;
    for (std::int64_t d = 0; d < w.gate.cols; ++d)
      logit += static_cast<double>(weights[static_cast<std::size_t>(d)]) * to_float(gate_input_->row(row)[d]);
    const double softplus = logit > 20 ? logit : std::log1p(std::exp(logit));
    out.push_back(std::sqrt(softplus) + w.bias[static_cast<std::size_t>(e)]);
  }
  return out;
}

template <class T>
void CheckTap<T>::route(int block, const Batch&, Route& route) {
  const std::int64_t tokens = route.idx.rows(), active = route.idx.cols(),
                     experts = recording_.config.experts;
  const int indices = order(block, "ffn.gate.indices"), weights = order(block, "ffn.gate.weights");
  dump<std::int32_t>(indices, {route.idx.data(), static_cast<std::size_t>(route.idx.size())});
  dump<float>(weights, {route.weights.data(), static_cast<std::size_t>(route.weights.size())});

  const StoredTensor* const indices_tensor = recorded(indices);
  const StoredTensor* const weights_tensor = recorded(weights);
  const auto size = static_cast<std::size_t>(route.idx.size());
  std::vector<std::int32_t> rec_idx(route.idx.data(), route.idx.data() + size);
  std::vector<float> rec_weights(route.weights.data(), route.weights.data() + size);
  if (indices_tensor != nullptr) rec_idx = values<std::int32_t>(*indices_tensor);
  if (weights_tensor != nullptr) rec_weights = values<float>(*weights_tensor);

  std::vector<std::vector<double>> scores(static_cast<std::size_t>(tokens));  // of tokens that differ
  const auto score_of = [&](std::int64_t t, std::function<double(std::int64_t)>& score, double& magnitude) {
    if (recording_.config.hashed(block) || gate_input_ == nullptr) return;
    std::vector<double>& row = scores[static_cast<std::size_t>(t)];
    row = gate_scores(block, t);
    for (const double s : row) magnitude = std::max(magnitude, std::abs(s));
    score = [&row](std::int64_t m) { return row[static_cast<std::size_t>(m)]; };
  };
  // Before anything is exchanged: which computed slot each recorded slot corresponds to. Equal experts first,
  // then what is left over in order.
  std::vector<std::int64_t> slot_of(size, -1);
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::vector<std::uint8_t> taken(static_cast<std::size_t>(active));
    for (const bool equal : {true, false})
      for (std::int64_t j = 0; j < active; ++j) {
        std::int64_t& slot = slot_of[static_cast<std::size_t>(t * active + j)];
        for (std::int64_t k = 0; slot < 0 && k < active; ++k) {
          if (taken[static_cast<std::size_t>(k)]) continue;
          if (equal && route.idx.row(t)[k] != rec_idx[static_cast<std::size_t>(t * active + j)]) continue;
          slot = k;
          taken[static_cast<std::size_t>(k)] = 1;
        }
      }
  }
  Members members(static_cast<std::size_t>(tokens));
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t j = 0; j < active; ++j)
      if (const std::int32_t e = route.idx.row(t)[j]; e >= 0)
        members[static_cast<std::size_t>(t)].push_back(e);
  Members followed = members;
  if (indices_tensor != nullptr) {
    const Members rec = read_members(*indices_tensor, [&](std::int64_t t, std::int32_t v) -> std::int64_t {
      if (v < 0 || v >= experts) refuse(*indices_tensor, t, v, experts);
      return v;
    });
    compare_members(indices, followed, rec, {kNormed}, score_of);
  }
  if (weights_tensor != nullptr) {
    std::vector<float> aligned(size);
    const Mask usable = inputs_recorded({kNormed});
    std::vector<RowPair<float>> pairs;
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t j = 0; j < active; ++j) {
        const auto at = static_cast<std::size_t>(t * active + j);
        aligned[at] = route.weights.row(t)[slot_of[at]];
      }
      if (usable[static_cast<std::size_t>(t)])
        pairs.push_back({aligned.data() + t * active, rec_weights.data() + t * active, t});
    }
    finish(weights, compare_rows<float>(pairs, active), missing({kNormed}));
  }
  // Recorded values take the place of the computed ones slot by slot, so that the order of the computed
  // experts (in which their outputs are added) stays.
  for (std::int64_t t = 0; t < tokens; ++t) {
    const bool exchanged = followed[static_cast<std::size_t>(t)] != members[static_cast<std::size_t>(t)];
    if (!staged() && !(exchanged && weights_tensor != nullptr)) continue;
    for (std::int64_t j = 0; j < active; ++j) {
      const auto at = static_cast<std::size_t>(t * active + j);
      route.idx.row(t)[slot_of[at]] = rec_idx[at];
      if (weights_tensor != nullptr) route.weights.row(t)[slot_of[at]] = rec_weights[at];
    }
  }
  mark_followed(kExperts, indices_tensor != nullptr);
  mark_followed(kExpertWeights, weights_tensor != nullptr);
  gate_input_ = nullptr;
}

template class CheckTap<float>;
template class CheckTap<bf16>;

}  // namespace dsv4::reference::validation
