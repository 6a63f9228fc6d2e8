/* The archive has the symbols of the shared library. */
#include "use_dsv4.c"
