#include "tests/gpu/device.hpp"

#include "tests/gpu/cuda_check.hpp"

namespace dsv4::gpu::device {
namespace {

class Graph {
 public:
  explicit Graph(const std::function<Status(Stream)>& launch) {
    check(cudaStreamCreate(&stream_), "cudaStreamCreate");
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "begin capture");
    captured_ = launch(stream_);
    check(cudaStreamEndCapture(stream_, &graph_), "end capture");
    check(cudaGraphInstantiate(&executable_, graph_, 0), "cudaGraphInstantiate");
  }
  ~Graph() {
    if (executable_) static_cast<void>(cudaGraphExecDestroy(executable_));
    if (graph_) static_cast<void>(cudaGraphDestroy(graph_));
    if (stream_) static_cast<void>(cudaStreamDestroy(stream_));
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  Status run(const std::string& title) {
    if (!captured_.ok()) return captured_;
    check(cudaGraphLaunch(executable_, stream_), "cudaGraphLaunch");
    check(cudaStreamSynchronize(stream_), title.c_str());
    return {};
  }

 private:
  Status captured_;
  cudaStream_t stream_ = nullptr;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace

std::shared_ptr<void> allocate(std::size_t bytes) {
  const auto memory = std::make_shared<DeviceMemory>(bytes);
  return {memory, memory->get()};
}
void copy_to(void* device, const void* host, std::size_t bytes) {
  check(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
}
void copy_from(void* host, const void* device, std::size_t bytes, const char* what) {
  check(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), what);
}
void synchronise(const char* what) { check(cudaDeviceSynchronize(), what); }

Replayed capture(const std::function<Status(Stream)>& launch) {
  const auto graph = std::make_shared<Graph>(launch);
  return [graph](const std::string& title) { return graph->run(title); };
}

}  // namespace dsv4::gpu::device
