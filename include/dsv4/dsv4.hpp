// All primitives, in the order of the model. Each header can be included alone; engines usually want a few.
#pragma once

#include <dsv4/model_config.hpp>
#include <dsv4/version.hpp>

#include <dsv4/core/config.hpp>
#include <dsv4/core/coop.hpp>
#include <dsv4/core/hadamard.hpp>
#include <dsv4/core/math.hpp>
#include <dsv4/core/norm.hpp>
#include <dsv4/core/quant.hpp>
#include <dsv4/core/reduce.hpp>
#include <dsv4/core/rope.hpp>
#include <dsv4/core/softmax.hpp>
#include <dsv4/core/status.hpp>
#include <dsv4/core/topk.hpp>
#include <dsv4/core/types.hpp>

#include <dsv4/linear/bf16.hpp>
#include <dsv4/linear/dot.hpp>
#include <dsv4/linear/fp4.hpp>
#include <dsv4/linear/fp8.hpp>
#include <dsv4/linear/linear.hpp>
#include <dsv4/linear/weight.hpp>

#include <dsv4/embed/embed.hpp>

#include <dsv4/mhc/head.hpp>
#include <dsv4/mhc/post.hpp>
#include <dsv4/mhc/pre.hpp>
#include <dsv4/mhc/project.hpp>
#include <dsv4/mhc/sinkhorn.hpp>
#include <dsv4/mhc/split.hpp>

#include <dsv4/attention/attend.hpp>
#include <dsv4/attention/compressor.hpp>
#include <dsv4/attention/compressor_state.hpp>
#include <dsv4/attention/indexer.hpp>
#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/attention/kv_proj.hpp>
#include <dsv4/attention/out_proj.hpp>
#include <dsv4/attention/q_proj.hpp>
#include <dsv4/attention/select.hpp>
#include <dsv4/attention/visibility.hpp>

#include <dsv4/moe/combine.hpp>
#include <dsv4/moe/dispatch.hpp>
#include <dsv4/moe/expert.hpp>
#include <dsv4/moe/gate.hpp>

#include <dsv4/mtp/input.hpp>

#include <dsv4/lm_head/lm_head.hpp>
