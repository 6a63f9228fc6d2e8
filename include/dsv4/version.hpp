// Version of the library. The CMake project carries the same numbers; a test compares them.
#pragma once

#define DSV4_VERSION_MAJOR 0
#define DSV4_VERSION_MINOR 1
#define DSV4_VERSION_PATCH 0
