// Links the installed dsv4::kernels_simt: calls an op with host pointers, and is refused wrong sizes.
#include <dsv4/ops/embed.hpp>

#include <cstdint>
#include <cstdio>

int main() {
  constexpr int kVocab = 3, kHidden = 8, kStreams = 4;
  const std::int32_t ids[2] = {2, 0};
  float table[kVocab * kHidden], out[2 * kStreams * kHidden] = {};
  for (int i = 0; i < kVocab * kHidden; ++i) table[i] = static_cast<float>(i);
  dsv4::ops::EmbedParams p{.out = out,
                           .table = table,
                           .ids = ids,
                           .tokens = 2,
                           .hidden = kHidden,
                           .vocab = kVocab,
                           .streams = kStreams,
                           .dtype = dsv4::ops::DType::kF32,
                           .table_dtype = dsv4::ops::DType::kF32};
  const dsv4::Status done = dsv4::ops::embed(p, nullptr);
  if (!done.ok()) {
    std::puts(done.what);
    return 1;
  }
  for (int t = 0; t < 2; ++t)
    for (int i = 0; i < kStreams * kHidden; ++i)
      if (out[t * kStreams * kHidden + i] != table[ids[t] * kHidden + i % kHidden]) return 2;
  p.tokens = -1;
  const dsv4::Status refused = dsv4::ops::embed(p, nullptr);
  std::puts(refused.what);
  return refused.code == dsv4::Code::kInvalidArgument && refused.value == -1 ? 0 : 3;
}
