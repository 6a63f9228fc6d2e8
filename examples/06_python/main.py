"""Ops on numpy arrays through ctypes, from a layer's input to a product and to rows of its window cache, each compared
with numpy in double:
    rms_norm        x -> normed, and its FP8 codes in the same pass
    linear_fp8      codes -> kv
    attn_kv_proj    kv: norm, RoPE, FP8, written to its slot of the cache
    act_quant       the same codes from normed
Then what a mistake looks like: one that Python finds, and one that the library refuses."""

import argparse
import os
import sys

try:
    import numpy as np
except ImportError:
    print("skipped: there is no numpy")
    sys.exit(77)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../python"))
import dsv4  # noqa: E402

TOKENS, HIDDEN, HEAD_DIM, ROPE_DIM, EPS = 12, 512, 512, 64, 1e-6
PAGE_ROWS, PAGES = 16, 2


def check(what, got, want, bound):
    """`bound` is on the error of each element; prints the largest."""
    error = np.abs(got - want)
    print(f"{what:34} largest error {error.max():.2e}")
    if not np.all(error <= bound):
        sys.exit(f"{what}: beyond its bound by {np.max(error - bound):.2e}")


def norm(x, weight):
    return weight * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + EPS)


def rotate(x, positions, freq):
    """The interleaved pairs of the last ROPE_DIM channels, each by position * freq."""
    angle = (positions[:, None].astype(np.float32) * freq).astype(float)
    a, b, out = x[:, -ROPE_DIM::2], x[:, 1 - ROPE_DIM::2], x.copy()
    out[:, -ROPE_DIM::2] = a * np.cos(angle) - b * np.sin(angle)
    out[:, 1 - ROPE_DIM::2] = a * np.sin(angle) + b * np.cos(angle)
    return out


def cached_row(pages, slot):
    """584 bytes of a page: 448 e4m3 and 64 bf16, and behind all rows 7 scales each (docs/formats.md)."""
    page, row = pages[slot // PAGE_ROWS], slot % PAGE_ROWS
    data, scales = page[576 * row:576 * row + 576], page[576 * PAGE_ROWS + 8 * row:][:7]
    quantised = dsv4.decode_e4m3(data[:448]) * np.repeat(dsv4.decode_e8m0(scales), 64)
    return np.concatenate([quantised, dsv4.from_bf16(data[448:].view(np.uint16))])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", default=os.environ.get("DSV4_LIBRARY", "simt"), help="path of libdsv4_simt.so")
    lib = dsv4.load(parser.parse_args().library)
    print(f"dsv4 {lib.version()}, {lib.backend()}: {len(lib.ops)} ops")
    if lib.backend() != "simt":
        sys.exit("numpy arrays are of the host: this needs libdsv4_simt (07_torch_dlpack runs on a GPU)")

    rng = np.random.default_rng(1)
    x = dsv4.to_bf16(rng.standard_normal((TOKENS, HIDDEN)))  # bf16 is its bits, in uint16
    weight = rng.uniform(0.5, 1.5, HIDDEN).astype(np.float32)
    half_step = 2.0**-8  # of bf16, relative: what rounding costs

    # Outputs are arrays of yours. Nested structs are dicts; what is left out has its default.
    normed = np.empty_like(x)
    codes, scales = np.empty((TOKENS, HIDDEN), np.uint8), np.empty((TOKENS, HIDDEN // 128), np.uint8)
    lib.rms_norm(out=normed, quantised={"codes": codes, "scales": scales}, x=x, weight=weight, rows=TOKENS, n=HIDDEN,
                 eps=EPS)
    want = norm(dsv4.from_bf16(x).astype(float), weight)
    check("rms_norm", dsv4.from_bf16(normed), want, 1.01 * half_step * np.abs(want))

    # FP8 weights as checkpoints store them: e4m3, and a UE8M0 scale for each 128 x 128 tile.
    w = rng.integers(0, 96, (HEAD_DIM, HIDDEN), np.uint8) | rng.choice([0, 128], (HEAD_DIM, HIDDEN)).astype(np.uint8)
    w_scales = rng.integers(118, 122, (HEAD_DIM // 128, HIDDEN // 128), np.uint8)
    kv = np.empty((TOKENS, HEAD_DIM), np.uint16)
    fields = dict(y=kv, input={"codes": codes, "scales": scales}, tokens=TOKENS, n=HEAD_DIM, k=HIDDEN,
                  weight={"data": w, "scales": w_scales, "format": "fp8"})
    fields["workspace"] = dsv4.zeros(lib.linear_fp8.workspace_bytes(**fields))  # none here: codes are ready
    lib.linear_fp8(**fields)
    xq = dsv4.decode_e4m3(codes) * np.repeat(dsv4.decode_e8m0(scales), 128, axis=1).astype(float)
    wq = dsv4.decode_e4m3(w) * dsv4.decode_e8m0(w_scales).repeat(128, axis=0).repeat(128, axis=1).astype(float)
    want = xq @ wq.T
    sums = HIDDEN * 2.0**-24 * np.abs(xq) @ np.abs(wq).T  # what fp32 costs
    check("linear_fp8", dsv4.from_bf16(kv), want, half_step * np.abs(want) + sums)

    # bind() keeps the arrays and can be called again, for each step of a decode loop.
    positions = np.arange(1000, 1000 + TOKENS, dtype=np.int32)
    freq = (10000.0 ** (-np.arange(ROPE_DIM // 2) * 2 / ROPE_DIM)).astype(np.float32)
    kv_norm, pages = weight[:HEAD_DIM], dsv4.zeros((PAGES, PAGE_ROWS * 584))
    slots = (5 * np.arange(TOKENS) % (PAGES * PAGE_ROWS)).astype(np.int32)  # wherever the engine's allocator says
    window = {"data": pages, "format": "kv584", "slots": PAGES * PAGE_ROWS, "page_rows": PAGE_ROWS}
    write = lib.attn_kv_proj.bind(window=window, slots=slots, kv=kv, norm=kv_norm, positions=positions,
                                  rope={"freq": freq}, tokens=TOKENS, head_dim=HEAD_DIM, rope_dim=ROPE_DIM, eps=EPS)
    write()
    want = rotate(norm(dsv4.from_bf16(kv).astype(float), kv_norm), positions, freq)
    rows = np.stack([cached_row(pages, slot) for slot in slots])
    # e4m3 keeps a relative 2^-4, and 2^-17 of the largest value of a scale for the smallest.
    check("attn_kv_proj, FP8 channels", rows[:, :448], want[:, :448],
          (2.0**-4 + 2 * half_step) * np.abs(want[:, :448]) + 2.0**-17 * np.abs(want).max())
    pair = np.hypot(want[:, 448::2], want[:, 449::2]).repeat(2, axis=1)  # both values of a pair are in each
    check("attn_kv_proj, turned channels", rows[:, 448:], want[:, 448:], 2.02 * half_step * pair)

    again = np.empty_like(codes)
    lib.act_quant(codes=again, scales=np.empty_like(scales), x=normed, rows=TOKENS, n=HIDDEN, block=128)
    print(f"{'act_quant':34} {'the codes of rms_norm' if (again == codes).all() else 'OTHER CODES'}")

    refused = 0
    for wrong in ({"x": x.astype(np.float32)}, {"weights": weight}, {"x": x, "out": normed, "rows": 1, "n": 0}):
        try:
            lib.rms_norm(**wrong)
        except (TypeError, dsv4.Error) as error:
            print(f"{type(error).__name__}: {error}")
            refused += 1
    return 0 if (again == codes).all() and refused == 3 else 1


if __name__ == "__main__":
    sys.exit(main())
