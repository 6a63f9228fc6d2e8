"""Weights under the checkpoint's names: random ones, or those of another recording."""

import json
import math

import safetensors
import torch

from .config import InputError


def random_weights(c, seed):
    """Matrices and norms bf16, the rest fp32, of a spread that keeps the results of every stage near 1."""
    random = torch.Generator().manual_seed(seed)
    weights = {}

    def normal(name, shape, sigma, mean=0.0, dtype=torch.float32):
        weights[name] = (mean + sigma * torch.randn(shape, generator=random)).to(dtype)

    def linear(name, rows, cols, gain=1.0):
        normal(name + ".weight", (rows, cols), gain / math.sqrt(cols), dtype=torch.bfloat16)

    def norm(name, n):
        normal(name + ".weight", (n,), 0.15, mean=1.0, dtype=torch.bfloat16)

    def compressor(name, ratio, dim):
        width = dim * (2 if ratio == 4 else 1)
        linear(name + ".wkv", width, c["dim"])
        linear(name + ".wgate", width, c["dim"], gain=1.5)
        normal(name + ".ape", (ratio, width), 0.6)
        norm(name + ".norm", dim)

    def hyper(name, rows, scales):
        streams = c["hc_mult"] * c["dim"]
        normal(name + "_fn", (rows, streams), 1.2 / math.sqrt(streams))
        normal(name + "_base", (rows,), 0.7)
        normal(name + "_scale", (scales,), 0.2, mean=1.1)

    def expert(name):
        linear(name + ".w1", c["moe_inter_dim"], c["dim"])
        linear(name + ".w3", c["moe_inter_dim"], c["dim"])
        linear(name + ".w2", c["dim"], c["moe_inter_dim"])

    def attention(name, ratio):
        q_lora, head, out = c["q_lora_rank"], c["head_dim"], c["o_groups"] * c["o_lora_rank"]
        linear(name + ".wq_a", q_lora, c["dim"])
        norm(name + ".q_norm", q_lora)
        linear(name + ".wq_b", c["n_heads"] * head, q_lora)
        linear(name + ".wkv", head, c["dim"])
        norm(name + ".kv_norm", head)
        linear(name + ".wo_a", out, c["n_heads"] * head // c["o_groups"])
        linear(name + ".wo_b", c["dim"], out)
        normal(name + ".attn_sink", (c["n_heads"],), 0.6)
        if ratio:
            compressor(name + ".compressor", ratio, head)
        if ratio == 4:
            linear(name + ".indexer.wq_b", c["index_n_heads"] * c["index_head_dim"], q_lora)
            linear(name + ".indexer.weights_proj", c["index_n_heads"], c["dim"])
            compressor(name + ".indexer.compressor", ratio, c["index_head_dim"])

    def experts(name, hashed):
        count, active = c["n_routed_experts"], c["n_activated_experts"]
        linear(name + ".gate", count, c["dim"], gain=2.0)
        if hashed:
            table = torch.rand((c["vocab_size"], count), generator=random).argsort(dim=1)[:, :active].to(torch.int32)
            table[::8, -1] = table[::8, 0]  # every eighth row names an expert twice
            weights[name + ".gate.tid2eid"] = table.contiguous()
        else:
            normal(name + ".gate.bias", (count,), 0.2)
        for e in range(count):
            expert(f"{name}.experts.{e}")
        expert(name + ".shared_experts")

    normal("embed.weight", (c["vocab_size"], c["dim"]), 1.0, dtype=torch.bfloat16)
    for index, ratio in enumerate(c["compress_ratios"]):
        layer = f"layers.{index}"
        hyper(layer + ".hc_attn", 24, 3)
        norm(layer + ".attn_norm", c["dim"])
        attention(layer + ".attn", ratio)
        hyper(layer + ".hc_ffn", 24, 3)
        norm(layer + ".ffn_norm", c["dim"])
        experts(layer + ".ffn", index < c["n_hash_layers"])
    hyper("hc_head", 4, 1)
    norm("norm", c["dim"])
    linear("head", c["vocab_size"], c["dim"], gain=2.0)
    return weights


def opened(path):
    try:
        return safetensors.safe_open(path, "pt")
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from None


def stored_weights(path):
    """Configuration and weights of a recording in the exact mode, less its MTP block."""
    with opened(path) as file:
        try:
            config = json.loads((file.metadata() or {})["config"])
            mode, limit, layers, ratios = (config[k] for k in ("mode", "swiglu_limit", "n_layers", "compress_ratios"))
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{path}: no metadata key 'config' with a recording's configuration") from None
        if mode != "exact":
            raise InputError(f"{path}: config: mode is '{mode}', must be 'exact': transformers runs in fp32")
        config["shared_swiglu_limit"] = config.get("shared_swiglu_limit", limit)
        config["compress_ratios"] = ratios[:layers]
        config["n_mtp_layers"] = 0
        return config, {name: file.get_tensor(name) for name in file.keys() if not name.startswith("mtp.")}
