#include "reference/weights.hpp"

#include "reference/config.hpp"
#include "reference/error.hpp"
#include "reference/mapped_file.hpp"
#include "reference/printable.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <deque>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace dsv4::reference {
namespace {

using linear::kFp4Block;
using linear::kFp8Tile;
using linear::WeightType;

constexpr std::size_t kMaxConfigBytes = 16 << 20;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// ---------------------------------------------------------------------------------------------- names

using Rename = std::pair<std::string_view, std::string_view>;

std::string_view renamed(std::string_view segment, std::span<const Rename> table) {
  for (const auto& [from, to] : table)
    if (segment == from) return to;
  return segment;
}

constexpr Rename kRootNames[] = {{"embed_tokens", "embed"}, {"lm_head", "head"}};
constexpr Rename kBlockNames[] = {{"self_attn", "attn"},
                                  {"mlp", "ffn"},
                                  {"input_layernorm", "attn_norm"},
                                  {"post_attention_layernorm", "ffn_norm"}};
constexpr Rename kAttentionNames[] = {
    {"q_a_proj", "wq_a"}, {"q_a_norm", "q_norm"}, {"q_a_layernorm", "q_norm"},
    {"q_b_proj", "wq_b"}, {"kv_proj", "wkv"},     {"kv_a_layernorm", "kv_norm"},
    {"o_a_proj", "wo_a"}, {"o_b_proj", "wo_b"},   {"sinks", "attn_sink"}};
constexpr Rename kCompressorNames[] = {
    {"kv_proj", "wkv"}, {"gate_proj", "wgate"}, {"position_bias", "ape"}, {"kv_norm", "norm"}};
constexpr Rename kGateNames[] = {{"e_score_correction_bias", "bias"}};
constexpr Rename kExpertNames[] = {{"gate_proj", "w1"}, {"up_proj", "w3"}, {"down_proj", "w2"}};
constexpr Rename kScaleNames[] = {
    {"weight_scale_inv", "scale"}, {"weight_scale", "scale"}, {"scale_inv", "scale"}};

constexpr Rename kIndexerNames[] = {{"q_b_proj", "wq_b"}};
constexpr Rename kHcSites[] = {{"attn_hc", "attn"}, {"ffn_hc", "ffn"}, {"hc_head", "head"}};

using Segments = std::vector<std::string>;

// hc_head.{fn, hc_fn, ...} -> hc_head_fn, attn_hc.fn -> hc_attn_fn: two segments become one.
void join_hc(Segments& s, std::size_t at) {
  if (at + 2 != s.size()) return;
  const std::string_view site = renamed(s[at], kHcSites);
  if (site == s[at]) return;
  std::string_view part = s[at + 1];
  if (part.starts_with("hc_")) part.remove_prefix(3);
  s[at] = fmt::format("hc_{}_{}", site, part);
  s.pop_back();
}

// s[at..] is what follows "attn." in a block.
void rename_attention(Segments& s, std::size_t at) {
  if (at + 2 < s.size() && s[at] == "compressor" && s[at + 1] == "indexer") {
    // Nested spelling: attn.compressor.indexer.X, with the index compressor's parts among its children.
    s.erase(s.begin() + static_cast<std::ptrdiff_t>(at));
    if (at + 2 < s.size() && s[at + 1] == "scorer") s.erase(s.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    const std::string part(renamed(s[at + 1], kCompressorNames));
    if (part != s[at + 1]) {
      s[at + 1] = part;
      s.insert(s.begin() + static_cast<std::ptrdiff_t>(at) + 1, "compressor");
    }
  }
  if (at < s.size() && s[at] == "indexer") {
    ++at;
    if (at < s.size()) s[at] = renamed(s[at], kIndexerNames);
  } else if (at < s.size() && s[at] != "compressor") {
    s[at] = renamed(s[at], kAttentionNames);
  }
  if (at + 1 < s.size() && s[at] == "compressor") s[at + 1] = renamed(s[at + 1], kCompressorNames);
}

void rename_block(Segments& s) {
  constexpr std::size_t kAt = 2;  // behind "layers.L" or "mtp.N"
  if (s.size() <= kAt) return;
  s[kAt] = renamed(s[kAt], kBlockNames);
  join_hc(s, kAt);
  if (s.size() <= kAt + 1) return;
  if (s[kAt] == "attn") rename_attention(s, kAt + 1);
  if (s[kAt] == "ffn") {
    if (s[kAt + 1] == "gate" && s.size() > kAt + 2) s[kAt + 2] = renamed(s[kAt + 2], kGateNames);
    const std::size_t part = s[kAt + 1] == "experts" ? kAt + 3 : s[kAt + 1] == "shared_experts" ? kAt + 2 : 0;
    if (part != 0 && part < s.size()) s[part] = renamed(s[part], kExpertNames);
  }
  s.back() = renamed(s.back(), kScaleNames);
}

// Tensors only V4.1 and DSpark checkpoints have.
bool of_other_architecture(std::string_view name) {
  for (const char* mark : {"engram", "dspark", "markov", "confidence_head", "bias_vl"})
    if (name.find(mark) != name.npos) return true;
  return name.starts_with("vision");
}

// ------------------------------------------------------------------------------------------------ load

// What a Model's views point into.
struct Storage {
  std::optional<Checkpoint> files;
  std::deque<std::vector<std::uint64_t>> copies;  // aligned for every element type
};

std::string dtype_names(std::initializer_list<DType> dtypes) {
  std::string names;
  std::size_t i = 0;
  for (const DType dtype : dtypes) {
    if (i > 0) names += i + 1 == dtypes.size() ? " or " : ", ";
    names += name_of(dtype);
    ++i;
  }
  return names;
}

class Loader {
 public:
  Loader(const Checkpoint& checkpoint, const ModelConfig& config)
      : checkpoint_(checkpoint), config_(config), storage_(std::make_shared<Storage>()) {
    storage_->files = checkpoint;
    for (const StoredTensor* tensor : checkpoint.tensors()) {
      std::string name = canonical_name(tensor->name);
      if (of_other_architecture(name))
        throw InputError(fmt::format("{}: belongs to a V4.1 or DSpark checkpoint, which is not supported",
                                     where(*tensor)));
      const auto [it, fresh] = by_name_.emplace(name, tensor);
      if (!fresh) twice_.emplace(std::move(name), tensor);
    }
  }

  Model model(NumericMode mode, bool tied_head) {
    const std::int64_t D = config_.hidden;
    Model m;
    m.config = config_;
    m.mode = mode;
    m.embed = plain("embed.weight", config_.vocab, D);
    m.layers.reserve(static_cast<std::size_t>(config_.layers));
    for (std::int32_t l = 0; l < config_.layers; ++l)
      m.layers.push_back(block(fmt::format("layers.{}", l), l));
    for (std::int32_t i = 0; i < config_.mtp_layers; ++i) m.mtp.push_back(mtp(i));
    m.hc_head = hc_head("");
    m.norm = vector("norm.weight", {D});
    const bool shared = tied_head && !has("head.weight");
    m.head = shared ? m.embed : plain("head.weight", config_.vocab, D);
    m.storage = storage_;
    return m;
  }

  std::vector<std::string> ignored() const {
    std::vector<std::string> names;
    for (const StoredTensor* tensor : checkpoint_.tensors())
      if (!used_.contains(tensor)) names.push_back(tensor->name);
    return names;
  }

 private:
  bool has(const std::string& name) const { return by_name_.contains(name); }

  const StoredTensor& take(const std::string& name) {
    const auto it = by_name_.find(name);
    if (it == by_name_.end())
      throw InputError(fmt::format("{}: tensor '{}' is missing", checkpoint_.name(), name));
    if (const auto other = twice_.find(name); other != twice_.end())
      throw InputError(fmt::format("{}: the same tensor as '{}', which the checkpoint holds too",
                                   where(*other->second), printable(it->second->name)));
    used_.insert(it->second);
    return *it->second;
  }

  static void require_shape(const StoredTensor& tensor, std::initializer_list<std::int64_t> expected,
                            const std::string& hint = "") {
    if (!std::equal(tensor.shape.begin(), tensor.shape.end(), expected.begin(), expected.end()))
      throw InputError(fmt::format("{}: shape is {}, expected {}{}", where(tensor), shape_text(tensor.shape),
                                   shape_text(std::vector(expected)), hint));
  }

  static void require_dtype(const StoredTensor& tensor, std::initializer_list<DType> expected) {
    if (std::find(expected.begin(), expected.end(), tensor.dtype) == expected.end())
      throw InputError(fmt::format("{}: dtype is {}, expected {}", where(tensor), name_of(tensor.dtype),
                                   dtype_names(expected)));
  }

  // The tensor's bytes, in the file where they are aligned there, else copied.
  const void* aligned(const StoredTensor& tensor) {
    const auto address = reinterpret_cast<std::uintptr_t>(tensor.bytes.data());
    if (address % static_cast<std::uintptr_t>(size_bytes(tensor.dtype)) == 0) return tensor.bytes.data();
    auto& copy = storage_->copies.emplace_back(ceil_div(static_cast<std::int64_t>(tensor.bytes.size()), 8));
    std::memcpy(copy.data(), tensor.bytes.data(), tensor.bytes.size());
    return copy.data();
  }

  std::vector<float> vector(const std::string& name, std::initializer_list<std::int64_t> shape) {
    const StoredTensor& tensor = take(name);
    require_dtype(tensor, {DType::kF32, DType::kBf16});
    require_shape(tensor, shape);
    return floats(tensor);
  }

  WeightView view(const StoredTensor& tensor, WeightType type, std::int64_t rows, std::int64_t cols) {
    return {type, aligned(tensor), nullptr, rows, cols};
  }

  // A matrix that is never quantised.
  WeightView plain(const std::string& name, std::int64_t rows, std::int64_t cols) {
    const StoredTensor& tensor = take(name);
    require_dtype(tensor, {DType::kBf16, DType::kF32});
    require_shape(tensor, {rows, cols});
    return view(tensor, tensor.dtype == DType::kF32 ? WeightType::kF32 : WeightType::kBf16, rows, cols);
  }

  // An mHC projection.
  WeightView f32(const std::string& name, std::int64_t rows, std::int64_t cols) {
    const StoredTensor& tensor = take(name);
    require_dtype(tensor, {DType::kF32});
    require_shape(tensor, {rows, cols});
    return view(tensor, WeightType::kF32, rows, cols);
  }

  // Block scales: UE8M0 bytes as they are; F32 converted, if every one is a power of two that UE8M0 holds.
  const e8m0* scale(const std::string& name, std::int64_t rows, std::int64_t cols, const std::string& hint) {
    const StoredTensor& tensor = take(name);
    require_dtype(tensor, {DType::kF8E8m0, DType::kU8, DType::kF32});
    require_shape(tensor, {rows, cols}, hint);
    if (tensor.dtype != DType::kF32) return reinterpret_cast<const e8m0*>(tensor.bytes.data());
    const auto count = static_cast<std::size_t>(tensor.count());
    auto& copy = storage_->copies.emplace_back((count + 7) / 8);
    auto* const out = reinterpret_cast<e8m0*>(copy.data());
    for (std::size_t i = 0; i < count; ++i) {
      std::uint32_t bits = 0;
      std::memcpy(&bits, tensor.bytes.data() + 4 * i, 4);
      const bool smallest = bits == 0x00400000u;  // 2^-127, the one subnormal among the scales
      const bool power = (bits & 0x807fffffu) == 0 && bits != 0 && bits != 0x7f800000u;
      if (!smallest && !power)
        throw InputError(fmt::format("{}: element {} is {}, not a power of two in [2^-127, 2^127]",
                                     where(tensor), i, bits_as<float>(bits)));
      out[i] = {static_cast<std::uint8_t>(smallest ? 0 : bits >> 23)};
    }
    return out;
  }

  // A linear of whichever type the checkpoint holds; `name` is that of the module.
  WeightView linear(const std::string& name, std::int64_t rows, std::int64_t cols) {
    const StoredTensor& tensor = take(name + ".weight");
    require_dtype(tensor, {DType::kF8E4m3, DType::kI8, DType::kU8, DType::kBf16, DType::kF32});
    switch (tensor.dtype) {
      case DType::kF8E4m3: {
        require_shape(tensor, {rows, cols});
        WeightView w = view(tensor, WeightType::kFp8, rows, cols);
        w.scale = scale(name + ".scale", ceil_div(rows, kFp8Tile), ceil_div(cols, kFp8Tile),
                        " (one per 128x128; V4.1's 32x32 is not supported)");
        return w;
      }
      case DType::kI8:
      case DType::kU8: {
        if (cols % 2 != 0)
          throw InputError(
              fmt::format("{}: FP4 ({}) needs an even number of columns, the configuration has {}",
                          where(tensor), name_of(tensor.dtype), cols));
        require_shape(tensor, {rows, cols / 2}, " (FP4, two to a byte)");
        WeightView w = view(tensor, WeightType::kFp4, rows, cols);
        w.scale = scale(name + ".scale", rows, ceil_div(cols, kFp4Block), " (one per row and 32 columns)");
        return w;
      }
      default:
        return plain(name + ".weight", rows, cols);
    }
  }

  HcWeights hc(const std::string& prefix) {
    return {.fn = f32(prefix + "_fn", kMixes, std::int64_t{kStreams} * config_.hidden),
            .base = vector(prefix + "_base", {kMixes}),
            .scale = vector(prefix + "_scale", {3})};
  }

  HcHeadWeights hc_head(const std::string& prefix) {
    return {.fn = f32(prefix + "hc_head_fn", kStreams, std::int64_t{kStreams} * config_.hidden),
            .base = vector(prefix + "hc_head_base", {kStreams}),
            .scale = vector(prefix + "hc_head_scale", {1})};
  }

  CompressorWeights compressor(const std::string& prefix, std::int64_t dim, LayerKind kind) {
    const std::int64_t width = dim * (kind == LayerKind::kCsa ? 2 : 1);
    return {.wkv = plain(prefix + ".wkv.weight", width, config_.hidden),
            .wgate = plain(prefix + ".wgate.weight", width, config_.hidden),
            .ape = vector(prefix + ".ape", {ratio_of(kind), width}),
            .norm = vector(prefix + ".norm.weight", {dim})};
  }

  AttentionWeights attention(const std::string& prefix, std::int32_t b) {
    const std::int64_t D = config_.hidden, heads = config_.heads, q_lora = config_.q_lora_rank;
    const std::int64_t out_rows = std::int64_t{config_.o_groups} * config_.o_lora_rank;
    const LayerKind kind = config_.kind(b);
    AttentionWeights w;
    w.wq_a = linear(prefix + ".wq_a", q_lora, D);
    w.q_norm = vector(prefix + ".q_norm.weight", {q_lora});
    w.wq_b = linear(prefix + ".wq_b", heads * kHeadDim, q_lora);
    w.wkv = linear(prefix + ".wkv", kHeadDim, D);
    w.kv_norm = vector(prefix + ".kv_norm.weight", {kHeadDim});
    w.wo_a = linear(prefix + ".wo_a", out_rows, heads * kHeadDim / config_.o_groups);
    w.wo_b = linear(prefix + ".wo_b", D, out_rows);
    w.sink = vector(prefix + ".attn_sink", {heads});
    if (kind != LayerKind::kSwa) w.compressor = compressor(prefix + ".compressor", kHeadDim, kind);
    if (kind == LayerKind::kCsa) {
      w.indexer.wq_b =
          linear(prefix + ".indexer.wq_b", std::int64_t{config_.index_heads} * kIndexDim, q_lora);
      w.indexer.weights_proj = plain(prefix + ".indexer.weights_proj.weight", config_.index_heads, D);
      w.indexer.compressor = compressor(prefix + ".indexer.compressor", kIndexDim, kind);
    }
    return w;
  }

  ExpertWeights expert(const std::string& prefix) {
    const std::int64_t D = config_.hidden, inner = config_.expert_inner;
    return {.w1 = linear(prefix + ".w1", inner, D),
            .w3 = linear(prefix + ".w3", inner, D),
            .w2 = linear(prefix + ".w2", D, inner)};
  }

  std::vector<std::int32_t> expert_table(const std::string& name) {
    const StoredTensor& tensor = take(name);
    require_dtype(tensor, {DType::kI32, DType::kI64});
    require_shape(tensor, {config_.vocab, config_.active_experts});
    std::vector<std::int32_t> table(static_cast<std::size_t>(tensor.count()));
    const auto fill = [&]<class T>(T value) {
      for (std::size_t i = 0; i < table.size(); ++i) {
        std::memcpy(&value, tensor.bytes.data() + i * sizeof(T), sizeof(T));
        if (value < 0 || value >= config_.experts)
          throw InputError(fmt::format("{}: element [{}, {}] is {}, outside the experts [0, {})",
                                       where(tensor), i / static_cast<std::size_t>(config_.active_experts),
                                       i % static_cast<std::size_t>(config_.active_experts), value,
                                       config_.experts));
        table[i] = static_cast<std::int32_t>(value);
      }
    };
    if (tensor.dtype == DType::kI64) {
      fill(std::int64_t{});
    } else {
      fill(std::int32_t{});
    }
    return table;
  }

  FfnWeights ffn(const std::string& prefix, bool hashed) {
    FfnWeights w;
    w.gate = plain(prefix + ".gate.weight", config_.experts, config_.hidden);
    if (hashed) {
      w.tid2eid = expert_table(prefix + ".gate.tid2eid");
    } else {
      w.bias = vector(prefix + ".gate.bias", {config_.experts});
    }
    for (std::int32_t e = 0; e < config_.experts; ++e)
      w.experts.push_back(expert(fmt::format("{}.experts.{}", prefix, e)));
    w.shared = expert(prefix + ".shared_experts");
    return w;
  }

  BlockWeights block(const std::string& prefix, std::int32_t b) {
    BlockWeights w;
    w.hc_attn = hc(prefix + ".hc_attn");
    w.attn_norm = vector(prefix + ".attn_norm.weight", {config_.hidden});
    w.attn = attention(prefix + ".attn", b);
    w.hc_ffn = hc(prefix + ".hc_ffn");
    w.ffn_norm = vector(prefix + ".ffn_norm.weight", {config_.hidden});
    w.ffn = ffn(prefix + ".ffn", config_.hashed(b));
    refuse_contradictions(prefix, b);
    return w;
  }

  // Tensors that the configuration says cannot be: ignoring them would hide that one of the two is wrong.
  void refuse_contradictions(const std::string& prefix, std::int32_t b) const {
    const auto refuse = [&](const std::string& name, const std::string& reason) {
      if (const auto it = by_name_.find(prefix + name); it != by_name_.end())
        throw InputError(fmt::format("{}: contradicts the configuration: {}", where(*it->second), reason));
    };
    const LayerKind kind = config_.kind(b);
    const std::string ratio = fmt::format("the compression ratio of block {} is {}", b, ratio_of(kind));
    if (kind == LayerKind::kSwa) refuse(".attn.compressor.ape", ratio);
    if (kind != LayerKind::kCsa) refuse(".attn.indexer.wq_b.weight", ratio);
    if (!config_.hashed(b))
      refuse(".ffn.gate.tid2eid",
             fmt::format("block {} is not hash-routed (num_hash_layers is {})", b, config_.hash_layers));
    refuse(fmt::format(".ffn.experts.{}.w1.weight", config_.experts),
           fmt::format("n_routed_experts is {}", config_.experts));
  }

  MtpWeights mtp(std::int32_t i) {
    const std::int64_t D = config_.hidden;
    const std::string prefix = fmt::format("mtp.{}", i);
    MtpWeights w;
    w.enorm = vector(prefix + ".enorm.weight", {D});
    w.hnorm = vector(prefix + ".hnorm.weight", {D});
    w.e_proj = linear(prefix + ".e_proj", D, D);
    w.h_proj = linear(prefix + ".h_proj", D, D);
    w.block = block(prefix, config_.layers + i);
    w.hc_head = hc_head(prefix + ".");
    w.norm = vector(prefix + ".norm.weight", {D});
    return w;
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  std::shared_ptr<Storage> storage_;
  std::unordered_map<std::string, const StoredTensor*> by_name_;  // by canonical name
  std::unordered_map<std::string, const StoredTensor*> twice_;    // a second spelling of a name in by_name_
  std::unordered_set<const StoredTensor*> used_;
};

ParsedConfig find_config(const Checkpoint& checkpoint, const ModelConfig* expected) {
  if (const std::string* text = checkpoint.metadata("config")) return parse_config(*text, checkpoint.name());
  if (!checkpoint.folder().empty()) {
    const auto path = checkpoint.folder() / "config.json";
    std::error_code error;
    if (std::filesystem::exists(path, error))
      return parse_config(read_text(path, kMaxConfigBytes), printable_path(path));
  }
  if (expected != nullptr) {
    if (const Status status = validate(*expected); !status.ok())
      throw InputError(fmt::format("{}: {}", checkpoint.name(), status.what));
    return {.config = *expected};
  }
  throw InputError(
      fmt::format("{}: no configuration: neither a metadata key 'config' nor a config.json beside it",
                  checkpoint.name()));
}

}  // namespace

std::string canonical_name(std::string_view name) {
  if (name.starts_with("model.")) name.remove_prefix(6);
  Segments s;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t dot = std::min(name.find('.', begin), name.size());
    s.emplace_back(name.substr(begin, dot - begin));
    begin = dot + 1;
  }
  if (s[0] == "layers" || s[0] == "mtp") {
    rename_block(s);
  } else {
    s[0] = renamed(s[0], kRootNames);
    join_hc(s, 0);
  }
  std::string joined = std::move(s[0]);
  for (std::size_t i = 1; i < s.size(); ++i) joined.append(".").append(s[i]);
  return joined;
}

Model load_model(const Checkpoint& checkpoint, const ModelConfig* expected_or_null,
                 std::vector<std::string>* ignored_or_null) {
  const ParsedConfig parsed = find_config(checkpoint, expected_or_null);
  if (expected_or_null != nullptr)
    if (const std::string text = difference(parsed.config, *expected_or_null); !text.empty())
      throw InputError(fmt::format("{}: config: {}", checkpoint.name(), text));
  Loader loader(checkpoint, parsed.config);
  Model model = loader.model(parsed.mode, parsed.tie_word_embeddings);
  if (ignored_or_null != nullptr) *ignored_or_null = loader.ignored();
  return model;
}

Model load_model(const std::filesystem::path& path, const ModelConfig* expected_or_null,
                 std::vector<std::string>* ignored_or_null) {
  return load_model(Checkpoint::open(path), expected_or_null, ignored_or_null);
}

}  // namespace dsv4::reference
