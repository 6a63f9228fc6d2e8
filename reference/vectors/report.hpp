// What dsv4_check prints.
#pragma once

#include "reference/vectors/check.hpp"

#include <string>

namespace dsv4::reference::vectors {

/// A table of every output, what the failing cases catch, the likely mistakes, and PASS or FAIL.
std::string report_text(const CheckResult& result);

/// The same as JSON.
std::string report_json(const CheckResult& result);

}  // namespace dsv4::reference::vectors
