// Links the installed dsv4::reference: a checkpoint that is not there is refused in one line that names it.
#include "reference/error.hpp"
#include "reference/weights.hpp"

#include <cstdio>
#include <string>

int main() {
  try {
    dsv4::reference::load_model("no/such/checkpoint.safetensors");
  } catch (const dsv4::reference::InputError& e) {
    std::puts(e.what());
    const std::string message = e.what();
    return message.find("no/such/checkpoint.safetensors") != std::string::npos ? 0 : 1;
  }
  std::puts("a missing checkpoint was not refused");
  return 1;
}
