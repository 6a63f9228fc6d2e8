// Links the installed dsv4::reference.
#include <dsv4/model_config.hpp>
#include "reference/error.hpp"

#include <cstdio>

int main() {
  try {
    throw dsv4::reference::InputError("weights: no such file");
  } catch (const dsv4::reference::InputError& e) {
    std::puts(e.what());
    return 0;
  }
}
