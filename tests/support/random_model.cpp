#include "tests/support/random_model.hpp"

#include "reference/config.hpp"
#include "tests/support/random.hpp"

#include <dsv4/core/quant.hpp>
#include <dsv4/core/types.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <fstream>
#include <memory>
#include <span>
#include <stdexcept>
#include <utility>

namespace dsv4::test {
namespace {

using linear::WeightType;
using reference::DType;
using reference::NumericMode;
using reference::WeightView;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Power of two at or above amax / largest, as UE8M0; 1 for an all-zero block.
e8m0 block_scale(float amax, float largest) {
  if (amax == 0.0f) return {127};
  return {static_cast<std::uint8_t>(std::clamp(quant::ceil_log2_biased(amax * (1.0f / largest)), 1u, 253u))};
}

// Makes weights and owns their memory.
class Maker {
 public:
  Maker(const ModelConfig& config, NumericMode mode, std::uint64_t seed)
      : config_(config), deploy_(mode == NumericMode::kDeploy), random_(seed) {}

  reference::Model model(NumericMode mode) {
    const std::int64_t D = config_.hidden;
    reference::Model m;
    m.config = config_;
    m.mode = mode;
    m.embed = bf16_matrix(config_.vocab, D, 1.0);
    for (std::int32_t l = 0; l < config_.layers; ++l) m.layers.push_back(block(l));
    for (std::int32_t i = 0; i < config_.mtp_layers; ++i) {
      reference::MtpWeights w;
      w.enorm = norm(D), w.hnorm = norm(D);
      w.e_proj = linear(D, D), w.h_proj = linear(D, D);
      w.block = block(config_.layers + i);
      w.hc_head = hc_head();
      w.norm = norm(D);
      m.mtp.push_back(std::move(w));
    }
    m.hc_head = hc_head();
    m.norm = norm(D);
    m.head = bf16_matrix(config_.vocab, D, 2.0 / root(D));
    m.storage = storage_;
    return m;
  }

 private:
  static double root(std::int64_t n) { return std::sqrt(static_cast<double>(n)); }

  template <class T>
  T* allocate(std::int64_t count) {
    const auto bytes = static_cast<std::size_t>(count) * sizeof(T);
    return reinterpret_cast<T*>(storage_->emplace_back((bytes + 7) / 8).data());
  }

  std::vector<float> vector(std::int64_t n, double mean, double sigma) {
    std::vector<float> v(static_cast<std::size_t>(n));
    for (float& x : v) x = static_cast<float>(mean + sigma * random_.normal());
    return v;
  }

  std::vector<float> norm(std::int64_t n) {
    auto v = vector(n, 1.0, 0.15);
    for (float& x : v) x = round_to<bf16>(x);
    return v;
  }

  WeightView bf16_matrix(std::int64_t rows, std::int64_t cols, double sigma) {
    bf16* const data = allocate<bf16>(rows * cols);
    for (std::int64_t i = 0; i < rows * cols; ++i)
      data[i] = from_float<bf16>(static_cast<float>(sigma * random_.normal()));
    return {WeightType::kBf16, data, nullptr, rows, cols};
  }

  WeightView f32_matrix(std::int64_t rows, std::int64_t cols, double sigma) {
    float* const data = allocate<float>(rows * cols);
    for (std::int64_t i = 0; i < rows * cols; ++i) data[i] = static_cast<float>(sigma * random_.normal());
    return {WeightType::kF32, data, nullptr, rows, cols};
  }

  // Largest magnitude of x[row0..row1) [col0..col1).
  static float largest(const std::vector<float>& x, std::int64_t cols, std::int64_t row0, std::int64_t row1,
                       std::int64_t col0, std::int64_t col1) {
    float amax = 0;
    for (std::int64_t r = row0; r < row1; ++r)
      for (std::int64_t c = col0; c < col1; ++c)
        amax = std::max(amax, std::abs(x[static_cast<std::size_t>(r * cols + c)]));
    return amax;
  }

  WeightView fp8_matrix(std::int64_t rows, std::int64_t cols, double sigma) {
    constexpr std::int64_t kTile = linear::kFp8Tile;
    const auto x = vector(rows * cols, 0.0, sigma);
    const std::int64_t scale_cols = ceil_div(cols, kTile);
    e4m3* const data = allocate<e4m3>(rows * cols);
    e8m0* const scale = allocate<e8m0>(ceil_div(rows, kTile) * scale_cols);
    for (std::int64_t r0 = 0; r0 < rows; r0 += kTile)
      for (std::int64_t c0 = 0; c0 < cols; c0 += kTile) {
        const std::int64_t r1 = std::min(r0 + kTile, rows), c1 = std::min(c0 + kTile, cols);
        const e8m0 s = block_scale(largest(x, cols, r0, r1, c0, c1), kE4m3Max);
        scale[r0 / kTile * scale_cols + c0 / kTile] = s;
        for (std::int64_t r = r0; r < r1; ++r)
          for (std::int64_t c = c0; c < c1; ++c)
            data[r * cols + c] = to_e4m3(x[static_cast<std::size_t>(r * cols + c)] / to_float(s));
      }
    return {WeightType::kFp8, data, scale, rows, cols};
  }

  WeightView fp4_matrix(std::int64_t rows, std::int64_t cols, double sigma) {
    constexpr std::int64_t kBlock = linear::kFp4Block;
    const auto x = vector(rows * cols, 0.0, sigma);
    const std::int64_t scale_cols = ceil_div(cols, kBlock);
    e2m1x2* const data = allocate<e2m1x2>(rows * (cols / 2));
    e8m0* const scale = allocate<e8m0>(rows * scale_cols);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c0 = 0; c0 < cols; c0 += kBlock) {
        const std::int64_t c1 = std::min(c0 + kBlock, cols);
        const e8m0 s = block_scale(largest(x, cols, r, r + 1, c0, c1), kE2m1Max);
        scale[r * scale_cols + c0 / kBlock] = s;
        for (std::int64_t c = c0; c < c1; c += 2) {
          const float* pair = &x[static_cast<std::size_t>(r * cols + c)];
          const std::uint32_t low = to_e2m1(pair[0] / to_float(s)), high = to_e2m1(pair[1] / to_float(s));
          data[r * (cols / 2) + c / 2] = {static_cast<std::uint8_t>(low | high << 4)};
        }
      }
    return {WeightType::kFp4, data, scale, rows, cols};
  }

  WeightView linear(std::int64_t rows, std::int64_t cols) {
    const double sigma = 1.0 / root(cols);
    return deploy_ ? fp8_matrix(rows, cols, sigma) : bf16_matrix(rows, cols, sigma);
  }

  WeightView expert_linear(std::int64_t rows, std::int64_t cols) {
    return deploy_ && cols % 2 == 0 ? fp4_matrix(rows, cols, 1.0 / root(cols)) : linear(rows, cols);
  }

  reference::HcWeights hc() {
    const std::int64_t cols = std::int64_t{kStreams} * config_.hidden;
    return {.fn = f32_matrix(kMixes, cols, 1.2 / root(cols)),
            .base = vector(kMixes, 0.0, 0.7),
            .scale = vector(3, 1.0, 0.2)};
  }

  reference::HcHeadWeights hc_head() {
    const std::int64_t cols = std::int64_t{kStreams} * config_.hidden;
    return {.fn = f32_matrix(kStreams, cols, 1.2 / root(cols)),
            .base = vector(kStreams, 0.0, 0.7),
            .scale = vector(1, 1.0, 0.2)};
  }

  reference::CompressorWeights compressor(std::int64_t dim, LayerKind kind) {
    const std::int64_t width = dim * (kind == LayerKind::kCsa ? 2 : 1);
    const double sigma = 1.0 / root(config_.hidden);
    return {.wkv = bf16_matrix(width, config_.hidden, sigma),
            .wgate = bf16_matrix(width, config_.hidden, 1.5 * sigma),
            .ape = vector(ratio_of(kind) * width, 0.0, 0.6),
            .norm = norm(dim)};
  }

  reference::BlockWeights block(std::int32_t b) {
    const std::int64_t D = config_.hidden, heads = config_.heads, q_lora = config_.q_lora_rank;
    const std::int64_t out_rows = std::int64_t{config_.o_groups} * config_.o_lora_rank;
    const LayerKind kind = config_.kind(b);
    reference::BlockWeights w;
    w.hc_attn = hc();
    w.attn_norm = norm(D);
    w.attn.wq_a = linear(q_lora, D);
    w.attn.q_norm = norm(q_lora);
    w.attn.wq_b = linear(heads * kHeadDim, q_lora);
    w.attn.wkv = linear(kHeadDim, D);
    w.attn.kv_norm = norm(kHeadDim);
    w.attn.wo_a = linear(out_rows, heads * kHeadDim / config_.o_groups);
    w.attn.wo_b = linear(D, out_rows);
    w.attn.sink = vector(heads, 0.0, 0.6);
    if (kind != LayerKind::kSwa) w.attn.compressor = compressor(kHeadDim, kind);
    if (kind == LayerKind::kCsa) {
      w.attn.indexer.wq_b = linear(std::int64_t{config_.index_heads} * kIndexDim, q_lora);
      w.attn.indexer.weights_proj = bf16_matrix(config_.index_heads, D, 1.0 / root(D));
      w.attn.indexer.compressor = compressor(kIndexDim, kind);
    }
    w.hc_ffn = hc();
    w.ffn_norm = norm(D);
    w.ffn.gate = bf16_matrix(config_.experts, D, 2.0 / root(D));
    if (config_.hashed(b)) {
      w.ffn.tid2eid.resize(static_cast<std::size_t>(config_.vocab) *
                           static_cast<std::size_t>(config_.active_experts));
      for (std::int32_t& e : w.ffn.tid2eid)
        e = static_cast<std::int32_t>(random_.integer(0, config_.experts - 1));
    } else {
      w.ffn.bias = vector(config_.experts, 0.0, 0.15);
    }
    for (std::int32_t e = 0; e < config_.experts; ++e) w.ffn.experts.push_back(expert(true));
    w.ffn.shared = expert(false);
    return w;
  }

  reference::ExpertWeights expert(bool routed) {
    const std::int64_t D = config_.hidden, inner = config_.expert_inner;
    const auto make = [&](std::int64_t rows, std::int64_t cols) {
      return routed ? expert_linear(rows, cols) : linear(rows, cols);
    };
    reference::ExpertWeights w;
    w.w1 = make(inner, D), w.w3 = make(inner, D), w.w2 = make(D, inner);
    return w;
  }

  using Storage = std::deque<std::vector<std::uint64_t>>;

  const ModelConfig& config_;
  bool deploy_;
  Random random_;
  std::shared_ptr<Storage> storage_ = std::make_shared<Storage>();
};

// Takes a model apart into the tensors of a checkpoint.
class Lister {
 public:
  explicit Lister(const reference::Model& m) : vocab_(m.config.vocab) {
    matrix("embed.weight", m.embed);
    for (std::size_t l = 0; l < m.layers.size(); ++l) block("layers." + std::to_string(l) + ".", m.layers[l]);
    for (std::size_t i = 0; i < m.mtp.size(); ++i) {
      const std::string prefix = "mtp." + std::to_string(i) + ".";
      const reference::MtpWeights& w = m.mtp[i];
      norm(prefix + "enorm.weight", w.enorm);
      norm(prefix + "hnorm.weight", w.hnorm);
      matrix(prefix + "e_proj.weight", w.e_proj);
      matrix(prefix + "h_proj.weight", w.h_proj);
      block(prefix, w.block);
      hc(prefix + "hc_head", w.hc_head);
      norm(prefix + "norm.weight", w.norm);
    }
    hc("hc_head", m.hc_head);
    norm("norm.weight", m.norm);
    matrix("head.weight", m.head);
  }

  std::vector<CheckpointTensor> take() { return std::move(tensors_); }

 private:
  void raw(std::string name, DType dtype, std::vector<std::int64_t> shape, const void* data,
           std::int64_t bytes) {
    const auto* const first = static_cast<const std::byte*>(data);
    tensors_.push_back({std::move(name), dtype, std::move(shape), {first, first + bytes}});
  }

  void matrix(const std::string& name, const WeightView& w) {
    const std::string scale = name.substr(0, name.size() - std::string("weight").size()) + "scale";
    switch (w.type) {
      case WeightType::kF32:
        raw(name, DType::kF32, {w.rows, w.cols}, w.data, w.rows * w.cols * 4);
        break;
      case WeightType::kBf16:
        raw(name, DType::kBf16, {w.rows, w.cols}, w.data, w.rows * w.cols * 2);
        break;
      case WeightType::kFp8: {
        const std::int64_t rows = ceil_div(w.rows, linear::kFp8Tile),
                           cols = ceil_div(w.cols, linear::kFp8Tile);
        raw(name, DType::kF8E4m3, {w.rows, w.cols}, w.data, w.rows * w.cols);
        raw(scale, DType::kF8E8m0, {rows, cols}, w.scale, rows * cols);
        break;
      }
      case WeightType::kFp4: {
        const std::int64_t cols = ceil_div(w.cols, linear::kFp4Block);
        raw(name, DType::kI8, {w.rows, w.cols / 2}, w.data, w.rows * (w.cols / 2));
        raw(scale, DType::kF8E8m0, {w.rows, cols}, w.scale, w.rows * cols);
        break;
      }
    }
  }

  void vector(const std::string& name, const std::vector<float>& v, std::int64_t rows = 0) {
    const auto n = static_cast<std::int64_t>(v.size());
    raw(name, DType::kF32, rows == 0 ? std::vector{n} : std::vector{rows, n / rows}, v.data(), n * 4);
  }

  void norm(const std::string& name, const std::vector<float>& v) {
    std::vector<bf16> narrow;
    for (const float x : v) narrow.push_back(from_float<bf16>(x));
    for (std::size_t i = 0; i < v.size(); ++i)
      if (to_float(narrow[i]) != v[i]) return vector(name, v);
    const auto n = static_cast<std::int64_t>(v.size());
    raw(name, DType::kBf16, {n}, narrow.data(), n * 2);
  }

  template <class Hc>
  void hc(const std::string& prefix, const Hc& w) {
    matrix(prefix + "_fn", w.fn);
    vector(prefix + "_base", w.base);
    vector(prefix + "_scale", w.scale);
  }

  void compressor(const std::string& prefix, const reference::CompressorWeights& w) {
    matrix(prefix + "wkv.weight", w.wkv);
    matrix(prefix + "wgate.weight", w.wgate);
    vector(prefix + "ape", w.ape, static_cast<std::int64_t>(w.ape.size()) / w.wkv.rows);
    norm(prefix + "norm.weight", w.norm);
  }

  void expert(const std::string& prefix, const reference::ExpertWeights& w) {
    matrix(prefix + "w1.weight", w.w1);
    matrix(prefix + "w3.weight", w.w3);
    matrix(prefix + "w2.weight", w.w2);
  }

  void block(const std::string& prefix, const reference::BlockWeights& w) {
    const std::string attn = prefix + "attn.", ffn = prefix + "ffn.";
    hc(prefix + "hc_attn", w.hc_attn);
    norm(prefix + "attn_norm.weight", w.attn_norm);
    matrix(attn + "wq_a.weight", w.attn.wq_a);
    norm(attn + "q_norm.weight", w.attn.q_norm);
    matrix(attn + "wq_b.weight", w.attn.wq_b);
    matrix(attn + "wkv.weight", w.attn.wkv);
    norm(attn + "kv_norm.weight", w.attn.kv_norm);
    matrix(attn + "wo_a.weight", w.attn.wo_a);
    matrix(attn + "wo_b.weight", w.attn.wo_b);
    vector(attn + "attn_sink", w.attn.sink);
    if (w.attn.compressor.wkv.data != nullptr) compressor(attn + "compressor.", w.attn.compressor);
    if (w.attn.indexer.wq_b.data != nullptr) {
      matrix(attn + "indexer.wq_b.weight", w.attn.indexer.wq_b);
      matrix(attn + "indexer.weights_proj.weight", w.attn.indexer.weights_proj);
      compressor(attn + "indexer.compressor.", w.attn.indexer.compressor);
    }
    hc(prefix + "hc_ffn", w.hc_ffn);
    norm(prefix + "ffn_norm.weight", w.ffn_norm);
    matrix(ffn + "gate.weight", w.ffn.gate);
    if (!w.ffn.bias.empty()) vector(ffn + "gate.bias", w.ffn.bias);
    if (!w.ffn.tid2eid.empty()) {
      const auto n = static_cast<std::int64_t>(w.ffn.tid2eid.size());
      raw(ffn + "gate.tid2eid", DType::kI32, {vocab_, n / vocab_}, w.ffn.tid2eid.data(), n * 4);
    }
    for (std::size_t e = 0; e < w.ffn.experts.size(); ++e)
      expert(ffn + "experts." + std::to_string(e) + ".", w.ffn.experts[e]);
    expert(ffn + "shared_experts.", w.ffn.shared);
  }

  std::int64_t vocab_;
  std::vector<CheckpointTensor> tensors_;
};

void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush()) throw std::runtime_error("cannot write " + path.string());
}

}  // namespace

ModelConfig tiny_config() {
  ModelConfig c = kFlash;
  c.vocab = 512, c.hidden = 64, c.layers = 3, c.mtp_layers = 1, c.hash_layers = 2, c.heads = 4;
  c.q_lora_rank = 32, c.o_groups = 2, c.o_lora_rank = 16, c.index_heads = 8, c.index_top_k = 16;
  c.experts = 8, c.active_experts = 6, c.expert_inner = 32, c.route_scale = 1.5f;
  c.swiglu_limit = 1.5f, c.shared_swiglu_limit = 1.0f, c.max_positions = 1024;
  c.compress_ratio = {0, kCsaRatio, kHcaRatio, 0};
  return c;
}

reference::Model random_model(const ModelConfig& config, NumericMode mode, std::uint64_t seed) {
  if (const Status status = validate(config); !status.ok())
    throw std::invalid_argument(std::string("random_model: ") + status.what);
  return Maker(config, mode, seed).model(mode);
}

std::vector<CheckpointTensor> checkpoint_tensors(const reference::Model& model) {
  return Lister(model).take();
}

void write_checkpoint(const std::vector<CheckpointTensor>& tensors, const ModelConfig& config,
                      NumericMode mode, const std::filesystem::path& path, int shards) {
  const std::string json = reference::config_to_json(config, mode);
  const auto add = [](reference::SafetensorsWriter& writer, const CheckpointTensor& t) {
    writer.add(t.name, t.dtype, t.shape, std::span<const std::byte>(t.bytes));
  };
  if (shards <= 1) {
    reference::SafetensorsWriter writer;
    writer.metadata("config", json);
    for (const CheckpointTensor& t : tensors) add(writer, t);
    return writer.write(path);
  }
  std::filesystem::create_directories(path);
  std::string map;  // names are plain ASCII
  for (int s = 0; s < shards; ++s) {
    const std::string file =
        "model-" + std::to_string(s + 1) + "-of-" + std::to_string(shards) + ".safetensors";
    reference::SafetensorsWriter writer;
    writer.metadata("format", "pt");
    for (std::size_t i = static_cast<std::size_t>(s); i < tensors.size();
         i += static_cast<std::size_t>(shards)) {
      add(writer, tensors[i]);
      map += (map.empty() ? "\"" : ",\n\"") + tensors[i].name + "\": \"" + file + "\"";
    }
    writer.write(path / file);
  }
  write_text(path / "model.safetensors.index.json", "{\"metadata\": {}, \"weight_map\": {" + map + "}}\n");
  write_text(path / "config.json", json + "\n");
}

void write_checkpoint(const reference::Model& model, const std::filesystem::path& path, int shards) {
  write_checkpoint(checkpoint_tensors(model), model.config, model.mode, path, shards);
}

}  // namespace dsv4::test
