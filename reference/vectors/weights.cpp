// Weight matrices of the vectors: see weights.hpp.
#include "reference/vectors/weights.hpp"

#include <cmath>

namespace dsv4::reference::vectors {

void put_matrix(Problem& problem, const std::string& name, Stored stored, std::int64_t matrices,
                std::int64_t rows, std::int64_t cols, Random& random) {
  const double gain = 1 / std::sqrt(static_cast<double>(cols));
  const auto scale_near = [&](double unit) {  // neighbours differ, so that a scale taken elsewhere shows
    return 127 + std::ilogb(gain / unit) + static_cast<double>(random.integer(-1, 1));
  };
  switch (stored) {
    case Stored::kBf16:
      problem.in[name] = normal(random, DType::kBf16, {matrices * rows, cols}, gain);
      break;
    case Stored::kFp8:
      problem.in[name] = Array::make(DType::kF8E4m3, {matrices * rows, cols}, [&](std::int64_t) {
        return static_cast<double>(e4m3_code(64 * random.normal()));
      });
      problem.in[name + "_scale"] =
          Array::make(DType::kF8E8m0, {matrices * ((rows + 127) / 128), (cols + 127) / 128},
                      [&](std::int64_t) { return scale_near(64); });
      break;
    case Stored::kFp4:
      problem.in[name] = Array::make(DType::kU8, {matrices * rows, cols / 2}, [&](std::int64_t) {
        return static_cast<double>(random.integer(0, 255));
      });
      problem.in[name + "_scale"] = Array::make(DType::kF8E8m0, {matrices * rows, (cols + 31) / 32},
                                                [&](std::int64_t) { return scale_near(3); });
      break;
  }
}

std::vector<double> matrix_row(const Problem& problem, const std::string& name, Stored stored,
                               std::int64_t matrix, std::int64_t rows, std::int64_t cols, std::int64_t row,
                               Mistake mistake) {
  const Array& data = problem.array(name);
  const std::int64_t r = matrix * rows + row;
  std::vector<double> out;
  out.reserve(static_cast<std::size_t>(cols));
  if (stored == Stored::kBf16) {
    for (std::int64_t k = 0; k < cols; ++k) out.push_back(data.at(r * cols + k));
    return out;
  }
  const Array& scale = problem.array(name + "_scale");
  const auto scale_at = [&](std::int64_t i) {
    return e8m0_value(static_cast<std::uint8_t>(scale.integer(i)));
  };
  if (stored == Stored::kFp8) {
    const std::int64_t scale_row = matrix * ((rows + 127) / 128) + row / 128, scale_cols = (cols + 127) / 128;
    for (std::int64_t k = 0; k < cols; ++k)
      out.push_back(e4m3_value(static_cast<std::uint8_t>(data.integer(r * cols + k))) *
                    scale_at(scale_row * scale_cols + k / 128));
    return out;
  }
  for (std::int64_t k = 0; k < cols; ++k) {
    const std::int64_t nibble = mistake == Mistake::kNibblesSwapped ? 1 - k % 2 : k % 2;
    const auto byte = static_cast<unsigned>(data.integer(r * (cols / 2) + k / 2));
    out.push_back(e2m1_value(byte >> (nibble * 4) & 15u) * scale_at(r * ((cols + 31) / 32) + k / 32));
  }
  return out;
}

}  // namespace dsv4::reference::vectors
