"""transformers' model from checkpoint weights, and the calls that are recorded from it."""

import math
import os
import tempfile

import torch
import transformers
from safetensors.torch import save_file

from .config import InputError
from .taps import ATTENTION, Taps
from .weights import opened

LAST_FULL = 10  # decodes recorded in full at the end
# Tokens of a random prefill whose `attn.q` and its like are recorded, beside the last one.
LISTED = (0, 3, 4, 7, 63, 126, 127, 128)


def random_calls(c, tokens, decode, seed):
    """(start, token ids, listed rows or None) of a prefill and single-token calls."""
    random = torch.Generator().manual_seed(seed + 1)
    ids = torch.randint(c["vocab_size"], (tokens + decode,), generator=random).tolist()
    rows = [row for row in LISTED if row < tokens - 1] + [tokens - 1]
    return [(0, ids[:tokens], rows)] + [(t, ids[t : t + 1], None) for t in range(tokens, len(ids))]


def stored_calls(path, c):
    """The same of a recording."""
    calls = []
    with opened(path) as file:
        names = set(file.keys())
        while (at := f"call.{len(calls):03d}.") + "tokens" in names:
            if at + "start_pos" not in names:
                raise InputError(f"{path}: tensor '{at}start_pos' is missing")
            rows = file.get_tensor(at + "rows").tolist() if at + "rows" in names else None
            calls.append((int(file.get_tensor(at + "start_pos")[0]), file.get_tensor(at + "tokens").tolist(), rows))
    if not calls:
        raise InputError(f"{path}: no tensor 'call.000.tokens': not a recording")
    length = 0
    for number, (start, tokens, rows) in enumerate(calls):
        at = f"{path}: tensor 'call.{number:03d}."
        if start != length:
            raise InputError(f"{at}start_pos': is {start}, must be {length}: transformers goes through one sequence")
        for name, ids, limit in (("tokens", tokens, c["vocab_size"]), ("rows", rows or [], len(tokens))):
            if any(not 0 <= i < limit for i in ids):
                raise InputError(f"{at}{name}': an element is not in [0, {limit})")
        length += len(tokens)
    return calls


def load(c, weights, as_is):
    """The model of configuration `c`, loaded from a folder in the published layout."""
    config = transformers.DeepseekV4Config(
        vocab_size=c["vocab_size"],
        hidden_size=c["dim"],
        moe_intermediate_size=c["moe_inter_dim"],
        num_hidden_layers=c["n_layers"],
        num_hash_layers=c["n_hash_layers"],
        num_nextn_predict_layers=0,
        num_attention_heads=c["n_heads"],
        n_routed_experts=c["n_routed_experts"],
        num_experts_per_tok=c["n_activated_experts"],
        routed_scaling_factor=c["route_scale"],
        swiglu_limit=c["swiglu_limit"] or math.inf,
        q_lora_rank=c["q_lora_rank"],
        o_groups=c["o_groups"],
        o_lora_rank=c["o_lora_rank"],
        compress_ratios=c["compress_ratios"],
        index_n_heads=c["index_n_heads"],
        index_topk=c["index_topk"],
        index_head_dim=c["index_head_dim"],
        rope_theta=c["rope_theta"],
        compress_rope_theta=c["compress_rope_theta"],
        rope_scaling={
            "type": "yarn",
            "factor": c["rope_factor"],
            "original_max_position_embeddings": c["original_seq_len"],
            "beta_fast": c["beta_fast"],
            "beta_slow": c["beta_slow"],
        },
        max_position_embeddings=c["max_seq_len"],
        head_dim=c["head_dim"],
        qk_rope_head_dim=c["rope_head_dim"],
        sliding_window=c["window_size"],
        hc_mult=c["hc_mult"],
        hc_sinkhorn_iters=c["hc_sinkhorn_iters"],
        hc_eps=c["hc_eps"],
        rms_norm_eps=c["norm_eps"],
        tie_word_embeddings=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        model, report = transformers.DeepseekV4ForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="eager",
            experts_implementation="eager",
            output_loading_info=True,
        )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            raise InputError(f"the weights do not fit transformers' model: {kind}: {sorted(report[kind])[0]}")
    if not as_is:
        for layer in model.model.layers:
            layer.mlp.shared_experts.limit = c["shared_swiglu_limit"] or math.inf
    return model.eval()


def record(model, c, calls, as_is):
    """Every tensor of the recording by its name."""
    length = sum(len(tokens) for _, tokens, _ in calls)
    if length > c["max_seq_len"]:
        raise InputError(f"the calls have {length} tokens, max_seq_len is {c['max_seq_len']}")
    taps = Taps(model, c["compress_ratios"], as_is)
    model.set_attn_implementation(ATTENTION)
    cache = transformers.DynamicCache(config=model.config)
    with torch.inference_mode():
        for number, (start, tokens, rows) in enumerate(calls):
            full = number < 2 or number >= len(calls) - LAST_FULL
            taps.begin(number, start, tokens, rows, full=full, last=number == len(calls) - 1)
            model(input_ids=torch.tensor([tokens]), cache=cache, use_cache=True, logits_to_keep=1)
    return taps.tensors
