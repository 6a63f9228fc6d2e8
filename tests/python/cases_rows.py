"""Cases of the ops of single rows, of mHC, and of the matrix products."""

import numpy as np

import oracle
from support import BF16, F32, Case, Random, case, close, dsv4, equal, lib, values, workspace

EPS = 1e-6


@case
def embed():
    table, _ = Random(1).bf16(7, 64)
    ids = np.array([5, 0, 6], np.int64)
    out = np.zeros((3, 4, 64), np.uint16)
    fields = dict(out=out, table=table, ids=ids, tokens=3, hidden=64, vocab=7, streams=4, wide_ids=True)
    return Case(fields, lambda: equal("out", out, np.repeat(table[ids][:, None], 4, axis=1)))


@case
def rms_norm():
    r = Random(2)
    (x, xv), weight = r.bf16(3, 256), r.f32(256, mean=1, scale=0.3)
    out, codes, scales = np.zeros_like(x), np.zeros((3, 256), "u1"), np.zeros((3, 2), "u1")

    def check():
        want = oracle.rms_norm(xv, weight.astype(float), EPS)
        close("out", values(out), want, (BF16 + 32 * F32) * np.abs(want))
        equal("codes", codes, oracle.fp8(values(out))[0])
        equal("scales", scales, oracle.fp8(values(out))[1])

    fields = dict(out=out, quantised=dict(codes=codes, scales=scales), x=x, weight=weight, rows=3, n=256, eps=EPS)
    return Case(fields, check, ("out", "quantised.codes", "weight"))


@case
def act_quant():
    x, xv = Random(3).bf16(2, 192)
    codes, scales = np.zeros((2, 192), "u1"), np.zeros((2, 3), "u1")

    def check():
        equal("codes", codes, oracle.fp8(xv, 64)[0])
        equal("scales", scales, oracle.fp8(xv, 64)[1])

    return Case(dict(codes=codes, scales=scales, x=x, rows=2, n=192, block=64), check)


@case
def act_quant__fp4():
    x, xv = Random(4).bf16(3, 64)
    codes, scales = np.zeros((3, 32), "u1"), np.zeros((3, 2), np.float32)

    def check():
        equal("codes", codes, oracle.fp4(xv)[0])
        equal("scales", scales, (2.0 ** (oracle.fp4(xv)[1].astype(int) - 127)).astype(np.float32))

    return Case(dict(codes=codes, scales=scales, x=x, rows=3, n=64, block=32, format="e2m1", scale_type="f32"), check)


@case
def rope():
    x, xv = Random(5).bf16(3, 2, 128)
    positions, freq, out = np.array([0, 7, 4000]), oracle.frequencies(), np.zeros_like(x)

    def check():
        want = oracle.rope(xv, positions, freq, sign=-1)
        equal("channels that are not turned", out[..., :64], np.zeros((3, 2, 64), np.uint16))
        close("out", values(out[..., 64:]), want[..., 64:], BF16 * np.abs(want[..., 64:]) + 8 * F32 * np.abs(xv).max())

    fields = dict(out=out, x=x, positions=positions, table=dict(freq=freq), tokens=3, heads=2, head_dim=128,
                  rope_dim=64, direction="inverse", position_type="int64")
    return Case(fields, check)


@case
def hadamard():
    x, xv = Random(6).bf16(3, 128)
    out = np.zeros_like(x)
    want = xv @ oracle.hadamard(128)
    bound = BF16 * np.abs(want) + 16 * F32 * np.abs(xv).sum(axis=1, keepdims=True) / np.sqrt(128)
    return Case(dict(out=out, x=x, rows=3, n=128), lambda: close("out", values(out), want, bound))


# ---- mHC ----------------------------------------------------------------------------------------------------

T, D = 3, 64
SIZES = dict(tokens=T, hidden=D, stream_count=4)


@case
def mhc_post():
    r = Random(7)
    (y, yv), (streams, sv), post, comb = r.bf16(T, D), r.bf16(T, 4, D), r.f32(T, 4), r.f32(T, 4, 4)
    out = np.zeros_like(streams)

    def check():
        terms = np.concatenate([(post[:, :, None] * yv[:, None])[:, None],
                                comb[:, :, :, None].astype(float) * sv[:, :, None]], axis=1)
        want, size = terms.sum(axis=1), np.abs(terms).sum(axis=1)
        close("out", values(out), want, BF16 * np.abs(want) + 8 * F32 * size)

    return Case(dict(out=out, y=y, streams=streams, post=post, comb=comb, **SIZES), check)


def collapse_check(f, mixes, pre):
    """Of mhc_pre and mhc_head: z, x and its norm, from z as it came out on."""
    sv = values(f["streams"])
    size = np.linalg.norm(sv.reshape(T, -1), axis=1)[:, None] * np.linalg.norm(f["fn"], axis=1)
    rms = np.sqrt(np.mean(sv.reshape(T, -1) ** 2, axis=1, keepdims=True))
    close("mixes", f["mixes"], mixes, 2e-6 * size / rms)
    close("pre", f["pre"], pre, 1e-6)
    x = (f["pre"][:, :, None].astype(float) * sv).sum(axis=1)
    close("x", values(f["x"]), x, BF16 * np.abs(x) + 8 * F32 * np.abs(sv).max())
    normed = oracle.rms_norm(values(f["x"]), f["norm_weight"].astype(float), EPS)
    close("normed", values(f["normed"]), normed, (BF16 + 32 * F32) * np.abs(normed))


def mhc_pre_fields(seed):
    r = Random(seed)
    return dict(x=np.zeros((T, D), np.uint16), normed=np.zeros((T, D), np.uint16), post=np.zeros((T, 4), "f4"),
                comb=np.zeros((T, 4, 4), "f4"), pre=np.zeros((T, 4), "f4"), mixes=np.zeros((T, 24), "f4"),
                quantised=dict(codes=np.zeros((T, D), "u1"), scales=np.zeros((T, 1), "u1")),
                streams=r.bf16(T, 4, D)[0], fn=r.f32(24, 4 * D, scale=0.1), scale=r.f32(3), base=r.f32(24),
                norm_weight=r.f32(D, mean=1, scale=0.3), sinkhorn_iterations=20, mix_eps=EPS, hc_eps=EPS,
                norm_eps=EPS, **SIZES)


@case
def mhc_pre():
    f = workspace("mhc_pre", mhc_pre_fields(8))

    def check():
        fn, scale, base = (f[name].astype(float) for name in ("fn", "scale", "base"))
        z = f["mixes"] * np.repeat(scale, [4, 4, 16]) + base
        collapse_check(f, oracle.mixes(values(f["streams"]), fn, EPS), oracle.sigmoid(z[:, :4]) + EPS)
        close("post", f["post"], 2 * oracle.sigmoid(z[:, 4:8]), 2e-6)
        close("comb", f["comb"], oracle.sinkhorn(z[:, 8:].reshape(T, 4, 4), 20, EPS), 1e-5)
        codes, scales = oracle.fp8(values(f["normed"]))
        equal("codes", f["quantised"]["codes"], codes)
        equal("scales", f["quantised"]["scales"], scales)

    return Case(f, check, ("x", "normed", "quantised.codes", "pre", "mixes"))


@case
def mhc_post_pre():
    """Bit for bit mhc_post, then mhc_pre."""
    post, pre = mhc_post().fields, mhc_pre_fields(9)
    pre["streams"] = post["out"]
    fields = workspace("mhc_post_pre", dict(post=post, pre=workspace("mhc_pre", pre)))
    del fields["workspace"]  # it is pre's

    def check():
        streams = np.zeros_like(post["out"])
        lib.mhc_post(**{**post, "out": streams})
        equal("post.out", post["out"], streams)
        alone = workspace("mhc_pre", {**mhc_pre_fields(9), "streams": streams})
        lib.mhc_pre(**alone)
        for name in ("x", "normed", "post", "comb", "pre", "mixes"):
            equal(f"pre.{name}", pre[name], alone[name])
        for name in ("codes", "scales"):
            equal(f"pre.quantised.{name}", pre["quantised"][name], alone["quantised"][name])

    return Case(fields, check, ("pre.x", "pre.normed", "pre.quantised.codes", "pre.pre", "pre.mixes"))


@case
def mhc_head():
    f = mhc_pre_fields(10)
    for name in ("post", "comb", "quantised", "sinkhorn_iterations"):
        del f[name]
    f.update(fn=f["fn"][:4], scale=f["scale"][:1], base=f["base"][:4], mixes=np.zeros((T, 4), "f4"))
    f = workspace("mhc_head", f)

    def check():
        z = f["mixes"] * f["scale"].astype(float) + f["base"]
        collapse_check(f, oracle.mixes(values(f["streams"]), f["fn"].astype(float), EPS), oracle.sigmoid(z) + EPS)

    return Case(f, check, ("x", "pre", "mixes"))


# ---- matrix products ----------------------------------------------------------------------------------------


def product_bound(x, w, rounding=BF16):
    """Of x w^T in fp32, promoted every 128 channels, then rounded."""
    return rounding * np.abs(x @ w.T) + (x.shape[1] + 8) * F32 * (np.abs(x) @ np.abs(w).T)


@case
def linear_bf16():
    r = Random(11)
    (x, xv), (w, wv), y = r.bf16(3, 192), r.bf16(40, 192), np.zeros((3, 40), np.uint16)
    fields = dict(y=y, input=dict(x=x), weight=dict(data=w, format="bf16"), tokens=3, n=40, k=192)
    return Case(fields, lambda: close("y", values(y), xv @ wv.T, product_bound(xv, wv)))


def fp8_weight(r, n, k):
    (data, dv), (scales, sv) = r.e4m3(n, k), r.e8m0(-(-n // 128), -(-k // 128))
    return dict(data=data, scales=scales, format="fp8"), dv * oracle.tiles(sv, n, k)


@case
def linear_fp8():
    r = Random(12)
    (codes, cv), (scales, sv), (weight, wv) = r.e4m3(3, 256), r.e8m0(3, 2), fp8_weight(r, 136, 256)
    y, xv = np.zeros((3, 136), np.float32), cv * np.repeat(sv, 128, axis=1)
    fields = dict(y=y, input=dict(codes=codes, scales=scales), weight=weight, tokens=3, n=136, k=256, y_type="f32")
    return Case(fields, lambda: close("y", y, xv @ wv.T, product_bound(xv, wv, rounding=0)),
                instead={"input.codes": "x"})


@case
def linear_multi():
    """More than eight tokens: what is quantised on the way in goes through a workspace."""
    r = Random(13)
    (x, xv), (w, wv), (weight, w8) = r.bf16(9, 128), r.bf16(24, 128), fp8_weight(r, 32, 128)
    y, y8 = np.zeros((9, 24), np.uint16), np.zeros((9, 32), np.uint16)
    fields = workspace("linear_multi", dict(parts=[dict(y=y, weight=dict(data=w, format="bf16"), n=24),
                                                   dict(y=y8, weight=weight, n=32, quantise=True)],
                                            count=2, input=dict(x=x), tokens=9, k=128))

    def check():
        codes, scales = oracle.fp8(xv)
        quantised = dsv4.decode_e4m3(codes) * dsv4.decode_e8m0(scales).astype(float)
        close("y of bf16", values(y), xv @ wv.T, product_bound(xv, wv))
        close("y of FP8", values(y8), quantised @ w8.T, product_bound(quantised, w8))

    return Case(fields, check)


@case
def lm_head():
    r = Random(14)
    (x, xv), (head, hv), logits = r.bf16(4, 128), r.bf16(50, 128), np.zeros((2, 50), np.float32)
    rows = np.array([3, 1], np.int32)
    fields = dict(logits=logits, x=x, head=head, rows=rows, tokens=2, x_rows=4, vocab=50, hidden=128)
    return Case(fields, lambda: close("logits", logits, xv[rows] @ hv.T, product_bound(xv[rows], hv, rounding=0)),
                ("rows",))
