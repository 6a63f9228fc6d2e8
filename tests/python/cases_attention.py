"""Cases of the ops of attention."""

import numpy as np

import oracle
from cases_rows import EPS, product_bound
from support import BF16, F32, Case, Random, case, close, dsv4, equal, lib, values, workspace

C, FREQ = 512, oracle.frequencies()
POSITIONS = np.array([3, 1000], np.int32)
ROTATION = dict(positions=POSITIONS, rope=dict(freq=FREQ), rope_dim=64)


def kv584_pages(pages, page_rows):
    return dsv4.zeros((pages, (584 * page_rows + 15) // 16 * 16))


def kv584_row(pages, page_rows, slot):
    return oracle.kv584(pages, page_rows, slot, values, dsv4.decode_e4m3, dsv4.decode_e8m0).astype(float)


def q_fields():
    q, qv = Random(21).bf16(2, 3, C)
    return dict(out=np.zeros_like(q), q=q, tokens=2, heads=3, head_dim=C, eps=EPS, **ROTATION), qv


@case
def attn_q_proj():
    f, qv = q_fields()

    def check():
        want = oracle.rope(oracle.rms_norm(qv, 1, EPS), POSITIONS, FREQ)
        # Of the last 64 channels each rounding, before the rotation and after it, changes both of a pair.
        pair = np.repeat(np.hypot(want[..., ::2], want[..., 1::2]), 2, axis=-1)
        close("out", values(f["out"]), want, (2 * BF16 + 64 * F32) * pair)

    return Case(f, check)


def kv_fields():
    r = Random(22)
    kv, kvv = r.bf16(2, C)
    pages = kv584_pages(2, 3)
    window = dict(data=pages, format="kv584", slots=6, page_rows=3)
    return dict(window=window, slots=np.array([4, 0], np.int64), slot_type="int64", out=np.zeros_like(kv), kv=kv,
                norm=r.f32(C, mean=1, scale=0.3), tokens=2, head_dim=C, eps=EPS, **ROTATION), kvv


@case
def attn_kv_proj():
    f, kvv = kv_fields()

    def check():
        pages, slots = f["window"]["data"], f["slots"]
        for t, slot in enumerate(slots):
            equal(f"cached row {t}", dsv4.to_bf16(kv584_row(pages, 3, int(slot))), f["out"][t])
        want = oracle.rope(oracle.rms_norm(kvv, f["norm"].astype(float), EPS), POSITIONS, FREQ)
        # e4m3 has 3 bits behind the first, and subnormals of 2^-10 of a scale that is 1/256 of the largest or less.
        largest = np.abs(want[:, :448]).reshape(2, 7, 64).max(axis=-1).repeat(64, axis=-1)
        close("out, FP8", values(f["out"])[:, :448], want[:, :448],
              (2.0**-4 + 2 * BF16) * np.abs(want[:, :448]) + 2.0**-17 * largest)
        pair = np.repeat(np.hypot(want[:, 448::2], want[:, 449::2]), 2, axis=-1)
        close("out, turned", values(f["out"])[:, 448:], want[:, 448:], (2 * BF16 + 64 * F32) * pair)

    return Case(f, check, ("out", "window.data"))


def index_fields():
    r = Random(23)
    return dict(codes=np.zeros((2, 4, 64), "u1"), scales=np.zeros((2, 4, 4), "u1"), weights_out=np.zeros((2, 4), "f4"),
                q=r.bf16(2, 4, 128)[0], weights=r.bf16(2, 4)[0], tokens=2, heads=4, dim=128, format="index_fp4",
                **ROTATION)


@case
def attn_index_prep():
    """Bit for bit rope, hadamard and act_quant."""
    f = index_fields()

    def check():
        turned = f["q"].copy()
        lib.rope(out=turned, x=f["q"], positions=POSITIONS, table=f["rope"], tokens=2, heads=4, head_dim=128,
                 rope_dim=64)
        lib.hadamard(out=turned, x=turned, rows=8, n=128)
        codes, scales = np.zeros_like(f["codes"]), np.zeros_like(f["scales"])
        lib.act_quant(codes=codes, scales=scales, x=turned, rows=8, n=128, block=32, format="e2m1")
        equal("codes", f["codes"], codes)
        equal("scales", f["scales"], scales)
        want = values(f["weights"]) / np.sqrt(128 * 4)
        close("weights_out", f["weights_out"], want, 4 * F32 * np.abs(want))

    return Case(f, check)


@case
def attn_qk_prep():
    """Bit for bit the three ops."""
    q, kv, index = q_fields()[0], kv_fields()[0], index_fields()

    def check():
        for op, together, alone in (("attn_q_proj", q, q_fields()[0]), ("attn_kv_proj", kv, kv_fields()[0]),
                                      ("attn_index_prep", index, index_fields())):
            getattr(lib, op)(**alone)
            for name in {"out", "codes", "scales", "weights_out"} & alone.keys():
                equal(f"{op}'s {name}", together[name], alone[name])
        alone = kv_fields()[0]
        lib.attn_kv_proj(**alone)
        equal("cache", kv["window"]["data"], alone["window"]["data"])

    # A part without its input is absent.
    return Case(dict(q=q, kv=kv, index=index), check, ("q.q", "kv.kv", "kv.out", "kv.window.data", "index.q"))


@case
def attn_compress():
    """One sequence of two blocks of four tokens, in fp32: the second entry pools eight rows, the first four."""
    r, n, width = Random(24), 8, 2 * C
    kv, gate, ape = r.f32(n, width), r.f32(n, width), r.f32(4, width)
    norm, rows = r.f32(C, mean=1, scale=0.3), np.zeros((2, C), np.float32)
    slots = np.array([-1, -1, -1, 1, -1, -1, -1, 0], np.int32)
    fields = dict(main=dict(kv=kv, gate=gate, ape=ape, norm=norm, dim=C, entry_slots=slots,
                            state=dsv4.zeros(lib.attn_compress_state_bytes(4, C, 0)),
                            entries=dict(data=rows, format="rows", dtype="f32", slots=2)),
                  first_token=np.array([0, n], np.int32), start=np.array([0], np.int32), rope=dict(freq=FREQ),
                  tokens=n, sequences=1, states=1, ratio=4, rope_dim=64, eps=EPS, dtype="f32")

    def check():
        a, b = kv.astype(float), gate + ape[np.arange(n) % 4].astype(float)
        for entry, slot in ((0, 1), (1, 0)):
            now, before = slice(4 * entry, 4 * entry + 4), slice(4 * entry - 4, 4 * entry if entry else 0)
            terms = np.concatenate([a[before, :C], a[now, C:]])
            pooled = (oracle.softmax(np.concatenate([b[before, :C], b[now, C:]]), axis=0) * terms).sum(axis=0)
            want = oracle.rope(oracle.rms_norm(pooled[None], norm.astype(float), EPS), [4 * entry], FREQ)[0]
            close(f"entry {entry}", rows[slot], want, 1e-5)

    return Case(fields, check, ("main.kv",))  # without it the compressor is absent


# ---- the indexer --------------------------------------------------------------------------------------------

ENTRIES, PAGE = 5, 4


def index_queries():
    """Three tokens, two heads, five keys in two pages that lie in the other order."""
    r = Random(25)
    pages = dsv4.zeros((2, 68 * PAGE))
    pages[:, :64 * PAGE], pages[:, 64 * PAGE:] = r.e2m1(2, 64 * PAGE)[0], r.e8m0(2, 4 * PAGE)[0]
    table = dict(pages=np.array([[1, 0]], np.int32), sequence_of=np.zeros(3, np.int32), stride=2, sequences=1,
                 page_rows=PAGE)
    return dict(q=r.e2m1(3, 2, 64)[0], scales=r.e8m0(3, 2, 4)[0], weights=r.f32(3, 2), table=table,
                keys=dict(data=pages, format="index_fp4", slots=2 * PAGE, page_rows=PAGE),
                visible=dict(counts=np.array([5, 3, 0], np.int32)), tokens=3, max_entries=ENTRIES, heads=2, dim=128,
                format="index_fp4")


# A table without pages means the slot itself, one without sequence_of row t for token t.
TABLE = ("table.pages", "table.sequence_of")


@case
def attn_index_scores():
    f, scores = index_queries(), np.full((3, ENTRIES), -7, np.float32)

    def check():
        def numbers(codes, scales):
            return dsv4.decode_e2m1(codes).astype(float) * np.repeat(dsv4.decode_e8m0(scales), 32, axis=-1)

        q, pages = numbers(f["q"], f["scales"]), f["keys"]["data"][[1, 0]]
        keys = numbers(pages[:, :64 * PAGE].reshape(-1, 64), pages[:, 64 * PAGE:].reshape(-1, 4))[:ENTRIES]
        dots, weights = np.maximum(q @ keys.T, 0), f["weights"].astype(float)
        want, size = (weights[:, :, None] * dots).sum(axis=1), (np.abs(weights)[:, :, None] * dots).sum(axis=1)
        for t, count in enumerate(f["visible"]["counts"]):
            close(f"token {t}", scores[t, :count], want[t, :count], 4 * F32 * size[t, :count])
            equal(f"token {t} beyond", scores[t, count:], np.full(ENTRIES - count, -7, np.float32))

    return Case(dict(scores=scores, queries=f), check, tuple("queries." + name for name in TABLE))


@case
def attn_select():
    scores = np.array([[1, 3, 2, 3, np.nan], [0.0, -0.0, -1, 9, 9], [5, 5, 5, 5, 5]], np.float32)
    idx = np.zeros((3, 3), np.int32)
    fields = dict(output=dict(idx=idx, k=3), scores=scores, visible=dict(counts=np.array([5, 3, 2], np.int32)),
                  tokens=3, max_entries=ENTRIES)
    return Case(fields, lambda: equal("idx", idx, np.array([[1, 3, 2], [0, 1, 2], [0, 1, -1]], np.int32)))


@case
def attn_index_select():
    """Bit for bit attn_index_scores, then attn_select."""
    f, idx = index_queries(), np.zeros((3, 2), np.int32)

    def check():
        scores, alone = np.zeros((3, ENTRIES), np.float32), np.zeros_like(idx)
        lib.attn_index_scores(scores=scores, queries=f)
        lib.attn_select(output=dict(idx=alone, k=2), scores=scores, visible=f["visible"], tokens=3, max_entries=ENTRIES)
        equal("idx", idx, alone)
        assert len(set(idx[0])) == 2 and min(idx[0]) >= 0 and (idx[2] == -1).all(), idx

    return Case(dict(output=dict(idx=idx, k=2), queries=f), check, tuple("queries." + name for name in TABLE))


# ---- attention ----------------------------------------------------------------------------------------------


@case
def attn_attend():
    """A list of rows of a bf16 pool, and entries of 584 bytes, of which the second token sees one."""
    r = Random(26)
    (q, qv), (pool, poolv), sink = r.bf16(2, 3, C), r.bf16(4, C), r.f32(3)
    pages, o, lse = kv584_pages(1, 3), np.zeros_like(q), np.zeros((2, 3), np.float32)
    for row in range(3):
        pages[0, 576 * row:576 * row + 448] = r.e4m3(448)[0]
        pages[0, 576 * row + 448:576 * row + 576] = r.bf16(64)[0].view("u1")
        pages[0, 1728 + 8 * row:][:7] = r.e8m0(7)[0] - 2
    idx, counts = np.array([[2, -1, 0], [3, 1, 2]], np.int32), np.array([3, 1], np.int32)
    window = dict(pool=dict(data=pool, format="rows", slots=4), kind="list", idx=idx, max_count=3)
    entries = dict(pool=dict(data=pages, format="kv584", slots=3, page_rows=3), kind="entries", max_count=3,
                   visible=dict(counts=counts))
    fields = workspace("attn_attend", dict(o=o, lse=lse, q=q, sink=sink, window=window, entries=entries, tokens=2,
                                           heads=3, head_dim=C, scale=C**-0.5))

    def check():
        compressed = np.stack([kv584_row(pages, 3, slot) for slot in range(3)])
        for t in range(2):
            rows = np.concatenate([poolv[idx[t][idx[t] >= 0]], compressed[:counts[t]]])
            want, want_lse = oracle.attend(qv[t], rows, sink.astype(float), C**-0.5)
            # Weights are rounded to bf16, and so is the result.
            size, _ = oracle.attend(qv[t], rows, sink.astype(float), C**-0.5)
            weights = oracle.softmax(C**-0.5 * qv[t] @ rows.T, axis=1)
            close(f"o of token {t}", values(o[t]), want, BF16 * np.abs(size) + 2 * BF16 * weights @ np.abs(rows))
            close(f"lse of token {t}", lse[t], want_lse, 1e-4)

    return Case(fields, check, ("lse", "sink"))


@case
def attn_out_proj():
    r, rank = Random(27), 16
    (o, ov), (wo_a, av), (wo_b, bv) = r.bf16(2, 2, C), r.bf16(2 * rank, C, scale=0.05), r.bf16(48, 2 * rank)
    y = np.zeros((2, 48), np.float32)
    weights = dict(wo_a=dict(data=wo_a, format="bf16"), wo_b=dict(data=wo_b, format="bf16"))
    fields = workspace("attn_out_proj", dict(y=y, o=o, **weights, tokens=2, hidden=48, heads=2, head_dim=C, groups=2,
                                             rank=rank, y_f32=True, rotate_back=True, **ROTATION))

    def check():
        turned = oracle.rope(ov, POSITIONS, FREQ, sign=-1)
        z = np.concatenate([turned[:, g] @ av[g * rank:(g + 1) * rank].T for g in range(2)], axis=1)
        # o is rounded when it is turned, z before Wo_b.
        size = np.concatenate([np.abs(ov[:, g]) @ np.abs(av[g * rank:(g + 1) * rank]).T for g in range(2)], axis=1)
        close("y", y, z @ bv.T, BF16 * (np.abs(z) + 2 * size) @ np.abs(bv).T + product_bound(z, bv, rounding=0))

    return Case(fields, check)
