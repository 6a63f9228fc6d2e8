// Op attn_compress against the equation, in double: values that nothing of dsv4 has touched.
#include "tests/ops/attn_compress_case.hpp"
#include "tests/support/oracle_attention.hpp"

using namespace dsv4;
using namespace dsv4::test;
using ops::CacheFormat;

namespace {

constexpr double kEps = 1e-6;

/// The pool in double, with room for fp32 arithmetic: a weight is off by the roundings of its logit, of the
/// greatest one and of their distance (logits are below 2^4), and by 3 units for each of the few times that
/// the greatest so far was exceeded; the sums by as many roundings as they have terms.
std::vector<Interval> pooled(const ops::CompressorParams& p, int ratio, std::int64_t entry) {
  const int width = ratio == 4 ? 2 * p.dim : p.dim;
  std::vector<Interval> out;
  for (int d = 0; d < p.dim; ++d) {
    double sum = 0, acc = 0, size = 0;
    const auto add = [&](std::int64_t position, int column) {
      const double b = p.gate[position * p.gate_stride + column], a = p.kv[position * p.kv_stride + column];
      const double w = std::exp(b + double{p.ape[position % ratio * width + column]});
      sum += w, acc += w * a, size += w * std::abs(a);
    };
    if (ratio == 4 && entry > 0)
      for (int j = 0; j < 4; ++j) add(entry * 4 - 4 + j, d);
    for (int j = 0; j < ratio; ++j) add(entry * ratio + j, ratio == 4 ? p.dim + d : d);
    out.push_back(around(acc / sum, 2 * size / sum * (40 + ratio) * kUnit));
  }
  return out;
}

/// RMSNorm of a row known within intervals.
std::vector<Interval> normed(const std::vector<Interval>& x, const float* weight) {
  double least = 0, most = 0;
  for (const Interval& v : x) {
    const double inner = v.lo <= 0 && v.hi >= 0 ? 0 : std::min(std::abs(v.lo), std::abs(v.hi));
    least += inner * inner, most += v.magnitude() * v.magnitude();
  }
  const auto n = static_cast<double>(x.size());
  std::vector<Interval> out;
  for (std::size_t i = 0; i < x.size(); ++i) {
    Interval v{std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()};
    for (const double squares : {least, most})
      for (const double end : {x[i].lo, x[i].hi}) {
        const double y = end / std::sqrt(squares / n + kEps) * double{weight[i]};
        const double bound =
            std::abs(y) * (oracle::sum_bound(static_cast<std::int64_t>(x.size())) + 4 * kUnit);
        v = {std::min(v.lo, y - bound), std::max(v.hi, y + bound)};
      }
    out.push_back(v);
  }
  return out;
}

}  // namespace

TEST_CASE("attn_compress computes its equation", "[ops][attn_compress]") {
  const int ratio = GENERATE(4, 128);
  const int dim = ratio == 4 ? GENERATE(512, 128) : 512;
  const std::int64_t entry = GENERATE(0, 1, 2);
  CompressCase<bf16> c({.ratio = ratio,
                        .main = CacheFormat::kRows,
                        .index = CacheFormat::kRows,
                        .has_main = dim == 512,
                        .has_index = dim == 128});
  c.append({{0, 0, (entry + 1) * ratio}});
  const ops::CompressorParams p = (dim == 512 ? c.main : c.index)->params(c.slots);
  std::vector<Interval> want = rounded<bf16>(pooled(p, ratio, entry));
  want = rounded<bf16>(normed(want, p.norm));
  oracle::rotate(want, static_cast<std::size_t>(dim - 64), oracle::turns(entry * ratio, 32, 160000), +1);
  want = rounded<bf16>(want);
  // Nearly every interval is a single value, so that this says something.
  const auto open = std::count_if(want.begin(), want.end(), [](const Interval& v) { return v.lo != v.hi; });
  CAPTURE(ratio, dim, entry, open);
  REQUIRE(open * 8 <= dim);
  if (dim == 128) want = rounded<bf16>(oracle::hadamard(want));
  const auto* row = static_cast<const bf16*>(p.entries.data) + c.slot(0, entry) * p.entries.stride;
  REQUIRE(outside(std::vector<bf16>(row, row + dim), want) == "");
}
