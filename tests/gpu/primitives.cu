// The primitives as device code: compiled, not run, where nvcc is found. Every stage is instantiated with a
// Coop that is not serial, as a kernel would, so that a host-only call inside one shows.
#include <dsv4/arch/config.cuh>
#include <dsv4/attention/page_table.hpp>
#include <dsv4/dsv4.hpp>

namespace {

using namespace dsv4;

// A group of one device thread whose primitives take the general path.
struct OneThread : SerialCoop {
  static constexpr bool kSerial = false;
};

struct Arguments {
  bf16* rows;
  float* f32;
  const float* weights;
  std::int32_t* idx;
  const math::SinCos* angles;
  attention::KvPagePool entries;
  attention::IndexFp4Pool keys;
  attention::IndexFp8Pool fp8_keys;
  attention::PageTable pages;
  attention::CompressorLayout state;
  linear::WeightView matrix;
};

DSV4_KERNEL(32) every_stage(Arguments a) {
  const OneThread coop;
  constexpr int kHidden = 128, kHeads = 2;
  constexpr float kEps = 1e-6f;
  embed::replicate<kStreams>(coop, a.rows, a.weights, kHidden);

  mhc::project(coop, a.f32, {a.weights, kHidden}, 1, a.weights, kMixes, kHidden, kEps);
  mhc::split<kStreams>(a.f32, a.f32 + 4, a.f32 + 8, a.weights, a.weights, a.weights, 20, kEps);
  mhc::pre<kStreams>(coop, a.rows, a.rows, a.weights, kHidden);
  mhc::post<kStreams>(coop, a.rows, a.rows, a.rows, a.weights, a.weights, kHidden);
  mhc::head<kStreams>(a.f32, a.weights, a.weights, a.weights, kEps);

  linear::tile(coop, a.rows, 8, {a.weights, kHidden}, 3, a.matrix, 0, 8, a.f32);
  attention::finish_query(coop, a.rows, a.angles, kHeadDim, kRopeDim, kEps);
  attention::finish_key_value(coop, a.rows, a.weights, a.angles, kHeadDim, kRopeDim, kEps);
  a.entries.write(coop, 3, a.rows);
  const auto row = [&](std::int64_t position) { return a.weights + position * 2048; };
  attention::pool(coop, a.f32, row, 1, a.weights, {kCsaRatio, kHeadDim});
  attention::finish_entry(coop, a.rows, a.f32, a.weights, a.angles, kHeadDim, kRopeDim, kEps);
  attention::finish_index_key<kIndexDim>(coop, a.rows, a.f32, a.weights, a.angles, kRopeDim, kEps, a.f32);
  a.keys.write(coop, 3, a.rows);
  a.fp8_keys.write(coop, a.pages.slot(1, 70), a.rows);
  a.fp8_keys.read(3, a.f32 + a.state.folded(150));
  attention::finish_index_query<kIndexDim>(coop, a.rows, a.angles, kRopeDim, a.f32);
  attention::index_scores(coop, a.f32, a.weights, a.weights, a.keys, 0, 40, kHeads, kIndexDim, a.f32 + 64);
  attention::select_window(coop, a.idx, 5, kWindow,
                           [](std::int64_t p) { return static_cast<std::int32_t>(p); });
  attention::select_all(coop, a.idx, 300, kHcaRatio, 2);
  attention::select_top_k(coop, a.idx, a.f32, 300, kCsaRatio, 16, a.idx + 16);
  attention::attend(
      coop, a.rows, a.f32, a.weights, kHeads, a.weights,
      attention::Selection<attention::RowPool<bf16>>{{a.rows, kHeadDim, 128, kHeadDim}, a.idx, 128},
      attention::Selection<attention::KvPagePool>{a.entries, a.idx, 16}, kHeadDim, 0.04f, a.f32);
  attention::rotate_back(coop, a.rows, a.angles, kHeadDim, kRopeDim);
  attention::grouped_linear(coop, a.rows, 8, {a.weights, kHidden}, 1, a.matrix, 16, 0, 8, a.f32);

  a.f32[0] = moe::score(a.weights[0]);
  moe::gate_scored(coop, a.idx, a.f32, a.weights, a.weights, 256, 6, 1.5f, a.f32 + 8, a.idx + 8);
  moe::gate_hashed(coop, a.idx, a.f32, a.weights, a.idx, 3, 6, 1.5f);
  moe::dispatch(coop, a.idx, a.idx + 8, a.idx + 32, a.idx + 64, a.idx + 96, 6, 0, 8);
  moe::swiglu(coop, a.rows, a.rows, a.rows, kHidden, 10.0f, 1.0f);
  moe::combine(coop, a.rows, a.rows, a.idx, 6, a.rows, kHidden);

  mtp::input<kStreams>(coop, a.rows, a.rows, a.rows, kHidden);
  lm_head::logits(coop, a.f32, 512, {a.weights, kHidden}, 1, a.matrix, 0, 8, a.f32 + 512);
  a.idx[0] = lm_head::greedy(a.f32, 512);
}

}  // namespace

// Referenced, so that nothing is dropped before it is compiled.
const void* dsv4_device_test() { return reinterpret_cast<const void*>(&every_stage); }
