"""Taps of the recordings' format, taken from transformers' DeepSeek-V4 by hooks; the library stays as it is.

A tap is a module's input or output wherever one shows it. The others:

hc_*.mixes, hc_*.pre    kept inside: computed again from the module's normed streams by the same calls. That these are
                        the ones it used is checked, bit for bit, on the collapsed stream.
attn.q, kv*, idx, o     seen by an attention function of our own, registered under ATTENTION, which hands on to
                        transformers' eager one. `idx` lists what the additive mask lets through.
attn.indexer.q, keys    transformers leaves the Hadamard transform out: orthogonal and on both sides, it changes no
                        score. The taps hold what is behind it, so it is applied to the scorer's inputs (not `as_is`).

Every tap of the format is recorded; there is no MTP block to have any.
"""

import functools
import math

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as v4

from .config import InputError

ATTENTION = "dsv4_recorder"
WINDOW = 128


def hadamard(rows):
    """The normalised Walsh-Hadamard transform (Sylvester order) of the last dimension."""
    n = rows.shape[-1]
    x = rows.double()
    width = 1
    while width < n:
        x = x.reshape(*rows.shape[:-1], n // (2 * width), 2, width)
        x = torch.cat([x[..., :1, :] + x[..., 1:, :], x[..., :1, :] - x[..., 1:, :]], dim=-2)
        width *= 2
    return (x.reshape(rows.shape) / math.sqrt(n)).to(rows.dtype)


def padded(lists):
    """Rows of unequal length, filled up with -1."""
    width = max(len(row) for row in lists)
    return torch.tensor([row + [-1] * (width - len(row)) for row in lists], dtype=torch.int32)


class Taps:
    """Collects the taps of one call after the other from the model it is attached to."""

    def __init__(self, model, ratios, as_is):
        self.ratios = ratios
        self.as_is = as_is
        self.tensors = {}
        self.normed_streams = None
        AttentionInterface.register(ATTENTION, self.attention)
        AttentionMaskInterface.register(ATTENTION, eager_mask)
        for index, layer in enumerate(model.model.layers):
            self.attach(f"layers.{index}", layer, first=index == 0)
        self.on_output(model.model.norm, lambda args, out: self.put("final_norm", out, every_call=True))
        self.on_output(model.lm_head, lambda args, out: self.put("logits", out[:, -1], every_call=True))

    def begin(self, number, start, tokens, rows, full, last):
        """What follows belongs to call `number`; `rows`: the tokens of `attn.q` and its like, None for all."""
        self.prefix = f"call.{number:03d}."
        self.start, self.count, self.full, self.rows, self.last = start, len(tokens), full, rows, last
        self.tensors[self.prefix + "tokens"] = torch.tensor(tokens, dtype=torch.int64)
        self.tensors[self.prefix + "start_pos"] = torch.tensor([start], dtype=torch.int64)
        if rows is not None:
            self.tensors[self.prefix + "rows"] = torch.tensor(rows, dtype=torch.int32)

    def put(self, name, value, every_call=False, listed=False):
        """Keeps a tap of a batch of one sequence: in calls that are recorded in full, or in every call."""
        if not (self.full or every_call):
            return
        value = value[0]
        if listed and self.rows is not None:
            value = value[self.rows]
        dtype = torch.int32 if not value.is_floating_point() else torch.float32
        self.tensors[self.prefix + name] = value.detach().to(dtype).contiguous().clone()

    @staticmethod
    def on_output(module, take):
        module.register_forward_hook(lambda _, args, out: take(args, out))

    def attach(self, name, layer, first):
        attention, moe = layer.self_attn, layer.mlp

        def tap(suffix, part=lambda out: out, **how):
            return lambda args, out: self.put(f"{name}.{suffix}", part(out), **how)

        def flat(suffix, part):  # of a module without a dimension for sequences
            return tap(suffix, lambda out: part(out)[None])

        if first:
            layer.register_forward_pre_hook(lambda _, args: self.put(f"{name}.in", args[0]))
        for site, module in (("hc_attn", layer.attn_hc), ("hc_ffn", layer.ffn_hc)):
            self.on_output(module.input_norm, lambda args, out: setattr(self, "normed_streams", out))
            self.on_output(module, functools.partial(self.hyper, f"{name}.{site}", module))
        layer.ffn_hc.register_forward_pre_hook(lambda _, args: self.put(f"{name}.hc_attn.out", args[0]))
        self.on_output(layer.input_layernorm, tap("attn.in"))
        self.on_output(attention.q_a_norm, tap("attn.qr"))
        self.on_output(attention, tap("attn.out", lambda out: out[0]))
        self.on_output(layer.post_attention_layernorm, tap("ffn.in"))
        self.on_output(moe.gate, flat("ffn.gate.weights", lambda out: out[1]))
        self.on_output(moe.gate, flat("ffn.gate.indices", lambda out: out[2]))
        self.on_output(moe.shared_experts, tap("ffn.shared"))
        self.on_output(moe, tap("ffn.out"))
        self.on_output(layer, tap("hc_ffn.out", every_call=True))
        if isinstance(attention.compressor, v4.DeepseekV4CSACompressor):
            indexer = attention.compressor.indexer
            self.on_output(indexer.scorer, functools.partial(self.indexer, f"{name}.attn.indexer"))
            self.on_output(indexer.scorer.weights_proj, tap("attn.indexer.weights"))
            # Of every call: which of several equal scores win is torch's choice, and decides all that follows.
            self.on_output(indexer, tap("attn.indexer.topk", every_call=True))

    def hyper(self, site, module, args, out):
        streams, (post, comb, collapsed) = args[0], out
        mixes = F.linear(self.normed_streams, module.fn.float())
        four = module.hc_mult
        pre = torch.sigmoid(mixes[..., :four] * module.scale[0] + module.base[:four]) + module.hc_eps
        if not torch.equal((pre.unsqueeze(-1) * streams).sum(dim=2), collapsed):
            raise InputError(f"{site}: this version of transformers computes `pre` in another way")
        for tap, value in (("mixes", mixes), ("pre", pre), ("post", post), ("comb", comb), ("in", collapsed)):
            self.put(f"{site}.{tap}", value)

    def indexer(self, site, args, scores):
        q, keys = args[0], args[1]
        if not self.as_is:
            q, keys = hadamard(q), hadamard(keys)
        self.put(f"{site}.q", q, listed=True)
        if keys.shape[1] > 0:
            self.put(f"{site}.keys", keys)
            self.put(f"{site}.scores", scores)

    def attention(self, module, query, key, value, mask, **options):
        """The registered attention function: q [1, H, T, 512], keys = values [1, 1, window rows + entries, 512]."""
        out, weights = v4.eager_attention_forward(module, query, key, value, mask, **options)
        if self.full:
            name = f"layers.{module.layer_idx}.attn"
            self.put(f"{name}.q", query.transpose(1, 2), listed=True)
            self.put(f"{name}.o", out, listed=True)
            ratio = self.ratios[module.layer_idx]
            entries, before = ((self.start + self.count) // ratio, self.start // ratio) if ratio else (0, 0)
            self.keys(name, key[:, 0], entries, entries - before)
            self.selection(name, mask[0, 0], key.shape[2] - entries, key.shape[2])
        return out, weights

    def keys(self, name, rows, entries, new):
        """Window rows, of which the call's tokens are the last, then all `entries`, of which `new` are this call's."""
        window, end = rows.shape[1] - entries, self.start + self.count
        if self.start == 0:
            self.put(f"{name}.kv", rows)
            return
        self.put(f"{name}.kv_new", rows[:, window - self.count : window])
        if new:
            self.put(f"{name}.entry_new", rows[:, rows.shape[1] - new :])
        if self.last:
            slots = torch.zeros(1, WINDOW, rows.shape[2])
            for position in range(max(0, end - WINDOW), end):
                slots[0, position % WINDOW] = rows[0, window - (end - position)]
            self.put(f"{name}.cache", torch.cat([slots, rows[:, window:]], dim=1))

    def selection(self, name, mask, window, columns):
        """A prefill numbers rows of `kv`, a later call ring slots, and entries from 128 on."""
        if mask.shape[1] != columns:
            raise InputError(f"{name}: the attention mask has {mask.shape[1]} columns for {columns} keys")
        oldest = self.start + self.count - window

        def number(column):
            if self.start == 0:
                return column
            return (oldest + column) % WINDOW if column < window else WINDOW + column - window

        chosen = [[number(c) for c in row.nonzero().flatten().tolist()] for row in mask == 0]
        self.put(f"{name}.idx", padded(chosen)[None])
