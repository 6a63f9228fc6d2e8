// ldmatrix and stmatrix, all shapes: every 2-byte element of shared memory is its own number.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/matrix.cuh>

#include "tests/arch/conformance/case.hpp"

namespace dsv4::conformance::inline DSV4_FLAVOUR {
namespace {

constexpr int kRows = 32, kColumns = 24;  // elements; rows of 48 bytes

struct alignas(16) Tile {
  std::uint16_t element[kRows][kColumns];
};

// The row that a lane addresses, shuffled; its 8 elements start at column 8.
DSV4_DEVICE int row_of(int lane) { return (lane * 5 + 3) % kRows; }

template <int N, bool kTranspose>
DSV4_KERNEL(32)
load_kernel(std::uint32_t* out) {
  DSV4_SHARED(Tile, tile);
  const int lane = arch::lane_id();
  for (int j = 0; j < kColumns; ++j) tile.element[lane][j] = static_cast<std::uint16_t>(lane * kColumns + j);
  arch::sync_warp();
  std::uint32_t r[N];
  if constexpr (kTranspose)
    arch::ldmatrix_trans(r, &tile.element[row_of(lane)][8]);
  else
    arch::ldmatrix(r, &tile.element[row_of(lane)][8]);
  for (int m = 0; m < N; ++m) out[lane * N + m] = r[m];
}

template <int N, bool kTranspose>
DSV4_KERNEL(32)
store_kernel(std::uint32_t* out) {
  DSV4_SHARED(Tile, tile);
  const int lane = arch::lane_id();
  for (int j = 0; j < kColumns; ++j) tile.element[lane][j] = 0xffff;
  arch::sync_warp();
  std::uint32_t r[N];
  for (int m = 0; m < N; ++m) {
    const std::uint32_t number = static_cast<std::uint32_t>(lane * N + m) * 2;
    r[m] = number | (number + 1) << 16;
  }
  if constexpr (kTranspose)
    arch::stmatrix_trans(&tile.element[row_of(lane)][8], r);
  else
    arch::stmatrix(&tile.element[row_of(lane)][8], r);
  arch::sync_warp();
  for (int j = 0; j < kColumns; j += 2)
    out[(lane * kColumns + j) / 2] = tile.element[lane][j] | std::uint32_t{tile.element[lane][j + 1]} << 16;
}

template <int N, bool kTranspose>
Status run_load(Buffers buffers, Stream stream) noexcept {
  return arch::launch("ldmatrix", load_kernel<N, kTranspose>, {.grid = {}, .block = {32, 1, 1}}, stream,
                      buffers.out);
}

template <int N, bool kTranspose>
Status run_store(Buffers buffers, Stream stream) noexcept {
  return arch::launch("stmatrix", store_kernel<N, kTranspose>, {.grid = {}, .block = {32, 1, 1}}, stream,
                      buffers.out);
}

}  // namespace

std::vector<Case> matrix_cases() {
  constexpr int kTileWords = kRows * kColumns / 2;
  return {{"matrix/ldmatrix_x1", Compare::kBits, 80, false, 32, 0, run_load<1, false>},
          {"matrix/ldmatrix_x2", Compare::kBits, 80, false, 64, 0, run_load<2, false>},
          {"matrix/ldmatrix_x4", Compare::kBits, 80, false, 128, 0, run_load<4, false>},
          {"matrix/ldmatrix_trans_x1", Compare::kBits, 80, false, 32, 0, run_load<1, true>},
          {"matrix/ldmatrix_trans_x2", Compare::kBits, 80, false, 64, 0, run_load<2, true>},
          {"matrix/ldmatrix_trans_x4", Compare::kBits, 80, false, 128, 0, run_load<4, true>},
          {"matrix/stmatrix_x1", Compare::kBits, 90, false, kTileWords, 0, run_store<1, false>},
          {"matrix/stmatrix_x2", Compare::kBits, 90, false, kTileWords, 0, run_store<2, false>},
          {"matrix/stmatrix_x4", Compare::kBits, 90, false, kTileWords, 0, run_store<4, false>},
          {"matrix/stmatrix_trans_x1", Compare::kBits, 90, false, kTileWords, 0, run_store<1, true>},
          {"matrix/stmatrix_trans_x2", Compare::kBits, 90, false, kTileWords, 0, run_store<2, true>},
          {"matrix/stmatrix_trans_x4", Compare::kBits, 90, false, kTileWords, 0, run_store<4, true>}};
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
