#include "reference/weights.hpp"

#include "reference/config.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/files.hpp"
#include "tests/support/random_model.hpp"

#include <dsv4/core/types.hpp>
#include <dsv4/linear/weight.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

using namespace dsv4;
using dsv4::linear::WeightType;
using dsv4::reference::canonical_name;
using dsv4::reference::Checkpoint;
using dsv4::reference::DType;
using dsv4::reference::load_model;
using dsv4::reference::Model;
using dsv4::reference::NumericMode;
using dsv4::reference::SafetensorsFile;
using dsv4::reference::SafetensorsWriter;
using dsv4::reference::WeightView;
using test::CheckpointTensor;

namespace {

// As small as the architecture lets a model be: every kind of layer, hashed and scored, an MTP block.
ModelConfig small_config() {
  ModelConfig c = test::tiny_config();
  c.vocab = 11, c.hidden = 10, c.layers = 3, c.hash_layers = 1, c.heads = 2, c.q_lora_rank = 6,
  c.o_groups = 1;
  c.o_lora_rank = 4, c.index_heads = 1, c.experts = 3, c.active_experts = 2, c.expert_inner = 8;
  return c;
}

// The tensors of a small model, to be changed by a test, and loaded from memory.
struct Parts {
  ModelConfig config = small_config();
  NumericMode mode = NumericMode::kDeploy;
  std::vector<CheckpointTensor> tensors;
  std::string config_text;

  explicit Parts(NumericMode m = NumericMode::kDeploy) : mode(m) {
    static const auto exact = test::checkpoint_tensors(test::random_model(config, NumericMode::kExact, 1));
    static const auto deploy = test::checkpoint_tensors(test::random_model(config, NumericMode::kDeploy, 1));
    tensors = mode == NumericMode::kExact ? exact : deploy;
    config_text = reference::config_to_json(config, mode);
  }
  CheckpointTensor& at(const std::string& name) {
    const auto it =
        std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name == name; });
    if (it == tensors.end()) FAIL("no tensor " << name);
    return *it;
  }
  void erase(const std::string& name) { tensors.erase(tensors.begin() + (&at(name) - tensors.data())); }
  // A zero-filled tensor.
  void add(const std::string& name, DType dtype, std::vector<std::int64_t> shape) {
    std::size_t bytes = static_cast<std::size_t>(reference::size_bytes(dtype));
    for (const std::int64_t n : shape) bytes *= static_cast<std::size_t>(n);
    tensors.push_back({name, dtype, std::move(shape), std::vector<std::byte>(bytes)});
  }
  // Replaces a tensor by one of another type or shape.
  void replace(const std::string& name, DType dtype, std::vector<std::int64_t> shape) {
    erase(name);
    add(name, dtype, std::move(shape));
  }
  Model load(std::vector<std::string>* ignored = nullptr) const {
    SafetensorsWriter writer;
    if (!config_text.empty()) writer.metadata("config", config_text);
    for (const CheckpointTensor& t : tensors) writer.add(t.name, t.dtype, t.shape, t.bytes);
    const auto bytes = std::make_shared<const std::vector<std::byte>>(writer.bytes());
    return load_model(Checkpoint::of({SafetensorsFile::parse(*bytes, "m.st", bytes)}, "m.st"), nullptr,
                      ignored);
  }
  std::string error() const {
    const std::string error = test::input_error([&] { (void)load(); });
    REQUIRE(error.substr(0, 6) == "m.st: ");
    return error.substr(6);
  }
};

// Error of loading a small model after a change.
std::string error_after(const std::function<void(Parts&)>& change) {
  Parts parts;
  change(parts);
  return parts.error();
}

// Models are the same if they would be stored the same.
bool same(const Model& a, const Model& b) {
  const auto x = test::checkpoint_tensors(a), y = test::checkpoint_tensors(b);
  return a.config == b.config && a.mode == b.mode &&
         std::equal(x.begin(), x.end(), y.begin(), y.end(),
                    [](const CheckpointTensor& s, const CheckpointTensor& t) {
                      return s.name == t.name && s.dtype == t.dtype && s.shape == t.shape &&
                             s.bytes == t.bytes;
                    });
}

double at(const WeightView& w, std::int64_t row, std::int64_t col) {
  return linear::visit(w, [&](const auto& m) { return static_cast<double>(m.at(row, col)); });
}

// Every view of a model is aligned for its type.
void require_aligned(const Model& m) {
  const auto check = [](const WeightView& w) {
    const std::uintptr_t size = w.type == WeightType::kF32 ? 4 : w.type == WeightType::kBf16 ? 2 : 1;
    REQUIRE(w.data != nullptr);
    REQUIRE(reinterpret_cast<std::uintptr_t>(w.data) % size == 0);
    REQUIRE((w.scale != nullptr) == (w.type == WeightType::kFp8 || w.type == WeightType::kFp4));
  };
  const auto check_block = [&](const reference::BlockWeights& b) {
    for (const WeightView* w :
         {&b.hc_attn.fn, &b.hc_ffn.fn, &b.attn.wq_a, &b.attn.wq_b, &b.attn.wkv, &b.attn.wo_a, &b.attn.wo_b,
          &b.ffn.gate, &b.ffn.shared.w1, &b.ffn.shared.w2, &b.ffn.shared.w3})
      check(*w);
    for (const auto& e : b.ffn.experts) check(e.w1), check(e.w2), check(e.w3);
    for (const WeightView* w : {&b.attn.compressor.wkv, &b.attn.compressor.wgate, &b.attn.indexer.wq_b,
                                &b.attn.indexer.weights_proj})
      if (w->data != nullptr) check(*w);
  };
  for (const auto& b : m.layers) check_block(b);
  for (const auto& p : m.mtp) check_block(p.block), check(p.e_proj), check(p.h_proj), check(p.hc_head.fn);
  check(m.embed), check(m.head), check(m.hc_head.fn);
}

}  // namespace

TEST_CASE("the recorded models load", "[reference][weights]") {
  for (const char* name : {"tiny-exact", "tiny-deploy"}) {
    CAPTURE(name);
    const bool deploy = std::string(name) == "tiny-deploy";
    const std::string path = std::string(DSV4_TEST_DATA_DIR "/") + name + ".weights.safetensors";
    std::vector<std::string> ignored = {"x"};
    const Model m = load_model(std::filesystem::path(path), nullptr, &ignored);
    CHECK(ignored.empty());
    CHECK(m.mode == (deploy ? NumericMode::kDeploy : NumericMode::kExact));
    REQUIRE(m.layers.size() == 3);
    REQUIRE(m.mtp.size() == 1);
    CHECK(m.config.hidden == (deploy ? 128 : 64));
    CHECK((m.embed.rows == 512 && m.embed.cols == m.config.hidden && m.embed.type == WeightType::kBf16));
    CHECK(m.layers[0].attn.wq_a.type == (deploy ? WeightType::kFp8 : WeightType::kBf16));
    CHECK(m.layers[0].ffn.experts[7].w2.type == (deploy ? WeightType::kFp4 : WeightType::kBf16));
    CHECK(m.layers[0].ffn.tid2eid.size() == 512 * 6);
    CHECK((m.layers[0].ffn.bias.empty() && m.layers[2].ffn.tid2eid.empty()));
    CHECK(m.layers[0].attn.compressor.wkv.data == nullptr);
    CHECK(m.layers[1].attn.compressor.ape.size() == 4 * 1024);
    CHECK(m.layers[1].attn.indexer.compressor.ape.size() == 4 * 256);
    CHECK(m.layers[2].attn.compressor.ape.size() == 128 * 512);
    CHECK(m.layers[2].attn.indexer.wq_b.data == nullptr);
    CHECK(m.mtp[0].block.attn.compressor.wkv.data == nullptr);
    CHECK(m.mtp[0].block.ffn.bias.size() == 8);
    require_aligned(m);
    // What the loader read is what the file holds, tensor by tensor and byte by byte.
    const auto file = SafetensorsFile::open(path);
    const auto stored = test::checkpoint_tensors(m);
    CHECK(stored.size() == file.tensors().size());
    for (const CheckpointTensor& t : stored) {
      CAPTURE(t.name);
      const auto& original = file.at(t.name);
      REQUIRE(t.dtype == original.dtype);
      REQUIRE(t.shape == original.shape);
      REQUIRE(std::equal(t.bytes.begin(), t.bytes.end(), original.bytes.begin(), original.bytes.end()));
    }
  }
}

TEST_CASE("values of the recorded models", "[reference][weights]") {
  // Taken from the files by hand: bytes at the offsets the header gives.
  const Model exact = load_model(std::filesystem::path(DSV4_TEST_DATA_DIR "/tiny-exact.weights.safetensors"));
  const Model deploy =
      load_model(std::filesystem::path(DSV4_TEST_DATA_DIR "/tiny-deploy.weights.safetensors"));
  CHECK(at(exact.embed, 511, 63) == 0.171875);
  CHECK(at(exact.layers[1].attn.compressor.wgate, 1023, 5) == -0.02734375);
  CHECK(at(exact.layers[0].ffn.experts[3].w2, 60, 31) == 0.357421875);
  CHECK(at(exact.mtp[0].h_proj, 1, 2) == 0.1357421875);
  CHECK(exact.layers[0].ffn.tid2eid[511 * 6 + 5] == 0);
  CHECK(exact.layers[1].ffn.tid2eid[7] == 1);
  CHECK(exact.layers[2].ffn.bias[4] == -0.08337068557739258);
  CHECK(exact.layers[0].attn.q_norm[31] == 0.984375);
  CHECK(at(deploy.layers[0].attn.wq_b, 1300, 200) == 0.078125);
  CHECK(at(deploy.layers[2].ffn.experts[5].w2, 77, 100) == 0.0625);
  CHECK(at(deploy.layers[2].ffn.experts[5].w2, 77, 101) == 0.0);
  CHECK(at(deploy.layers[1].hc_ffn.fn, 23, 511) == -0.008982034400105476);  // misaligned in the file
  CHECK(deploy.mtp[0].hc_head.scale[0] == 1.1187803745269775);
  CHECK(deploy.layers[2].attn.compressor.ape[65025] == -0.7186835408210754);
}

TEST_CASE("a model survives its checkpoint", "[reference][weights]") {
  const test::TempFolder folder;
  for (const NumericMode mode : {NumericMode::kExact, NumericMode::kDeploy}) {
    const Model m = test::random_model(small_config(), mode, 3);
    require_aligned(m);
    test::write_checkpoint(m, folder / "one.safetensors");
    const Model one = load_model(folder / "one.safetensors");
    CHECK(same(one, m));
    require_aligned(one);
    CHECK(!same(test::random_model(small_config(), mode, 4), m));

    const auto shards = folder / (mode == NumericMode::kExact ? "exact" : "deploy");
    test::write_checkpoint(m, shards, 3);
    CHECK(std::filesystem::exists(shards / "model-3-of-3.safetensors"));
    CHECK(same(load_model(shards), m));
    std::filesystem::remove(shards / "model.safetensors.index.json");
    CHECK(same(load_model(shards), m));
    // The configuration of a folder also serves its files one by one; here tensors are missing, no more.
    const std::string error =
        test::input_error([&] { (void)load_model(shards / "model-1-of-3.safetensors"); });
    CHECK(error.find("is missing") != std::string::npos);
  }
}

TEST_CASE("any configuration makes a model", "[reference][weights]") {
  const test::TempFolder folder;
  std::vector<ModelConfig> configs;
  ModelConfig c = small_config();
  c.hidden = 33, c.expert_inner = 35, c.experts = 5, c.active_experts = 1;  // odd columns: no FP4
  configs.push_back(c);
  c = small_config();
  c.mtp_layers = 0, c.hash_layers = 0, c.compress_ratio = {128, 4, 4},
  c.swiglu_limit = c.shared_swiglu_limit = 0;
  configs.push_back(c);
  c = small_config();
  c.layers = 1, c.hash_layers = 1, c.compress_ratio = {0, 4}, c.hidden = 140,
  c.expert_inner = 130;  // MTP of ratio 4
  configs.push_back(c);
  c = small_config();
  c.compress_ratio = {}, c.vocab = 1, c.hidden = 1, c.q_lora_rank = 1, c.o_lora_rank = 1, c.expert_inner = 1;
  c.index_heads = c.index_top_k = 0;
  configs.push_back(c);
  for (const ModelConfig& config : configs)
    for (const NumericMode mode : {NumericMode::kExact, NumericMode::kDeploy}) {
      const Model m = test::random_model(config, mode, 9);
      test::write_checkpoint(m, folder / "m.safetensors");
      std::vector<std::string> ignored;
      CHECK(same(load_model(folder / "m.safetensors", &config, &ignored), m));
      CHECK(ignored.empty());
    }
}

TEST_CASE("the other spellings of names are known", "[reference][weights]") {
  const std::vector<std::pair<std::string, std::string>> pairs = {
      {"model.embed_tokens.weight", "embed.weight"},
      {"embed_tokens.weight", "embed.weight"},
      {"lm_head.weight", "head.weight"},
      {"model.norm.weight", "norm.weight"},
      {"model.hc_head.hc_fn", "hc_head_fn"},
      {"model.hc_head.scale", "hc_head_scale"},
      {"model.layers.3.self_attn.wq_a.weight_scale_inv", "layers.3.attn.wq_a.scale"},
      {"model.layers.3.self_attn.q_a_proj.weight", "layers.3.attn.wq_a.weight"},
      {"layers.3.self_attn.q_a_layernorm.weight", "layers.3.attn.q_norm.weight"},
      {"layers.3.self_attn.q_a_norm.weight", "layers.3.attn.q_norm.weight"},
      {"layers.3.self_attn.q_b_proj.weight", "layers.3.attn.wq_b.weight"},
      {"layers.3.self_attn.kv_proj.weight", "layers.3.attn.wkv.weight"},
      {"layers.3.self_attn.kv_norm.weight", "layers.3.attn.kv_norm.weight"},
      {"layers.3.self_attn.o_a_proj.weight", "layers.3.attn.wo_a.weight"},
      {"layers.3.self_attn.o_b_proj.weight_scale", "layers.3.attn.wo_b.scale"},
      {"layers.3.self_attn.sinks", "layers.3.attn.attn_sink"},
      {"layers.3.self_attn.compressor.kv_proj.weight", "layers.3.attn.compressor.wkv.weight"},
      {"layers.3.self_attn.compressor.gate_proj.weight", "layers.3.attn.compressor.wgate.weight"},
      {"layers.3.self_attn.compressor.position_bias", "layers.3.attn.compressor.ape"},
      {"layers.3.self_attn.compressor.kv_norm.weight", "layers.3.attn.compressor.norm.weight"},
      {"layers.3.self_attn.compressor.indexer.q_b_proj.weight", "layers.3.attn.indexer.wq_b.weight"},
      {"layers.3.self_attn.compressor.indexer.scorer.weights_proj.weight",
       "layers.3.attn.indexer.weights_proj.weight"},
      {"layers.3.self_attn.compressor.indexer.weights_proj.weight",
       "layers.3.attn.indexer.weights_proj.weight"},
      {"layers.3.self_attn.compressor.indexer.kv_proj.weight", "layers.3.attn.indexer.compressor.wkv.weight"},
      {"layers.3.self_attn.compressor.indexer.gate_proj.weight",
       "layers.3.attn.indexer.compressor.wgate.weight"},
      {"layers.3.self_attn.compressor.indexer.position_bias", "layers.3.attn.indexer.compressor.ape"},
      {"layers.3.self_attn.compressor.indexer.kv_norm.weight",
       "layers.3.attn.indexer.compressor.norm.weight"},
      {"layers.3.self_attn.indexer.compressor.kv_proj.weight", "layers.3.attn.indexer.compressor.wkv.weight"},
      {"layers.3.mlp.gate.e_score_correction_bias", "layers.3.ffn.gate.bias"},
      {"layers.3.mlp.experts.7.gate_proj.weight", "layers.3.ffn.experts.7.w1.weight"},
      {"layers.3.mlp.experts.7.up_proj.weight_scale_inv", "layers.3.ffn.experts.7.w3.scale"},
      {"layers.3.mlp.shared_experts.down_proj.weight", "layers.3.ffn.shared_experts.w2.weight"},
      {"layers.3.input_layernorm.weight", "layers.3.attn_norm.weight"},
      {"layers.3.post_attention_layernorm.weight", "layers.3.ffn_norm.weight"},
      {"layers.3.attn_hc.base", "layers.3.hc_attn_base"},
      {"layers.3.ffn_hc.scale", "layers.3.hc_ffn_scale"},
      {"model.mtp.0.self_attn.wkv.weight", "mtp.0.attn.wkv.weight"},
      {"mtp.0.hc_head.hc_base", "mtp.0.hc_head_base"},
  };
  for (const auto& [spelling, name] : pairs) {
    CHECK(canonical_name(spelling) == name);
    CHECK(canonical_name(name) == name);
  }
  // Published names stay, and what looks like an alias elsewhere is none.
  for (const CheckpointTensor& t : Parts().tensors) CHECK(canonical_name(t.name) == t.name);
  for (const char* name : {"", ".", "..", "layers", "layers.", "layers.0", "layers.0.", "layers.0.attn",
                           "layers.0.attn.", "layers.0.attn.compressor", "layers.0.attn.compressor.indexer",
                           "layers.0.ffn.experts", "layers.0.ffn.experts.1", "layers.0.ffn.gate", "mtp",
                           "mtp.0", "hc_head", "layers.0.kv_proj.weight", "mtp.0.embed_tokens.weight"})
    CHECK(canonical_name(name) == name);
}

TEST_CASE("a checkpoint in the other spelling is the same model", "[reference][weights]") {
  const auto respelled = [](const std::string& name, bool fully) {
    std::string s = "." + name;
    const auto swap = [&](const std::string& from, const std::string& to) {
      const auto pos = s.find(from);
      if (pos != s.npos) s.replace(pos, from.size(), to);
    };
    const bool indexer = s.find(".indexer.") != s.npos;
    if (fully) {
      swap(".attn.indexer.compressor.", ".self_attn.compressor.indexer.");
      swap(".attn.indexer.", ".self_attn.compressor.indexer.");
      if (indexer || s.find(".compressor.") != s.npos)
        swap(".norm.", ".kv_norm."), swap(".wkv.", ".kv_proj."), swap(".wgate.", ".gate_proj."),
            swap(".ape", ".position_bias");
      if (indexer) swap(".wq_b.", ".q_b_proj.");
      swap(".wq_a.", ".q_a_proj."), swap(".q_norm.", ".q_a_norm."), swap(".wq_b.", ".q_b_proj.");
      swap(".wkv.", ".kv_proj."), swap(".wo_a.", ".o_a_proj."), swap(".wo_b.", ".o_b_proj.");
      swap(".attn_sink", ".sinks"), swap(".w1.", ".gate_proj."), swap(".w2.", ".down_proj."),
          swap(".w3.", ".up_proj.");
      swap(".attn_norm.", ".input_layernorm."), swap(".ffn_norm.", ".post_attention_layernorm.");
      swap(".hc_attn_", ".attn_hc."), swap(".hc_ffn_", ".ffn_hc."), swap(".hc_head_", ".hc_head.hc_");
    }
    swap(".attn.", ".self_attn."), swap(".ffn.", ".mlp."),
        swap(".gate.bias", ".gate.e_score_correction_bias");
    swap(".embed.weight", ".embed_tokens.weight");
    if (s.ends_with(".scale") && s.find("hc.") == s.npos) swap(".scale", ".weight_scale_inv");
    return s == ".head.weight" ? "lm_head.weight" : "model" + s;
  };
  for (const NumericMode mode : {NumericMode::kExact, NumericMode::kDeploy})
    for (const bool fully : {false, true}) {
      Parts parts(mode);
      const Model plain = parts.load();
      std::set<std::string> names;
      for (CheckpointTensor& t : parts.tensors) names.insert(t.name = respelled(t.name, fully));
      CHECK(names.contains("model.layers.0.mlp.gate.tid2eid"));
      CHECK(names.contains(fully ? "model.layers.1.self_attn.compressor.indexer.position_bias"
                                 : "model.layers.1.self_attn.indexer.compressor.ape"));
      std::vector<std::string> ignored;
      CHECK(same(parts.load(&ignored), plain));
      CHECK(ignored.empty());
    }
}

TEST_CASE("tensors the model does not use are listed", "[reference][weights]") {
  Parts parts;
  const Model plain = parts.load();
  parts.add("mtp.0.embed.weight", DType::kBf16, {11, 10});
  parts.add("mtp.0.lm_head.weight", DType::kBf16, {11, 10});
  parts.add("layers.7.attn.wq_a.weight", DType::kBf16, {2, 2});
  parts.add("rotary.inv_freq", DType::kF32, {32});
  parts.add("layers.0.ffn.gate.bias", DType::kF32, {3});  // hashed layer
  std::vector<std::string> ignored;
  CHECK(same(parts.load(&ignored), plain));
  std::sort(ignored.begin(), ignored.end());
  CHECK(ignored == std::vector<std::string>{"layers.0.ffn.gate.bias", "layers.7.attn.wq_a.weight",
                                            "mtp.0.embed.weight", "mtp.0.lm_head.weight", "rotary.inv_freq"});
}

TEST_CASE("linears of every type load", "[reference][weights]") {
  const std::string name = "layers.0.attn.wo_a";  // [4, 1024]
  SECTION("bf16 instead of FP8, as in converted checkpoints; its scale, left behind, is ignored") {
    Parts parts;
    parts.replace(name + ".weight", DType::kBf16, {4, 1024});
    std::vector<std::string> ignored;
    CHECK(parts.load(&ignored).layers[0].attn.wo_a.type == WeightType::kBf16);
    CHECK(ignored == std::vector<std::string>{name + ".scale"});
  }
  SECTION("fp32") {
    Parts parts;
    parts.replace(name + ".weight", DType::kF32, {4, 1024});
    const WeightView w = parts.load().layers[0].attn.wo_a;
    CHECK((w.type == WeightType::kF32 && w.scale == nullptr && w.rows == 4 && w.cols == 1024));
  }
  SECTION("FP4 as I8 or U8") {
    for (const DType dtype : {DType::kI8, DType::kU8}) {
      Parts parts;
      parts.replace(name + ".weight", dtype, {4, 512});
      parts.replace(name + ".scale", DType::kU8, {4, 32});
      const WeightView w = parts.load().layers[0].attn.wo_a;
      CHECK((w.type == WeightType::kFp4 && w.rows == 4 && w.cols == 1024));
    }
  }
  SECTION("scales as fp32 powers of two") {
    Parts parts;
    const Model plain = parts.load();
    for (CheckpointTensor& t : parts.tensors) {
      if (t.dtype != DType::kF8E8m0) continue;
      std::vector<float> wide;
      for (const std::byte b : t.bytes) wide.push_back(to_float(e8m0{static_cast<std::uint8_t>(b)}));
      const auto bytes = std::as_bytes(std::span(wide));
      t.dtype = DType::kF32, t.bytes.assign(bytes.begin(), bytes.end());
    }
    CHECK(same(parts.load(), plain));
    // Both ends of the range; the smallest is a subnormal.
    CheckpointTensor& scale = parts.at(name + ".scale");
    for (const auto& [value, code] :
         {std::pair(0x1p-127f, 0), {0x1p-126f, 1}, {1.0f, 127}, {0x1p127f, 254}}) {
      std::memcpy(scale.bytes.data(), &value, 4);
      CHECK(parts.load().layers[0].attn.wo_a.scale[0].bits == code);
    }
    for (const auto& [value, text] : std::vector<std::pair<float, std::string>>{{3.0f, "3"},
                                                                                {0.0f, "0"},
                                                                                {-1.0f, "-1"},
                                                                                {INFINITY, "inf"},
                                                                                {0x1p-128f, "2.938736e-39"},
                                                                                {0.1f, "0.1"}}) {
      std::memcpy(scale.bytes.data(), &value, 4);
      CHECK(parts.error() ==
            "tensor '" + name + ".scale': element 0 is " + text + ", not a power of two in [2^-127, 2^127]");
    }
  }
}

TEST_CASE("hash tables come as int32 or int64 and are checked", "[reference][weights]") {
  Parts parts;
  const Model plain = parts.load();
  CheckpointTensor& table = parts.at("layers.0.ffn.gate.tid2eid");
  const auto narrow = plain.layers[0].ffn.tid2eid;
  std::vector<std::int64_t> wide(narrow.begin(), narrow.end());
  const auto store = [&] {
    const auto bytes = std::as_bytes(std::span(wide));
    table.dtype = DType::kI64, table.bytes.assign(bytes.begin(), bytes.end());
  };
  store();
  CHECK(same(parts.load(), plain));
  for (const auto& [value, text] :
       {std::pair(std::int64_t{3}, "3"), {std::int64_t{-1}, "-1"}, {std::int64_t{1} << 32, "4294967296"}}) {
    wide[5] = value;
    store();
    CHECK(parts.error() == std::string("tensor 'layers.0.ffn.gate.tid2eid': element [2, 1] is ") + text +
                               ", outside the experts [0, 3)");
  }
}

TEST_CASE("a tied head is the embedding", "[reference][weights]") {
  Parts parts;
  parts.erase("head.weight");
  CHECK(parts.error() == "tensor 'head.weight' is missing");
  parts.config_text.insert(1, "\"tie_word_embeddings\":true,");
  const Model m = parts.load();
  CHECK(m.head == m.embed);
  Parts own;
  own.config_text.insert(1, "\"tie_word_embeddings\":true,");
  CHECK(own.load().head.data != own.load().embed.data);
}

TEST_CASE("missing, doubled and misshapen tensors are refused in one line", "[reference][weights]") {
  // Every tensor is needed, and checked: without it, of another shape, of a type no weight has.
  const Parts whole;
  for (const CheckpointTensor& t : whole.tensors) {
    CAPTURE(t.name);
    const std::string tensor = "tensor '" + t.name + "'";
    CHECK(error_after([&](Parts& p) { p.erase(t.name); }) == tensor + " is missing");
    auto taller = t.shape;
    ++taller[0];
    CHECK(error_after([&](Parts& p) { p.replace(t.name, t.dtype, taller); })
              .find(tensor + ": shape is " + reference::shape_text(taller) + ", expected " +
                    reference::shape_text(t.shape)) == 0);
    CHECK(error_after([&](Parts& p) {
            p.replace(t.name, DType::kF64, t.shape);
          }).find(tensor + ": dtype is F64, expected ") == 0);
    auto flat = t.shape;
    flat.push_back(1);
    CHECK(error_after([&](Parts& p) { p.replace(t.name, t.dtype, flat); }).find(tensor + ": shape is ") == 0);
    CHECK(error_after([&](Parts& p) { p.add("model." + t.name, t.dtype, t.shape); }) ==
          "tensor 'model." + t.name + "': the same tensor as '" + t.name +
              "', which the checkpoint holds too");
  }
  const std::string at = "tensor 'layers.0.attn.wq_a.";
  CHECK(error_after([](Parts& p) {
          p.replace("layers.0.attn.wq_a.weight", DType::kF16, {6, 10});
        }) == at + "weight': dtype is F16, expected F8_E4M3, I8, U8, BF16 or F32");
  CHECK(error_after([](Parts& p) {
          p.replace("layers.0.attn.wq_a.weight", DType::kI8, {6, 10});
        }) == at + "weight': shape is [6, 10], expected [6, 5] (FP4, two to a byte)");
  CHECK(error_after([](Parts& p) {
          p.replace("layers.0.attn.wq_a.weight", DType::kI8, {6, 5});
          p.erase("layers.0.attn.wq_a.scale");
        }) == at + "scale' is missing");
  CHECK(error_after([](Parts& p) {
          p.replace("layers.0.attn.wq_a.weight", DType::kI8, {6, 5});
        }) == at + "scale': shape is [1, 1], expected [6, 1] (one per row and 32 columns)");
  CHECK(error_after([](Parts& p) {
          p.replace("layers.0.attn.wq_b.scale", DType::kF8E8m0, {32, 1});
        }) ==
        "tensor 'layers.0.attn.wq_b.scale': shape is [32, 1], expected [8, 1] (one per 128x128; V4.1's 32x32 "
        "is not "
        "supported)");
  CHECK(error_after([](Parts& p) {
          p.replace("hc_head_fn", DType::kBf16, {4, 40});
        }) == "tensor 'hc_head_fn': dtype is BF16, expected F32");
  CHECK(error_after([](Parts& p) {
          p.replace("embed.weight", DType::kF8E4m3, {11, 10});
        }) == "tensor 'embed.weight': dtype is F8_E4M3, expected BF16 or F32");

  Parts odd;
  odd.config.hidden = 9;
  odd.tensors = test::checkpoint_tensors(test::random_model(odd.config, odd.mode, 1));
  odd.config_text = reference::config_to_json(odd.config, odd.mode);
  odd.replace("layers.0.ffn.experts.0.w1.weight", DType::kI8, {8, 5});
  CHECK(odd.error() ==
        "tensor 'layers.0.ffn.experts.0.w1.weight': FP4 (I8) needs an even number of columns, the "
        "configuration has 9");
}

TEST_CASE("tensors that contradict the configuration are refused", "[reference][weights]") {
  const auto with_config = [](const std::function<void(ModelConfig&)>& change) {
    return error_after([&](Parts& p) {
      change(p.config);
      p.config_text = reference::config_to_json(p.config, p.mode);
    });
  };
  CHECK(with_config([](ModelConfig& c) { c.compress_ratio[2] = 0; }) ==
        "tensor 'layers.2.attn.compressor.ape': contradicts the configuration: the compression ratio of "
        "block 2 is 0");
  CHECK(with_config([](ModelConfig& c) { c.hash_layers = 0; }) ==
        "tensor 'layers.0.ffn.gate.bias' is missing");
  CHECK(with_config([](ModelConfig& c) { c.hash_layers = 2; }) ==
        "tensor 'layers.1.ffn.gate.tid2eid' is missing");
  // Fewer layers than the checkpoint holds are a legal wish.
  Parts fewer;
  fewer.config.layers = 2, fewer.config.mtp_layers = 0, fewer.config.compress_ratio = {0, kCsaRatio};
  fewer.config_text = reference::config_to_json(fewer.config, fewer.mode);
  std::vector<std::string> ignored;
  CHECK(fewer.load(&ignored).layers.size() == 2);
  CHECK(ignored.size() > 40);
  CHECK(error_after([](Parts& p) {
          p.add("layers.1.ffn.gate.tid2eid", DType::kI32, {11, 2});
        }) ==
        "tensor 'layers.1.ffn.gate.tid2eid': contradicts the configuration: block 1 is not hash-routed "
        "(num_hash_layers is 1)");
  CHECK(error_after([](Parts& p) {
          p.add("layers.2.attn.indexer.wq_b.weight", DType::kBf16, {128, 6});
        }) ==
        "tensor 'layers.2.attn.indexer.wq_b.weight': contradicts the configuration: the compression ratio of "
        "block 2 is "
        "128");
  CHECK(error_after([](Parts& p) {
          p.add("mtp.0.ffn.experts.3.w1.weight", DType::kI8, {8, 5});
        }) == "tensor 'mtp.0.ffn.experts.3.w1.weight': contradicts the configuration: n_routed_experts is 3");
}

TEST_CASE("tensors of V4.1 and DSpark are refused", "[reference][weights]") {
  for (const char* name :
       {"layers.1.engram.weight", "mtp.0.dspark.proj.weight", "mtp.0.markov_head.weight",
        "mtp.2.confidence_head.weight", "layers.0.ffn.gate.bias_vl", "vision.patch.weight"})
    CHECK(error_after([&](Parts& p) { p.add(name, DType::kF32, {1}); }) ==
          "tensor '" + std::string(name) +
              "': belongs to a V4.1 or DSpark checkpoint, which is not supported");
}

TEST_CASE("the configuration is looked for and compared", "[reference][weights]") {
  const test::TempFolder folder;
  Parts parts;
  parts.config_text.clear();
  CHECK(parts.error() == "no configuration: neither a metadata key 'config' nor a config.json beside it");
  const Model m = test::random_model(parts.config, parts.mode, 1);
  SafetensorsWriter writer;
  for (const CheckpointTensor& t : parts.tensors) writer.add(t.name, t.dtype, t.shape, t.bytes);
  const auto path = folder / "m.safetensors";
  writer.write(path);
  const std::string file = path.native();
  CHECK(test::input_error([&] { (void)load_model(path); }) ==
        file + ": no configuration: neither a metadata key 'config' nor a config.json beside it");
  CHECK(same(load_model(path, &parts.config), m));  // the expected one serves
  ModelConfig bad = parts.config;
  bad.hidden = 0;
  CHECK(test::input_error([&] { (void)load_model(path, &bad); }) ==
        file + ": config: hidden_size must be in [1, 2^24]");
  test::write_file(folder / "config.json", reference::config_to_json(parts.config, parts.mode));
  CHECK(same(load_model(path), m));
  CHECK(same(load_model(folder.path()), m));
  ModelConfig other = parts.config;
  other.route_scale = 2.5f;
  CHECK(test::input_error([&] { (void)load_model(path, &other); }) ==
        file + ": config: routed_scaling_factor is 1.5, expected 2.5");
  test::write_file(folder / "config.json", "{");
  CHECK(test::input_error([&] {
          (void)load_model(path);
        }).find(folder.path().native() + "/config.json: config: invalid JSON") == 0);
}
