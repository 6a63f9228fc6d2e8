// Times of kernels on a GPU by its own events: cold (nothing of the operands in L2) and as part of a graph.
#pragma once

#include "tests/gpu/cuda_check.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

namespace dsv4::gpu {

/// A stream with two events and a buffer larger than L2.
class Timer {
 public:
  Timer() {
    int device = 0, l2 = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device), "L2 size");
    flush_bytes_ = std::max<std::size_t>(static_cast<std::size_t>(l2) * 3, 64u << 20);
    flush_ = std::make_unique<DeviceMemory>(flush_bytes_);
    check(cudaStreamCreate(&stream_), "cudaStreamCreate");
    check(cudaEventCreate(&begin_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~Timer() {
    static_cast<void>(cudaEventDestroy(end_));
    static_cast<void>(cudaEventDestroy(begin_));
    static_cast<void>(cudaStreamDestroy(stream_));
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  cudaStream_t stream() const { return stream_; }

  /// Microseconds of one launch(stream), its operands not in L2: the median of `repetitions`.
  template <class Launch>
  double cold_us(Launch&& launch, int repetitions = 21) {
    launch(stream_);  // the first one loads the kernel
    std::vector<double> times;
    for (int i = 0; i < repetitions; ++i) {
      check(cudaMemsetAsync(flush_->get(), i, flush_bytes_, stream_), "flush L2");
      check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
      launch(stream_);
      times.push_back(elapsed_us());
    }
    return median(times);
  }

  /// Microseconds of one launch(stream) within a graph of many one after the other, as a decoding step runs
  /// them: no launch from the host between them, operands in L2 where they fit. The median of five graph
  /// launches.
  template <class Launch>
  double graph_us(Launch&& launch, int launches = 50) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "begin capture");
    for (int i = 0; i < launches; ++i) launch(stream_);
    check(cudaStreamEndCapture(stream_, &graph), "end capture");
    check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    check(cudaGraphLaunch(executable, stream_), "cudaGraphLaunch");
    std::vector<double> times;
    for (int i = 0; i < 5; ++i) {
      check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
      check(cudaGraphLaunch(executable, stream_), "cudaGraphLaunch");
      times.push_back(elapsed_us() / launches);
    }
    check(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy");
    check(cudaGraphDestroy(graph), "cudaGraphDestroy");
    return median(times);
  }

 private:
  double elapsed_us() {
    check(cudaEventRecord(end_, stream_), "cudaEventRecord");
    check(cudaEventSynchronize(end_), "a kernel failed");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin_, end_), "cudaEventElapsedTime");
    return 1e3 * static_cast<double>(ms);
  }
  static double median(std::vector<double>& v) {
    std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
    return v[v.size() / 2];
  }

  std::size_t flush_bytes_ = 0;
  std::unique_ptr<DeviceMemory> flush_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace dsv4::gpu
