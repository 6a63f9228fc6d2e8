"""Plain formulas in double: what the ops compute, written down from their headers. Nothing here calls dsv4."""

import numpy as np

E4M3 = np.array([(k & 7) * 2.0**-9 if k < 8 else (8 + (k & 7)) * 2.0**((k >> 3) - 10) for k in range(127)])
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6.0])


def encode(x, positive):
    """Codes of the nearest of the positive values and their negatives, ties to even; beyond the last, the last."""
    middle, a = (positive[1:] + positive[:-1]) / 2, np.abs(x)
    k = np.searchsorted(middle, a, side="left")
    k += (k % 2 == 1) & (a == middle[np.minimum(k, len(middle) - 1)])
    return (k | np.where(np.signbit(x), 128 if len(positive) > 8 else 8, 0)).astype(np.uint8)


def quantise(x, block, positive, floor):
    """Codes [..., n], and UE8M0 scales for every `block` channels."""
    padded = np.zeros((*x.shape[:-1], -(-x.shape[-1] // block) * block))
    padded[..., :x.shape[-1]] = x
    largest = np.maximum(np.abs(padded.reshape(*x.shape[:-1], -1, block)).max(axis=-1), floor).astype(np.float32)
    mantissa, exponent = np.frexp(largest * np.float32(1 / positive[-1]))
    exponent = exponent - (mantissa == 0.5)
    codes = encode(x / np.repeat(2.0**exponent, block, axis=-1)[..., :x.shape[-1]], positive)
    return codes, (exponent + 127).astype(np.uint8)


def fp8(x, block=128):
    return quantise(x, block, E4M3, 1e-4)


def fp4(x):
    """The codes packed, the even channel in the low nibble."""
    codes, scales = quantise(x, 32, E2M1, 6 * 2.0**-126)
    return codes[..., ::2] | codes[..., 1::2] << 4, scales


def rms_norm(x, weight, eps):
    return weight * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps)


def frequencies(theta=10000.0):
    return (theta ** (-np.arange(32) / 32)).astype(np.float32)


def rope(x, positions, freq, sign=1):
    """Pairs of the last 64 channels turned; positions broadcast over what follows the first axis."""
    angle = (np.asarray(positions, np.float32)[..., None] * freq).astype(np.float64)
    angle = angle.reshape(len(angle), *[1] * (x.ndim - 2), 32)
    cos, sin, out = np.cos(angle), sign * np.sin(angle), x.copy()
    a, b = x[..., -64::2], x[..., -63::2]
    out[..., -64::2], out[..., -63::2] = a * cos - b * sin, a * sin + b * cos
    return out


def hadamard(n):
    ones = np.array([bin(i).count("1") for i in range(n)])
    i = np.arange(n)
    return (1.0 - 2 * (ones[i[:, None] & i] % 2)) / np.sqrt(n)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def mixes(streams, fn, eps):
    """[tokens, rows of fn]"""
    flat = streams.reshape(len(streams), -1)
    return flat @ fn.T / np.sqrt(np.mean(flat**2, axis=1, keepdims=True) + eps)


def sinkhorn(comb, steps, eps):
    comb = np.exp(comb - comb.max(axis=2, keepdims=True))
    comb = comb / comb.sum(axis=2, keepdims=True) + eps
    for step in range(steps):
        if step > 0:
            comb = comb / (comb.sum(axis=2, keepdims=True) + eps)
        comb = comb / (comb.sum(axis=1, keepdims=True) + eps)
    return comb


def tiles(scales, rows, columns):
    """Scales of 128 x 128 tiles, one for each element."""
    return np.repeat(np.repeat(scales, 128, axis=0), 128, axis=1)[:rows, :columns]


def kv584(pages, page_rows, slot, from_bf16, e4m3, e8m0):
    """Row `slot` of pages [pages, bytes]; the last three decode its parts."""
    page, row = pages[slot // page_rows], slot % page_rows
    data, scales = page[576 * row:576 * row + 576], page[576 * page_rows + 8 * row:][:7]
    return np.concatenate([e4m3(data[:448]) * np.repeat(e8m0(scales), 64), from_bf16(data[448:].view(np.uint16))])


def softmax(x, axis):
    x = np.exp(x - x.max(axis=axis, keepdims=True))
    return x / x.sum(axis=axis, keepdims=True)


def attend(q, rows, sink, scale):
    """q [heads, dim] over rows [n, dim]: o, and lse without the sink."""
    s = scale * q @ rows.T
    largest = s.max(axis=1, keepdims=True)
    total = np.exp(s - largest).sum(axis=1, keepdims=True)
    o = np.exp(s - largest) @ rows / (total + np.exp(sink[:, None] - largest))
    return o, (largest + np.log(total))[:, 0]
