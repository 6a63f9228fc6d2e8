// Unusable input to the reference programs: one line that names the file, the tensor or argument, and the
// reason.
#pragma once

#include <stdexcept>
#include <string>

namespace dsv4::reference {

/// what() is the one line, without a trailing newline.
class InputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace dsv4::reference
