// CpuBackend: what every half of a block shares. Attention is in cpu_attention.cpp, the experts in
// cpu_moe.cpp.
#include "reference/cpu_backend.hpp"

#include <dsv4/core/norm.hpp>
#include <dsv4/core/quant.hpp>
#include <dsv4/embed/embed.hpp>
#include <dsv4/lm_head/lm_head.hpp>
#include <dsv4/mhc/head.hpp>
#include <dsv4/mhc/post.hpp>
#include <dsv4/mhc/pre.hpp>
#include <dsv4/mhc/project.hpp>
#include <dsv4/mhc/split.hpp>
#include <dsv4/mtp/input.hpp>

#include "reference/cpu_grain.hpp"

#include <cstring>

namespace dsv4::reference {

namespace {

constexpr SerialCoop kCoop;

rope::Params rope_params(const ModelConfig& c, bool compressed) {
  if (!compressed) return {c.rope_theta, 1.0, 1, 1.0, 1.0};
  return {c.compress_rope_theta, c.rope_factor, c.rope_original_length, c.rope_beta_fast, c.rope_beta_slow};
}

// Row `id` of an embedding table as T.
template <class T>
void embedding(T* out, const WeightView& table, std::int64_t id, float* scratch) {
  const int hidden = static_cast<int>(table.cols);
  dsv4::linear::visit(table, [&](const auto& matrix) { matrix.decode(scratch, id, 0, hidden); });
  for (int d = 0; d < hidden; ++d) out[d] = from_float<T>(scratch[d]);
}

}  // namespace

template <class T>
CpuBackend<T>::CpuBackend(const ModelConfig& config, int threads) : config_(config), pool_(threads) {
  freq_[0] = rope::frequencies<kRopeDim>(rope_params(config, false));
  bool compressed = false;
  for (int b = 0; b < config.blocks(); ++b) compressed = compressed || config.kind(b) != LayerKind::kSwa;
  if (compressed) freq_[1] = rope::frequencies<kRopeDim>(rope_params(config, true));
}

template <class T>
void CpuBackend<T>::begin(const Batch& batch) {
  for (int kind = 0; kind < 2; ++kind) {
    Tensor<math::SinCos>& table = angles_[static_cast<std::size_t>(kind)];
    table = Tensor<math::SinCos>(batch.rows(), kRopeDim / 2);
    for (std::int64_t t = 0; t < batch.rows(); ++t)
      rope::angles(kCoop, table.row(t), freq_[static_cast<std::size_t>(kind)].data(),
                   batch.position[static_cast<std::size_t>(t)], kRopeDim / 2);
  }
}

template <class T>
const math::SinCos* CpuBackend<T>::angles(int b, std::int64_t row) const {
  return angles_[config_.kind(b) == LayerKind::kSwa ? 0 : 1].row(row);
}

template <class T>
typename CpuBackend<T>::Operand CpuBackend<T>::operand(const T* x, std::int64_t rows, std::int64_t cols,
                                                       bool quantise) {
  if constexpr (!kDeploy) {
    return {{}, {x, cols}, rows};
  } else {
    Operand out{Tensor<float>(rows, cols), {}, rows};
    out.rows = {out.storage.data(), cols};
    const int n = static_cast<int>(cols);
    pool_.run(rows, grain_of(4 * cols), [&](std::int64_t begin, std::int64_t end, Scratch&) {
      for (std::int64_t t = begin; t < end; ++t) {
        float* row = out.storage.row(t);
        if (quantise) {
          quant::fp8_round_trip(kCoop, row, x + t * cols, n, quant::kFp8LinearBlock);
        } else {
          for (int k = 0; k < n; ++k) row[k] = to_float(x[t * cols + k]);
        }
      }
    });
    return out;
  }
}

template <class T>
typename CpuBackend<T>::Operand CpuBackend<T>::operand(const Rows& x, bool quantise) {
  return operand(x.data(), x.rows(), x.cols(), quantise);
}

template <class T>
template <class TOut>
void CpuBackend<T>::linear_into(TOut* y, std::int64_t stride, const WeightView& w, const Operand& x) {
  const std::int64_t blocks = blocks_of(w.rows, kRowBlock);
  pool_.run(blocks, grain_of(x.count * w.cols * kRowBlock),
            [&](std::int64_t begin, std::int64_t end, Scratch& scratch) {
              float* decoded = scratch.floats(dsv4::linear::kDecodeRows * w.cols);
              for_token_blocks(x.count, w.cols, [&](std::int64_t t0, int tokens) {
                dsv4::linear::tile(kCoop, y + t0 * stride, stride,
                                   {x.rows.data + t0 * x.rows.stride, x.rows.stride}, tokens, w,
                                   begin * kRowBlock, std::min(end * kRowBlock, w.rows), decoded);
              });
            });
}

template <class T>
typename CpuBackend<T>::Rows CpuBackend<T>::linear(const WeightView& w, const Rows& x) {
  Rows y(x.rows(), w.rows);
  linear_into(y.data(), w.rows, w, operand(x, dsv4::linear::quantises_activations(w.type)));
  return y;
}

template <class T>
typename CpuBackend<T>::Streams CpuBackend<T>::embed(const WeightView& table,
                                                     const std::vector<std::int32_t>& ids) {
  Streams s(static_cast<std::int64_t>(ids.size()), kStreams, config_.hidden);
  pool_.run(s.rows(), grain_of(s.cols()), [&](std::int64_t begin, std::int64_t end, Scratch& scratch) {
    float* row = scratch.floats(config_.hidden);
    for (std::int64_t t = begin; t < end; ++t) {
      embedding(s.row(t), table, ids[static_cast<std::size_t>(t)], row);
      embed::replicate<kStreams>(kCoop, s.row(t), row, config_.hidden);
    }
  });
  return s;
}

template <class T>
typename CpuBackend<T>::Rows CpuBackend<T>::rms_norm(const std::vector<float>& weight, const Rows& x) {
  const int n = static_cast<int>(weight.size());
  Rows y(x.rows(), x.dim(1), x.dim(2));
  const std::int64_t rows = x.size() / n;  // streams are normed one by one
  pool_.run(rows, grain_of(4 * n), [&](std::int64_t begin, std::int64_t end, Scratch&) {
    for (std::int64_t t = begin; t < end; ++t)
      dsv4::rms_norm(kCoop, y.data() + t * n, x.data() + t * n, weight.data(), n, config_.norm_eps);
  });
  return y;
}

// ------------------------------------------------------------------------------------------------- mHC

template <class T>
typename CpuBackend<T>::HyperConnection CpuBackend<T>::mhc_pre(const HcWeights& w, const Streams& s) {
  const std::int64_t rows = s.rows();
  HyperConnection hc{Tensor<float>(rows, kMixes), Tensor<float>(rows, kStreams),
                     Tensor<float>(rows, kStreams), Tensor<float>(rows, kStreams, kStreams),
                     Rows(rows, config_.hidden)};
  const Operand f = operand(s, false);
  const int n = static_cast<int>(s.cols());
  const auto* fn = static_cast<const float*>(w.fn.data);
  pool_.run(rows, grain_of(kMixes * n), [&](std::int64_t begin, std::int64_t end, Scratch&) {
    mhc::project(kCoop, hc.mixes.row(begin), {f.rows.data + begin * n, n}, static_cast<int>(end - begin), fn,
                 kMixes, n, config_.norm_eps);
    for (std::int64_t t = begin; t < end; ++t) {
      mhc::split<kStreams>(hc.pre.row(t), hc.post.row(t), hc.comb.row(t), hc.mixes.row(t), w.scale.data(),
                           w.base.data(), config_.sinkhorn_iterations, config_.hc_eps);
      mhc::pre<kStreams>(kCoop, hc.x.row(t), s.row(t), hc.pre.row(t), config_.hidden);
    }
  });
  return hc;
}

template <class T>
void CpuBackend<T>::mhc_post(Streams& s, const Rows& y, const Tensor<float>& post,
                             const Tensor<float>& comb) {
  pool_.run(s.rows(), grain_of(8 * s.cols()), [&](std::int64_t begin, std::int64_t end, Scratch&) {
    for (std::int64_t t = begin; t < end; ++t)
      mhc::post<kStreams>(kCoop, s.row(t), y.row(t), s.row(t), post.row(t), comb.row(t), config_.hidden);
  });
}

template <class T>
typename CpuBackend<T>::Rows CpuBackend<T>::mhc_head(const HcHeadWeights& w, const Streams& s) {
  Rows x(s.rows(), config_.hidden);
  const Operand f = operand(s, false);
  const int n = static_cast<int>(s.cols());
  const auto* fn = static_cast<const float*>(w.fn.data);
  pool_.run(s.rows(), grain_of(8 * n), [&](std::int64_t begin, std::int64_t end, Scratch&) {
    for (std::int64_t t = begin; t < end; ++t) {
      float mixes[kStreams], pre[kStreams];
      mhc::project(kCoop, mixes, {f.rows.data + t * n, n}, 1, fn, kStreams, n, config_.norm_eps);
      mhc::head<kStreams>(pre, mixes, w.scale.data(), w.base.data(), config_.hc_eps);
      mhc::pre<kStreams>(kCoop, x.row(t), s.row(t), pre, config_.hidden);
    }
  });
  return x;
}

// ------------------------------------------------------------------------------------------- MTP and head

template <class T>
typename CpuBackend<T>::Streams CpuBackend<T>::mtp_input(const MtpWeights& w, const WeightView& table,
                                                         const std::vector<std::int32_t>& next_ids,
                                                         const Streams& s) {
  Rows e(s.rows(), config_.hidden);
  pool_.run(e.rows(), grain_of(e.cols()), [&](std::int64_t begin, std::int64_t end, Scratch& scratch) {
    float* row = scratch.floats(config_.hidden);
    for (std::int64_t t = begin; t < end; ++t)
      embedding(e.row(t), table, next_ids[static_cast<std::size_t>(t)], row);
  });
  const Rows projected = linear(w.e_proj, rms_norm(w.enorm, e));  // [T, D]
  const Rows normed = rms_norm(w.hnorm, s);                       // [T, S, D]
  Streams out(s.rows(), kStreams, config_.hidden);
  // Every stream of every token is a row of its own for W_h.
  const Operand streams = operand(normed.data(), s.rows() * kStreams, config_.hidden,
                                  dsv4::linear::quantises_activations(w.h_proj.type));
  linear_into(out.data(), config_.hidden, w.h_proj, streams);
  pool_.run(s.rows(), grain_of(s.cols()), [&](std::int64_t begin, std::int64_t end, Scratch&) {
    for (std::int64_t t = begin; t < end; ++t)
      mtp::input<kStreams>(kCoop, out.row(t), projected.row(t), out.row(t), config_.hidden);
  });
  return out;
}

template <class T>
std::vector<std::int32_t> CpuBackend<T>::last_rows(const Batch& batch) {
  std::vector<std::int32_t> rows;
  for (const Segment& s : batch.segments)
    if (s.count > 0) rows.push_back(static_cast<std::int32_t>(s.first + s.count - 1));
  return rows;
}

template <class T>
Tensor<float> CpuBackend<T>::lm_head(const WeightView& head, const Rows& x, const Batch& batch) {
  const std::vector<std::int32_t> row_of = last_rows(batch);
  const auto sequences = static_cast<std::int64_t>(row_of.size());
  Rows last(sequences, x.cols());
  for (std::int64_t i = 0; i < sequences; ++i)
    std::memcpy(last.row(i), x.row(row_of[static_cast<std::size_t>(i)]),
                static_cast<std::size_t>(x.cols()) * sizeof(T));
  const Operand rows = operand(last, false);
  Tensor<float> logits(sequences, head.rows);
  const std::int64_t blocks = blocks_of(head.rows, kRowBlock);
  pool_.run(blocks, grain_of(sequences * head.cols * kRowBlock),
            [&](std::int64_t begin, std::int64_t end, Scratch& scratch) {
              lm_head::logits(kCoop, logits.data(), head.rows, rows.rows, static_cast<int>(sequences), head,
                              begin * kRowBlock, std::min(end * kRowBlock, head.rows),
                              scratch.floats(dsv4::linear::kDecodeRows * head.cols));
            });
  return logits;
}

template class CpuBackend<float>;
template class CpuBackend<bf16>;
template void CpuBackend<float>::linear_into(float*, std::int64_t, const WeightView&, const Operand&);
template void CpuBackend<bf16>::linear_into(float*, std::int64_t, const WeightView&, const Operand&);
template void CpuBackend<bf16>::linear_into(bf16*, std::int64_t, const WeightView&, const Operand&);

}  // namespace dsv4::reference
