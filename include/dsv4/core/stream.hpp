// A CUDA stream without the CUDA headers.
#pragma once

struct CUstream_st;

namespace dsv4 {

/// cudaStream_t. The SIMT machine ignores it: its launches are synchronous.
using Stream = ::CUstream_st*;

}  // namespace dsv4
