"""What the tests share: the library under test, random operands, comparisons, and the register of the ops' cases."""

import os
import sys
from collections import namedtuple

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "python"))

import dsv4  # noqa: E402

lib = dsv4.load()  # what DSV4_LIBRARY says

BF16, F32 = 2.0**-8, 2.0**-24  # most that one rounding changes, relative to the value

# A valid problem of an op, small enough for a moment on the CPU.
#   fields     what the op is called with
#   check      called after it; raises AssertionError
#   optional   pointers in `fields` that may be null: "quantised.codes"
#   instead    {"input.codes": "x"}: without the one, the op misses the other
Case = namedtuple("Case", "fields check optional instead", defaults=((), {}))
CASES = {}  # op: functions that make a Case


def case(function):
    """Registers a function for the op that it is named after, up to a double underscore."""
    CASES.setdefault(function.__name__.partition("__")[0], []).append(function)
    return function


class Random:
    """Operands as an op takes them, each with the doubles that they stand for."""

    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)

    def f32(self, *shape, scale=1.0, mean=0.0):
        return (mean + scale * self.generator.standard_normal(shape)).astype(np.float32)

    def bf16(self, *shape, scale=1.0):
        bits = dsv4.to_bf16(self.f32(*shape, scale=scale))
        return bits, values(bits)

    def e4m3(self, *shape):
        """Codes of numbers below 32."""
        codes = self.generator.integers(0, 96, shape, np.uint8) | self.generator.choice([0, 128], shape).astype("u1")
        return codes, dsv4.decode_e4m3(codes).astype(np.float64)

    def e8m0(self, *shape):
        """Scales of 1/8 to 1."""
        codes = self.generator.integers(124, 128, shape, np.uint8)
        return codes, dsv4.decode_e8m0(codes).astype(np.float64)

    def e2m1(self, *shape):
        """Bytes of two codes each."""
        codes = self.generator.integers(0, 256, shape, np.uint8)
        return codes, dsv4.decode_e2m1(codes).astype(np.float64)


def values(bits):
    """bf16 as doubles."""
    return dsv4.from_bf16(bits).astype(np.float64)


def workspace(op, fields):
    """`fields` with a workspace of exactly what they need."""
    return {**fields, "workspace": dsv4.zeros(getattr(lib, op).workspace_bytes(**fields))}


def close(what, got, want, bound):
    """Every element within `bound` of `want`, doubles; what is not finite is not close."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, want {want.shape}"
    error, bound = np.abs(got - want), np.broadcast_to(bound, want.shape)
    if not (error <= bound).all():
        at = np.unravel_index(np.argmax(np.where(np.isfinite(got), error - bound, np.inf)), got.shape)
        raise AssertionError(f"{what}{[int(i) for i in at]}: got {got[at]}, want {want[at]} within {bound[at]}")


def equal(what, got, want):
    """The same bits."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape and got.dtype.itemsize == want.dtype.itemsize, f"{what}: shapes or types differ"
    same = got.view(f"u{got.dtype.itemsize}") == want.view(f"u{want.dtype.itemsize}")
    assert same.all(), f"{what}: {np.count_nonzero(~same)} of {same.size} differ, first at {np.argwhere(~same)[0]}"
