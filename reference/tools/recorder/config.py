"""The configuration of a recording: inference names, as in the other recordings. Standard library alone."""

import json
import math

# Sizes and scalars that --config changes. Layers: HCA, its experts hash-routed; CSA; window alone. With four index
# heads one entry in sixteen scores exactly 0 (the ReLU clips every head), so that top-k meets ties.
DEFAULTS = {
    "vocab_size": 320,
    "dim": 48,
    "moe_inter_dim": 24,
    "n_layers": 3,
    "n_hash_layers": 1,
    "n_heads": 4,
    "n_routed_experts": 9,
    "n_activated_experts": 4,
    "route_scale": 2.5,
    "swiglu_limit": 1.5,
    "q_lora_rank": 48,
    "o_groups": 2,
    "o_lora_rank": 24,
    "compress_ratios": [128, 4, 0],
    "index_n_heads": 4,
    "index_topk": 20,
    "original_seq_len": 65536,
    "compress_rope_theta": 160000.0,
    "rope_theta": 10000.0,
    "rope_factor": 16,
    "max_seq_len": 1024,
    "shared_swiglu_limit": 1.5,
}
# The architecture's own, and what transformers does not have: an MTP block.
FIXED = {
    "n_mtp_layers": 0,
    "head_dim": 512,
    "rope_head_dim": 64,
    "window_size": 128,
    "index_head_dim": 128,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6,
    "norm_eps": 1e-6,
    "beta_fast": 32,
    "beta_slow": 1,
    "score_func": "sqrtsoftplus",
    "mode": "exact",
}
MAY_BE_ZERO = ("n_hash_layers", "swiglu_limit", "shared_swiglu_limit")


class InputError(Exception):
    """What the user got wrong, in one line."""


def changed_config(changes):
    """DEFAULTS and FIXED with changes "KEY=VALUE", the values JSON; refuses what transformers could not compute."""
    config = {**DEFAULTS, **FIXED}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"--config: '{change}' is not KEY=VALUE")
        if key in FIXED:
            raise InputError(f"--config: {key} is fixed, at {json.dumps(FIXED[key])}")
        if key not in DEFAULTS:
            raise InputError(f"--config: there is no key '{key}'; --help lists them")
        config[key] = parsed(key, text)

    ratios = config["compress_ratios"]
    if len(ratios) != config["n_layers"]:
        raise InputError(f"--config: compress_ratios has {len(ratios)} entries, n_layers is {config['n_layers']}")
    for ratio in ratios:
        if type(ratio) is not int or ratio not in (0, 4, 128):
            raise InputError(f"--config: compress_ratios has {json.dumps(ratio)}, only 0, 4 and 128 are supported")
    for part, whole in (("n_activated_experts", "n_routed_experts"), ("n_hash_layers", "n_layers")):
        if config[part] > config[whole]:
            raise InputError(f"--config: {part} is {config[part]}, {whole} is {config[whole]}")
    if config["n_heads"] % config["o_groups"] != 0:
        raise InputError(f"--config: o_groups is {config['o_groups']}, must divide n_heads, {config['n_heads']}")
    return config


def parsed(key, text):
    try:
        value = json.loads(text)
    except ValueError:
        raise InputError(f"--config: {key}: '{text}' is not JSON") from None
    kind = type(DEFAULTS[key])
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is list:
        fits = isinstance(value, list)
    else:
        fits = number and (kind is float or isinstance(value, int)) and math.isfinite(value)
    if not fits:
        needed = {list: "a list", float: "a number", int: "an integer"}[kind]
        raise InputError(f"--config: {key} must be {needed}, got {text}")
    if number and (value < 0 or (value == 0 and key not in MAY_BE_ZERO)):
        raise InputError(f"--config: {key} is {text}, must be {'at least' if key in MAY_BE_ZERO else 'above'} 0")
    return value
