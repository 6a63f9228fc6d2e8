#include "bench/support/random_layer.hpp"

#include "tests/support/random.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace dsv4::bench {
namespace {

using linear::WeightType;
using linear::WeightView;
using reference::NumericMode;
using test::Random;

// Uniform in [-bound, bound), two values a draw: millions of them are needed.
template <class T>
void fill_uniform(T* out, std::int64_t count, float bound, Random& random) {
  const float step = bound * 0x1p-31f;
  for (std::int64_t i = 0; i < count; i += 2) {
    const std::uint64_t bits = random.next();
    out[i] = from_float<T>(static_cast<float>(static_cast<std::int32_t>(bits)) * step);
    if (i + 1 < count)
      out[i + 1] = from_float<T>(static_cast<float>(static_cast<std::int32_t>(bits >> 32)) * step);
  }
}

void fill_bytes(std::uint8_t* out, std::int64_t count, Random& random) {
  for (std::int64_t i = 0; i < count; i += 8) {
    const std::uint64_t bits = random.next();
    std::memcpy(out + i, &bits, static_cast<std::size_t>(std::min<std::int64_t>(8, count - i)));
  }
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// The bound of uniform values with variance 1 / cols: products then keep the size of their input.
float bound_of(std::int64_t cols) { return std::sqrt(3.0f / static_cast<float>(cols)); }

// A power of two, as UE8M0, near 1 / (sqrt(cols) * root mean square of the codes).
e8m0 scale_of(std::int64_t cols, float code_rms) {
  const float scale = 1.0f / (std::sqrt(static_cast<float>(cols)) * code_rms);
  return {static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(scale) >> 23)};
}

// Makes weights and owns their memory.
class Maker {
 public:
  explicit Maker(const ModelConfig& config) : config_(config) {}

  reference::BlockWeights block(LayerKind kind, int blocks) {
    const std::int64_t D = config_.hidden, heads = config_.heads, q_lora = config_.q_lora_rank;
    const std::int64_t out_rows = std::int64_t{config_.o_groups} * config_.o_lora_rank;
    reference::BlockWeights w;
    w.hc_attn = hc();
    w.attn_norm = vector(D, 1.0f, 0.2f);
    w.attn.wq_a = fp8(q_lora, D);
    w.attn.q_norm = vector(q_lora, 1.0f, 0.2f);
    w.attn.wq_b = fp8(heads * kHeadDim, q_lora);
    w.attn.wkv = fp8(kHeadDim, D);
    w.attn.kv_norm = vector(kHeadDim, 1.0f, 0.2f);
    w.attn.wo_a = fp8(out_rows, heads * kHeadDim / config_.o_groups);
    w.attn.wo_b = fp8(D, out_rows);
    w.attn.sink = vector(heads, 0.0f, 1.0f);
    if (kind != LayerKind::kSwa) w.attn.compressor = compressor(kHeadDim, kind);
    if (kind == LayerKind::kCsa) {
      w.attn.indexer.wq_b = fp8(std::int64_t{config_.index_heads} * kIndexDim, q_lora);
      w.attn.indexer.weights_proj = plain<bf16>(config_.index_heads, D);
      w.attn.indexer.compressor = compressor(kIndexDim, kind);
    }
    w.hc_ffn = hc();
    w.ffn_norm = vector(D, 1.0f, 0.2f);
    w.ffn.gate = plain<bf16>(config_.experts, D);
    w.ffn.bias = vector(config_.experts, 0.0f, 0.1f);
    const auto expert = [&](auto make) {
      return reference::ExpertWeights{make(config_.expert_inner, D), make(config_.expert_inner, D),
                                      make(D, config_.expert_inner)};
    };
    for (int e = 0; e < std::min(blocks, config_.experts); ++e)
      w.ffn.experts.push_back(expert([&](auto rows, auto cols) { return fp4(rows, cols); }));
    for (int e = blocks; e < config_.experts; ++e)
      w.ffn.experts.push_back(w.ffn.experts[static_cast<std::size_t>(e - blocks)]);
    w.ffn.shared = expert([&](auto rows, auto cols) { return fp8(rows, cols); });
    return w;
  }

  std::int64_t bytes() const { return bytes_; }
  std::shared_ptr<const void> storage() const { return storage_; }

 private:
  template <class T>
  T* allocate(std::int64_t count) {
    const auto words = static_cast<std::size_t>(ceil_div(count * static_cast<std::int64_t>(sizeof(T)), 64));
    bytes_ += static_cast<std::int64_t>(words) * 64;
    storage_->push_back(std::make_unique_for_overwrite<Line[]>(words));
    return reinterpret_cast<T*>(storage_->back().get());
  }

  std::vector<float> vector(std::int64_t n, float mean, float bound) {
    std::vector<float> v(static_cast<std::size_t>(n));
    fill_uniform(v.data(), n, bound, random_);
    for (float& x : v) x += mean;
    return v;
  }

  template <class T>
  WeightView plain(std::int64_t rows, std::int64_t cols) {
    T* const data = allocate<T>(rows * cols);
    fill_uniform(data, rows * cols, bound_of(cols), random_);
    return {std::is_same_v<T, float> ? WeightType::kF32 : WeightType::kBf16, data, nullptr, rows, cols};
  }

  WeightView fp8(std::int64_t rows, std::int64_t cols) {
    auto* const code = allocate<std::uint8_t>(rows * cols);
    fill_bytes(code, rows * cols, random_);
    for (std::int64_t i = 0; i < rows * cols; ++i)
      if ((code[i] & 0x7f) == 0x7f) code[i] &= 0xfe;  // 0x7f and 0xff are NaN
    const std::int64_t scales = ceil_div(rows, linear::kFp8Tile) * ceil_div(cols, linear::kFp8Tile);
    e8m0* const scale = allocate<e8m0>(scales);
    std::fill_n(scale, scales, scale_of(cols, 98.0f));  // all codes alike: rms 98
    return {WeightType::kFp8, code, scale, rows, cols};
  }

  WeightView fp4(std::int64_t rows, std::int64_t cols) {
    auto* const code = allocate<std::uint8_t>(rows * (cols / 2));
    fill_bytes(code, rows * (cols / 2), random_);
    const std::int64_t scales = rows * ceil_div(cols, linear::kFp4Block);
    e8m0* const scale = allocate<e8m0>(scales);
    std::fill_n(scale, scales, scale_of(cols, 2.9f));  // all nibbles alike: rms 2.9
    return {WeightType::kFp4, code, scale, rows, cols};
  }

  reference::HcWeights hc() {
    return {.fn = plain<float>(kMixes, std::int64_t{kStreams} * config_.hidden),
            .base = vector(kMixes, 0.0f, 1.0f),
            .scale = vector(3, 1.0f, 0.2f)};
  }

  reference::CompressorWeights compressor(int dim, LayerKind kind) {
    const attention::CompressorShape shape{ratio_of(kind), dim};
    return {.wkv = plain<bf16>(shape.width(), config_.hidden),
            .wgate = plain<bf16>(shape.width(), config_.hidden),
            .ape = vector(std::int64_t{shape.ratio} * shape.width(), 0.0f, 1.0f),
            .norm = vector(dim, 1.0f, 0.2f)};
  }

  struct alignas(64) Line {
    std::uint8_t bytes[64];
  };
  using Storage = std::vector<std::unique_ptr<Line[]>>;

  const ModelConfig& config_;
  Random random_{1};
  std::int64_t bytes_ = 0;
  std::shared_ptr<Storage> storage_ = std::make_shared<Storage>();
};

std::int64_t bytes_of(const WeightView& w) {
  switch (w.type) {
    case WeightType::kF32:
      return 4 * w.rows * w.cols;
    case WeightType::kBf16:
      return 2 * w.rows * w.cols;
    case WeightType::kFp8:
      return w.rows * w.cols + ceil_div(w.rows, linear::kFp8Tile) * ceil_div(w.cols, linear::kFp8Tile);
    case WeightType::kFp4:
      return w.rows * (w.cols / 2) + w.rows * ceil_div(w.cols, linear::kFp4Block);
  }
  return 0;
}

std::int64_t bytes_of(const reference::ExpertWeights& w) {
  return bytes_of(w.w1) + bytes_of(w.w3) + bytes_of(w.w2);
}

// Random rows first .. end - 1 of a store, row p at slot p % ring (ring 0: at slot p).
void fill_rows(reference::RowStore& store, std::int64_t first, std::int64_t end, std::int64_t ring,
               Random& random) {
  std::vector<float> row(static_cast<std::size_t>(store.channels()));
  for (std::int64_t p = std::max<std::int64_t>(0, first); p < end; ++p) {
    fill_uniform(row.data(), store.channels(), 1.7f, random);
    store.write(ring == 0 ? p : p % ring, row.data());
  }
}

}  // namespace

RandomLayer::RandomLayer(const ModelConfig& published, LayerKind kind, int blocks) {
  ModelConfig& c = model_.config;
  c = published;
  c.vocab = 1, c.layers = 1, c.mtp_layers = 0, c.hash_layers = 0;
  c.compress_ratio = {ratio_of(kind)};
  model_.mode = NumericMode::kDeploy;
  Maker maker(c);
  model_.layers.push_back(maker.block(kind, blocks));
  model_.storage = maker.storage();
  bytes_ = maker.bytes();
}

std::int64_t RandomLayer::bytes_a_token() const {
  const reference::BlockWeights& w = block();
  std::int64_t sum = 0;
  for (const WeightView* m :
       {&w.hc_attn.fn, &w.attn.wq_a, &w.attn.wq_b, &w.attn.wkv, &w.attn.wo_a, &w.attn.wo_b,
        &w.attn.compressor.wkv, &w.attn.compressor.wgate, &w.attn.indexer.wq_b, &w.attn.indexer.weights_proj,
        &w.attn.indexer.compressor.wkv, &w.attn.indexer.compressor.wgate, &w.hc_ffn.fn, &w.ffn.gate})
    sum += bytes_of(*m);
  return sum + bytes_of(w.ffn.shared) + model_.config.active_experts * bytes_of(w.ffn.experts[0]);
}

reference::SequenceState random_state(const ModelConfig& config, std::int64_t length) {
  reference::SequenceState state(config, NumericMode::kDeploy);
  Random random(2);
  for (int b = 0; b < state.blocks(); ++b) {
    reference::BlockState& s = state.block(b);
    fill_rows(s.window, length - s.ring, length, s.ring, random);
    for (reference::CompressorState* c : {&s.main, &s.index}) {
      if (c->shape.ratio == 0) continue;
      fill_rows(c->rows, length - c->ring, length, c->ring, random);
      fill_rows(c->entries, 0, length / c->shape.ratio, 0, random);
    }
  }
  state.advance(length);
  return state;
}

reference::Tensor<bf16> random_streams(const ModelConfig& config, std::int64_t tokens, std::uint64_t seed) {
  reference::Tensor<bf16> s(tokens, kStreams, config.hidden);
  Random random(seed);
  fill_uniform(s.data(), s.size(), 1.7f, random);
  return s;
}

reference::Batch append(const reference::Model& model, reference::SequenceState& state, std::int64_t tokens) {
  const std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens), 0);
  const reference::Append one[] = {{&state, ids}};
  reference::Batch batch;
  if (const Status status = make_batch(model, one, &batch); !status.ok())
    throw std::runtime_error(status.what);
  return batch;
}

}  // namespace dsv4::bench
