// Verdicts as text and as JSON.
#pragma once

#include "reference/validate/verdict.hpp"

#include <filesystem>
#include <string>

namespace dsv4::reference::validation {

/// The table, what was not compared and why, and a last line that says PASS or FAIL.
std::string table(const Verdict& verdict);

/// All of it as JSON.
std::string report_json(const Verdict& verdict, const std::string& recording, const std::string& weights);

}  // namespace dsv4::reference::validation
