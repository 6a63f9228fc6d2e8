// The ops through dsv4.h, under the names and types of C++: the other side of the cases of tests/gpu.
#pragma once

#include "tests/gpu/op_table.hpp"

#include <cstdint>
#include <map>
#include <string>

namespace dsv4::test {

const gpu::OpTable& c_op_table();

/// How often each function of the table was called.
const std::map<std::string, std::int64_t>& c_op_calls();

}  // namespace dsv4::test
