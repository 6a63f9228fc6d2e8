// Launches of the attention half of a CSA layer in decode at the models' widths: they follow from sizes
// alone, so that they can be counted without executing any. attention_half_test.cpp computes the same half.
#include <dsv4/model_config.hpp>
#include <dsv4/ops/attn_attend.hpp>
#include <dsv4/ops/attn_compress.hpp>
#include <dsv4/ops/attn_index.hpp>
#include <dsv4/ops/attn_out_proj.hpp>
#include <dsv4/ops/attn_proj.hpp>
#include <dsv4/ops/linear.hpp>
#include <dsv4/ops/mhc.hpp>
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/options.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/op_buffers.hpp"

#include <cmath>
#include <cstdint>
#include <map>
#include <string>

using namespace dsv4;

namespace {

// What the pointers of the half point to. Nothing reads or writes it.
alignas(256) std::byte memory[256];
template <class T>
T* some() {
  return reinterpret_cast<T*>(memory);
}
constexpr std::size_t kEnough = std::size_t{1} << 40;  // bytes of workspace

constexpr std::int64_t kSlots = 1 << 20;

ops::CachePool pool(ops::CacheFormat format) {
  return {.data = memory, .format = format, .slots = kSlots, .page_rows = 64};
}
ops::PageTable table(std::int64_t tokens, std::int32_t ring = 0) {
  return {.pages = some<std::int32_t>(), .stride = 4096, .sequences = tokens, .page_rows = 64, .ring = ring};
}

struct Half {
  const ModelConfig& c;
  std::int64_t tokens, max_entries;
  std::map<std::string, std::uint64_t> launches;

  template <class P>
  void run(const char* name, Status (*op)(const P&, Stream) noexcept, const P& p) {
    const std::uint64_t before = simt::counters().launches;
    CAPTURE(name);
    REQUIRE_OK(op(p, nullptr));
    launches[name] += simt::counters().launches - before;
  }

  void mhc() {
    ops::MhcPostPreParams p;
    p.post = {.out = memory,
              .y = memory,
              .streams = memory,
              .post = some<float>(),
              .comb = some<float>(),
              .tokens = tokens,
              .hidden = c.hidden,
              .stream_count = 4};
    p.pre = {.normed = memory,
             .post = some<float>(),
             .comb = some<float>(),
             .streams = memory,
             .fn = some<float>(),
             .scale = some<float>(),
             .base = some<float>(),
             .norm_weight = some<float>(),
             .workspace = memory,
             .workspace_bytes = kEnough,
             .tokens = tokens,
             .hidden = c.hidden,
             .stream_count = 4,
             .sinkhorn_iterations = c.sinkhorn_iterations};
    run("mhc_post_pre", ops::mhc_post_pre, p);
  }

  void products(const char* name, std::int64_t k, const float* norm_weight,
                std::initializer_list<std::pair<std::int64_t, bool>> rows) {
    ops::LinearMultiParams p{.input = {.x = memory, .norm_weight = norm_weight},
                             .tokens = tokens,
                             .k = k,
                             .workspace = memory,
                             .workspace_bytes = kEnough};
    for (const auto& [n, fp8] : rows)
      p.parts[p.count++] = {.y = memory,
                            .weight = {.data = memory,
                                       .scales = fp8 ? memory : nullptr,
                                       .format = fp8 ? ops::WeightFormat::kFp8 : ops::WeightFormat::kBf16},
                            .n = n,
                            .quantise = fp8};
    run(name, ops::linear_multi, p);
  }

  void prepare() {
    const ops::RopeTable rope{.freq = some<float>()};
    ops::AttnQkPrepParams p;
    p.q = {.out = memory, .q = memory, .positions = memory, .rope = rope, .tokens = tokens, .heads = c.heads};
    p.q.head_dim = 512, p.q.rope_dim = 64;
    p.kv = {.window = pool(ops::CacheFormat::kKv584), .slots = memory, .kv = memory, .norm = some<float>()};
    p.kv.positions = memory, p.kv.rope = rope, p.kv.tokens = tokens, p.kv.head_dim = 512, p.kv.rope_dim = 64;
    p.index = {.codes = memory + 128,  // not in place
               .scales = memory,
               .weights_out = some<float>(),
               .q = memory};
    p.index.weights = memory, p.index.positions = memory, p.index.rope = rope, p.index.tokens = tokens;
    p.index.heads = c.index_heads, p.index.dim = 128, p.index.rope_dim = 64;
    run("attn_qk_prep", ops::attn_qk_prep, p);
  }

  void compress() {
    const auto compressor = [](int dim) -> ops::CompressorParams {
      return {.kv = some<float>(),
              .gate = some<float>(),
              .ape = some<float>(),
              .norm = some<float>(),
              .state = memory,
              .entries = pool(dim == 512 ? ops::CacheFormat::kKv584 : ops::CacheFormat::kIndexFp4),
              .entry_slots = some<std::int32_t>(),
              .dim = dim};
    };
    run("attn_compress", ops::attn_compress,
        ops::AttnCompressParams{.main = compressor(512),
                                .index = compressor(128),
                                .first_token = some<std::int32_t>(),
                                .start = some<std::int32_t>(),
                                .rope = {.freq = some<float>()},
                                .tokens = tokens,
                                .sequences = tokens,
                                .states = tokens,
                                .ratio = 4,
                                .max_rollback = 16,
                                .rope_dim = 64});
  }

  void select() {
    run("attn_index_select", ops::attn_index_select,
        ops::AttnIndexSelectParams{.output = {.idx = some<std::int32_t>(),
                                              .table = table(tokens),
                                              .slots = kSlots,
                                              .k = c.index_top_k,
                                              .as_slots = true},
                                   .queries = {.q = memory,
                                               .scales = memory,
                                               .weights = some<float>(),
                                               .keys = pool(ops::CacheFormat::kIndexFp4),
                                               .table = table(tokens),
                                               .visible = {.positions = memory, .ratio = 4},
                                               .tokens = tokens,
                                               .max_entries = max_entries,
                                               .heads = c.index_heads,
                                               .dim = 128},
                                   .workspace = memory,
                                   .workspace_bytes = kEnough});
  }

  void attend() {
    run("attn_attend", ops::attn_attend,
        ops::AttnAttendParams{.o = memory,
                              .q = memory,
                              .sink = some<float>(),
                              .window = {.pool = pool(ops::CacheFormat::kKv584),
                                         .kind = ops::SelectionKind::kWindow,
                                         .table = table(tokens, 128),
                                         .max_count = 128,
                                         .window = 128},
                              .entries = {.pool = pool(ops::CacheFormat::kKv584),
                                          .kind = ops::SelectionKind::kList,
                                          .idx = memory,
                                          .max_count = c.index_top_k},
                              .positions = memory,
                              .rope = {.freq = some<float>()},
                              .tokens = tokens,
                              .heads = c.heads,
                              .head_dim = 512,
                              .rope_dim = 64,
                              .scale = 1.0f / std::sqrt(512.0f),
                              .rotate_back = true,
                              .workspace = memory,
                              .workspace_bytes = kEnough});
  }

  void out(ops::WeightFormat wo_a) {
    const ops::LinearWeight fp8{.data = memory, .scales = memory, .format = ops::WeightFormat::kFp8};
    ops::LinearWeight a = fp8;
    a.format = wo_a;
    run("attn_out_proj", ops::attn_out_proj,
        ops::AttnOutProjParams{.y = memory,
                               .o = memory,
                               .wo_a = a,
                               .wo_b = fp8,
                               .tokens = tokens,
                               .hidden = c.hidden,
                               .heads = c.heads,
                               .head_dim = 512,
                               .rope_dim = 64,
                               .groups = c.o_groups,
                               .rank = c.o_lora_rank,
                               .workspace = memory,
                               .workspace_bytes = kEnough});
  }
};

}  // namespace

TEST_CASE("the attention half of a CSA layer takes at most 12 launches at the models' widths",
          "[attention_half]") {
  const ModelConfig& c = *GENERATE(&kFlash, &kPro);
  const std::int64_t tokens = GENERATE(1, 2, 4, 5, 8, 9, 16, 17, 28, 29, 32, 33, 64);
  const std::int64_t max_entries = GENERATE(1024, 1 << 18);
  const auto wo_a = GENERATE(ops::WeightFormat::kBf16, ops::WeightFormat::kFp8);
  simt::Options options = simt::options();
  options.execute = false;
  const simt::ScopedOptions scope(options);
  Half half{c, tokens, max_entries, {}};
  half.mhc();
  half.products("input", c.hidden, nullptr,
                {{c.q_lora_rank, true},
                 {512, true},
                 {1024, false},  // the compressors
                 {1024, false},
                 {256, false},
                 {256, false},
                 {c.index_heads, false}});
  half.products("queries", c.q_lora_rank, some<float>(),
                {{std::int64_t{c.heads} * 512, true}, {c.index_heads * 128, true}});
  half.prepare();
  half.compress();
  half.select();
  half.attend();
  half.out(wo_a);
  std::uint64_t total = 0;
  std::string each;
  for (const auto& [name, n] : half.launches) total += n, each += name + " " + std::to_string(n) + " ";
  CAPTURE(c.heads, tokens, max_entries, each);
  REQUIRE(total <= 12);
  REQUIRE(total >= 9);  // they are counted: of nine ops, attn_out_proj two
}
