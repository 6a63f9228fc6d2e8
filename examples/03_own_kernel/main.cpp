// Runs the kernel of gated_attention.cu, and compares it with op attn_attend followed by the gate and the
// quantisation, one after the other: the same bits. Built with DSV4_SIMT_RACE=ON (preset race) the machine
// also follows every access of the kernel to shared and global memory.
#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/core/math.hpp>
#include <dsv4/core/quant.hpp>
#include <dsv4/ops/attn_attend.hpp>

#include "examples/03_own_kernel/gated_attention.hpp"
#include "examples/common/device.hpp"
#include "examples/common/random.hpp"

#include <cstdint>
#include <cstdio>

int main() {
  using namespace dsv4;
  using examples::Buffer, examples::must;
  constexpr int kTokens = 2, kHeads = 20, kDim = 512, kRows = 150, kPageRows = 32, kSlots = 8 * kPageRows;
  const Stream stream = examples::make_stream();

  // A cache as the primitive writes it, and lists with a hole.
  Buffer<std::uint8_t> pages(kSlots * 584);
  const attention::KvPagePool pool{pages.data(), kPageRows * 584, kPageRows, kSlots};
  const Buffer<float> rows = examples::random<float>(kSlots * kDim, 1);
  for (int s = 0; s < kSlots; ++s) pool.write(SerialCoop{}, s, rows.data() + s * kDim);
  Buffer<std::int32_t> slots;
  for (int i = 0; i < kTokens * kRows; ++i) slots.push_back(i % 17 == 3 ? -1 : 7 * i % kSlots);
  const Buffer<bf16> q = examples::random<bf16>(kTokens * kHeads * kDim, 2, 3.0f);
  const Buffer<float> gate = examples::random<float>(kTokens * kHeads, 3, 4.0f);

  Buffer<e4m3> codes(kTokens * kHeads * kDim);
  Buffer<e8m0> scales(kTokens * kHeads * kDim / 128);
  must(mine::gated_attention({.codes = codes.data(),
                              .scales = scales.data(),
                              .q = q.data(),
                              .gate = gate.data(),
                              .pages = pages.data(),
                              .slots = slots.data(),
                              .tokens = kTokens,
                              .heads = kHeads,
                              .rows = kRows,
                              .page_rows = kPageRows},
                             stream));

  Buffer<bf16> o(kTokens * kHeads * kDim);
  ops::AttnAttendParams attend{.o = o.data(), .q = q.data()};
  attend.entries.pool = {
      .data = pages.data(), .format = ops::CacheFormat::kKv584, .slots = kSlots, .page_rows = kPageRows};
  attend.entries.kind = ops::SelectionKind::kList;
  attend.entries.idx = slots.data();
  attend.entries.max_count = kRows;
  attend.tokens = kTokens;
  attend.heads = kHeads;
  attend.head_dim = kDim;
  attend.scale = 0.04419417382f;
  Buffer<std::byte> workspace(ops::attn_attend_workspace_bytes(attend));
  attend.workspace = workspace.data();
  attend.workspace_bytes = workspace.size();
  must(ops::attn_attend(attend, stream));
  examples::synchronise(stream);

  int differing = 0;
  for (int block = 0; block < kTokens * kHeads * kDim / 128; ++block) {
    const float g = math::sigmoid(gate[static_cast<std::size_t>(block / (kDim / 128))]);
    bf16 gated[128];
    e4m3 code[128];
    for (int i = 0; i < 128; ++i)
      gated[i] = from_float<bf16>(g * to_float(o[static_cast<std::size_t>(block * 128 + i)]));
    const e8m0 scale = quant::fp8_block(SerialCoop{}, code, gated, 128);
    differing += scale.bits != scales[static_cast<std::size_t>(block)].bits;
    for (int i = 0; i < 128; ++i)
      differing += code[i].bits != codes[static_cast<std::size_t>(block * 128 + i)].bits;
  }
  std::printf("%d tokens, %d heads, %d listed rows: one launch against attn_attend + gate + FP8: ", kTokens,
              kHeads, kRows);
  std::printf("%d of %zu bytes differ\n", differing, codes.size() + scales.size());
  return differing == 0 ? 0 : 1;
}
