// Inputs of kernels/sparse_attention.cuh, its launch, and its result in fp64.
#pragma once

#include <dsv4/simt/launch.hpp>

#include "tests/simt/kernels/sparse_attention.cuh"
#include "tests/support/random.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dsv4::test {

class SparseAttentionProblem {
 public:
  SparseAttentionProblem(int queries, int selected)
      : queries_(queries),
        selected_(selected),
        q_(normal_codes(std::int64_t{queries} * kHeads * kDim, 1)),
        kv_(normal_codes(std::int64_t{kKeys} * kDim, 2)),
        indices_(integers(std::int64_t{queries} * selected, 3, 0, kKeys - 1)),
        sink_(normal(kHeads, 4)),
        out_(q_.size()) {
    for (std::size_t i = 0; i < indices_.size(); i += 17) indices_[i] = -1;
  }

  template <int kPad>
  void run() {
    std::fill(out_.begin(), out_.end(), bf16{0x7fff});
    simt::LaunchShape shape;
    shape.grid.x = static_cast<unsigned>(queries_);
    shape.block.x = kAttentionThreads;
    shape.shared_bytes = sizeof(SparseAttentionShared<kPad>);
    simt::launch("sparse_attention", sparse_attention<kPad>, shape,
                 SparseAttentionParams{q_.data(), kv_.data(), indices_.data(), sink_.data(), out_.data(),
                                       selected_, kScale});
  }

  /// Of the last run; NaN anywhere gives infinity.
  double largest_error() {
    if (expected_.empty()) compute_expected();
    double largest = 0;
    for (std::size_t i = 0; i < out_.size(); ++i) {
      const double error = std::fabs(double{to_float(out_[i])} - expected_[i]);
      largest = error >= 0 ? std::max(largest, error) : HUGE_VAL;
    }
    return largest;
  }

 private:
  static constexpr int kKeys = 256;
  static constexpr float kScale = 0.044194173824159216f;  // 1 / sqrt(512)

  static std::vector<bf16> normal_codes(std::int64_t n, std::uint64_t seed) {
    std::vector<bf16> codes;
    for (const float x : normal(n, seed)) codes.push_back(from_float<bf16>(x));
    return codes;
  }

  void compute_expected() {
    expected_.resize(out_.size());
    std::vector<double> weight(static_cast<std::size_t>(selected_));
    for (int query = 0; query < queries_; ++query)
      for (int head = 0; head < kHeads; ++head) {
        const std::size_t row =
            (static_cast<std::size_t>(query) * kHeads + static_cast<std::size_t>(head)) * kDim;
        const std::int32_t* index = indices_.data() + std::size_t{static_cast<unsigned>(query * selected_)};
        double largest = sink_[static_cast<std::size_t>(head)];
        for (std::size_t j = 0; j < weight.size(); ++j) {
          if (index[j] < 0) continue;
          weight[j] = 0;
          for (std::size_t e = 0; e < kDim; ++e)
            weight[j] += double{to_float(q_[row + e])} * key(index[j], e);
          weight[j] *= kScale;
          largest = std::max(largest, weight[j]);
        }
        double total = std::exp(sink_[static_cast<std::size_t>(head)] - largest);
        for (std::size_t j = 0; j < weight.size(); ++j) {
          weight[j] = index[j] < 0 ? 0 : std::exp(weight[j] - largest);
          total += weight[j];
        }
        for (std::size_t e = 0; e < kDim; ++e) {
          double sum = 0;
          for (std::size_t j = 0; j < weight.size(); ++j)
            if (index[j] >= 0) sum += weight[j] * key(index[j], e);
          expected_[row + e] = sum / total;
        }
      }
  }
  double key(std::int32_t index, std::size_t e) const {
    return to_float(kv_[static_cast<std::size_t>(index) * kDim + e]);
  }

  int queries_, selected_;
  std::vector<bf16> q_, kv_;
  std::vector<std::int32_t> indices_;
  std::vector<float> sink_;
  std::vector<bf16> out_;
  std::vector<double> expected_;
};

}  // namespace dsv4::test
