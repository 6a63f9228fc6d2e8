// C functions that concern the library as a whole, and sizes.
#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/version.hpp>

#include "kernels/c_api/error.hpp"
#include "kernels/c_api/mirrors.hpp"

#define DSV4_TEXT_OF(x) DSV4_TEXT_OF_(x)
#define DSV4_TEXT_OF_(x) #x

namespace dsv4::kernels::c_api {
namespace {

struct RowBytes {
  std::size_t data, scales;
  bool dense;
};
constexpr RowBytes row_bytes(std::int32_t cache_format) {
  using namespace dsv4::attention;
  switch (cache_format) {
    case DSV4_CACHE_KV584:
      return {KvPagePool::kDataBytes, KvPagePool::kScaleBytes, false};
    case DSV4_CACHE_INDEX_FP4:
      return {IndexFp4Pool::kDataBytes, IndexFp4Pool::kScaleBytes, true};
    case DSV4_CACHE_INDEX_FP8:
      return {IndexFp8Pool::kDataBytes, IndexFp8Pool::kScaleBytes, true};
    default:
      return {0, 0, false};
  }
}

}  // namespace
}  // namespace dsv4::kernels::c_api

extern "C" {

const char* dsv4_version(void) {
  return DSV4_TEXT_OF(DSV4_VERSION_MAJOR) "." DSV4_TEXT_OF(DSV4_VERSION_MINOR) "." DSV4_TEXT_OF(
      DSV4_VERSION_PATCH);
}

int32_t dsv4_abi_version(void) { return DSV4_ABI_VERSION; }

const char* dsv4_backend(void) {
#if defined(DSV4_SIMT_EMULATION)
  return "simt";
#else
  return "cuda";
#endif
}

const char* dsv4_last_error(void) { return dsv4::kernels::c_api::last_error(); }

size_t dsv4_attn_compress_state_bytes(int32_t ratio, int32_t dim, int32_t max_rollback) {
  return dsv4::ops::attn_compress_state_bytes(ratio, dim, max_rollback);
}

size_t dsv4_cache_page_bytes(int32_t cache_format, int32_t page_rows, bool dense) {
  const auto row = dsv4::kernels::c_api::row_bytes(cache_format);
  if (page_rows < 1 || (dense && !row.dense)) return 0;
  const std::size_t bytes = static_cast<std::size_t>(page_rows) * (row.data + (dense ? 0 : row.scales));
  return (bytes + 15) / 16 * 16;
}

size_t dsv4_cache_scales_bytes(int32_t cache_format, int32_t page_rows) {
  const auto row = dsv4::kernels::c_api::row_bytes(cache_format);
  return page_rows >= 1 && row.dense ? static_cast<std::size_t>(page_rows) * row.scales : 0;
}

// 0 for sizes that no op takes.
int64_t dsv4_moe_max_tiles(int64_t tokens, int32_t k, int32_t experts, int32_t tile_rows) {
  if (tokens < 0 || k < 1 || experts < 1 || tile_rows < 1 || tokens > INT64_MAX / k) return 0;
  return dsv4::ops::moe_max_tiles(tokens, k, experts, tile_rows);
}
int32_t dsv4_moe_tile_rows(int64_t tokens, int32_t k, int32_t experts) {
  if (tokens < 0 || k < 1 || experts < 1 || tokens > INT64_MAX / k) return 0;
  return dsv4::ops::moe_tile_rows(tokens, k, experts);
}
int64_t dsv4_moe_fused_max_tokens(void) { return dsv4::ops::kMoeFusedMaxTokens; }
int64_t dsv4_moe_fused_good_tokens(void) { return dsv4::ops::kMoeFusedGoodTokens; }

int dsv4_set_nan_guard(dsv4_nan_guard_record* record) {
  using dsv4::ops::NanGuardRecord;
  return dsv4::kernels::c_api::code_of("set_nan_guard",
                                       dsv4::ops::set_nan_guard(reinterpret_cast<NanGuardRecord*>(record)));
}

}  // extern "C"
