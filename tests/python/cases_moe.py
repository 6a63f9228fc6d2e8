"""Cases of the mixture of experts."""

import numpy as np

import oracle
from support import F32, Case, Random, case, close, dsv4, equal, lib, values, workspace

T, D, INNER, EXPERTS, K = 3, 128, 64, 4, 2
IDX = np.array([[2, 0], [0, 3], [2, 9]], np.int32)  # nobody wants expert 1, and 9 is another rank's


@case
def moe_gate():
    r = Random(31)
    (x, xv), (gate, gv), bias = r.bf16(T, D), r.bf16(8, D, scale=0.1), r.f32(8, scale=0.1)
    idx, weights, scores = np.zeros((T, K), np.int32), np.zeros((T, K), np.float32), np.zeros((T, 8), np.float32)
    fields = workspace("moe_gate", dict(idx=idx, weights=weights, scores=scores, x=x, bias=bias, tokens=T, hidden=D,
                                        gate=dict(data=gate, format="bf16"), experts=8, k=K, route_scale=1.5))

    def check():
        want = np.sqrt(np.log1p(np.exp(xv @ gv.T)))
        close("scores", scores, want, 1e-5)
        chosen = np.argsort(-(want + bias), axis=1, kind="stable")[:, :K]
        equal("idx", idx, chosen.astype(np.int32))
        picked = np.take_along_axis(want, chosen, axis=1)
        close("weights", weights, 1.5 * picked / picked.sum(axis=1, keepdims=True), 1e-5)

    return Case(fields, check, ("scores", "bias"))


def plan(tile_rows):
    tiles = lib.moe_max_tiles(T, K, EXPERTS, tile_rows)
    sizes = dict(counts=EXPERTS, offsets=EXPERTS + 1, pair_of=T * K, row_of=T * K, tile_offsets=EXPERTS + 1,
                 tile_expert=tiles)
    return {name: np.full(size, -7, np.int32) for name, size in sizes.items()}


def dispatch_fields(tile_rows=2):
    return dict(plan=plan(tile_rows), idx=IDX, tokens=T, k=K, experts=EXPERTS, tile_rows=tile_rows)


@case
def moe_dispatch():
    f = dispatch_fields()

    def check():
        p = f["plan"]
        equal("counts", p["counts"], np.array([2, 0, 2, 1], np.int32))
        equal("offsets", p["offsets"], np.array([0, 2, 2, 4, 5], np.int32))
        equal("pair_of", p["pair_of"][:5], np.array([1, 2, 0, 4, 3], np.int32))
        equal("row_of", p["row_of"], np.array([2, 0, 1, 4, 3, -1], np.int32))
        equal("tile_offsets", p["tile_offsets"], np.array([0, 1, 1, 2, 3], np.int32))
        equal("tile_expert", p["tile_expert"][:3], np.array([0, 2, 3], np.int32))
        assert (p["tile_expert"][3:] == -1).all()

    return Case(f, check)


def experts_fields(seed=32):
    """FP4 experts of scales within a factor of 8; x as codes."""
    r = Random(seed)

    def matrix(n, k):
        return dict(data=r.e2m1(EXPERTS, n, k // 2)[0], scales=r.e8m0(EXPERTS, n, k // 32)[0], format="fp4")

    weights = dict(w1=matrix(INNER, D), w3=matrix(INNER, D), w2=matrix(D, INNER))
    routing = r.generator.uniform(0.2, 1, (T, K)).astype(np.float32)
    return dict(input=dict(codes=r.e4m3(T, D)[0], scales=r.e8m0(T, 1)[0] - 6), weights=weights, routing=routing,
                tokens=T, hidden=D, inner=INNER, k=K, experts=EXPERTS, limit=10.0)


@case
def moe_experts():
    """Against linear_fp8 with matrices of the same values, for the bits of each product."""
    f = dict(y=np.zeros((T * K, D), np.uint16), plan=plan(8), tile_rows=8, **experts_fields())
    lib.moe_dispatch(**{**dispatch_fields(8), "plan": f["plan"]})
    f = workspace("moe_experts", f)

    def product(matrix, expert, x):
        """As e4m3 with a tile scale of 1: e2m1 times 1/8 .. 1 is exact."""
        scales = np.repeat(dsv4.decode_e8m0(matrix["scales"][expert]), 32, axis=-1)
        codes = oracle.encode(dsv4.decode_e2m1(matrix["data"][expert]).astype(float) * scales, oracle.E4M3)
        y, (n, k) = np.zeros((1, len(codes)), np.uint16), codes.shape
        lib.linear_fp8(y=y, input=x, weight=dict(data=codes, scales=np.full((1, 1), 127, "u1"), format="fp8"), tokens=1,
                       n=n, k=k)
        return y

    def check():
        for row, pair in enumerate(f["plan"]["pair_of"][:5]):
            token, slot = divmod(int(pair), K)
            expert, x = int(IDX[token, slot]), {name: a[token:token + 1] for name, a in f["input"].items()}
            g, u = (values(product(f["weights"][w], expert, x)) for w in ("w1", "w3"))
            g, u = np.minimum(g, 10), np.clip(u, -10, 10)
            h = dsv4.to_bf16(g * oracle.sigmoid(g) * u * f["routing"][token, slot])
            # Bits, although h is of fp32 there: rounding to bf16, then to e4m3, all but never tells it from a double.
            equal(f"row {row}", f["y"][row], product(f["weights"]["w2"], expert, dict(x=h))[0])

    return Case(f, check, ("routing", "plan.counts", "plan.row_of"), {"input.codes": "x"})


@case
def moe_combine():
    r = Random(33)
    (y, yv), (shared, sv), out = r.bf16(5, D), r.bf16(T, D), np.zeros((T, D), np.float32)
    row_of = np.array([[2, 0], [1, 4], [3, -1]], np.int32)
    fields = dict(out=out, y=y, shared=shared, row_of=row_of, tokens=T, rows=5, hidden=D, k=K, out_f32=True)
    want = np.where(row_of[..., None] >= 0, yv[row_of], 0).sum(axis=1) + sv
    return Case(fields, lambda: close("out", out, want, 4 * F32 * (np.abs(yv).max() * K + np.abs(sv))), ("shared",))


@case
def moe_fused():
    """Bit for bit moe_dispatch, moe_experts and moe_combine."""
    f = dict(out=np.zeros((T, D), np.uint16), idx=IDX, blocks=2, **experts_fields(34))
    f["state"] = dsv4.zeros(lib.moe_fused.state_bytes(**f))
    f = workspace("moe_fused", f)

    def check():
        assert not f["state"].any(), "the state is zero again"
        experts = dict(y=np.zeros((T * K, D), np.uint16), plan=plan(8), tile_rows=8, **experts_fields(34))
        lib.moe_dispatch(**{**dispatch_fields(8), "plan": experts["plan"]})
        lib.moe_experts(**workspace("moe_experts", experts))
        out = np.zeros_like(f["out"])
        lib.moe_combine(out=out, y=experts["y"], row_of=experts["plan"]["row_of"], tokens=T, rows=T * K, hidden=D, k=K)
        equal("out", f["out"], out)
        assert values(out).any()

    return Case(f, check, ("routing",), {"input.codes": "x"})
