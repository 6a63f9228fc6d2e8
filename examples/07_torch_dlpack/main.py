"""Tensors of torch, or of anything with __dlpack__, without copies: on the CPU with libdsv4_simt, on a GPU with libdsv4
and torch's current stream.

    main.py [--library PATH] [--no-torch]

Where there is no torch, numpy arrays take its place, behind a class that has nothing but __dlpack__. Producers without
bf16, like numpy, carry its bits in uint16 or int16."""

import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../python"))
import dsv4  # noqa: E402

TOKENS, HEADS, DIM, EPS = 6, 4, 128, 1e-6


class Torch:
    """What the example needs of torch: bf16 tensors on the library's device, and a stream."""

    def __init__(self, torch, device):
        self.torch, self.device, self.name = torch, device, f"torch {torch.__version__}, {device}"
        self.generator = torch.Generator(device).manual_seed(1)

    def random(self, *shape):
        return self.torch.randn(shape, generator=self.generator, device=self.device).to(self.torch.bfloat16)

    def empty(self, *shape):
        return self.torch.empty(shape, dtype=self.torch.bfloat16, device=self.device)

    def positions(self):
        return self.torch.arange(1000, 1000 + TOKENS, device=self.device)

    def frequencies(self):
        return (10000.0 ** (-self.torch.arange(32, device=self.device) / 32)).float()

    def stream(self):
        return self.torch.cuda.current_stream() if self.device == "cuda" else None

    def floats(self, tensor):
        """As numpy doubles would be; waits for the stream."""
        return tensor.double().cpu()

    def close(self, got, want, relative):
        return bool(((got - want).abs() <= relative * want.abs().amax(-1, keepdim=True)).all())

    def sum(self, x):
        return x.sum(-1, keepdim=True)


class Dlpack:
    """An array of which nothing but DLPack can be seen."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class Numpy:
    """The same of numpy."""

    name, device = "numpy behind __dlpack__", "cpu"

    def __init__(self, numpy):
        self.numpy, self.rng = numpy, numpy.random.default_rng(1)

    def random(self, *shape):
        return Dlpack(dsv4.to_bf16(self.rng.standard_normal(shape)))

    def empty(self, *shape):
        return Dlpack(self.numpy.zeros(shape, self.numpy.int16))

    def positions(self):
        return Dlpack(self.numpy.arange(1000, 1000 + TOKENS))

    def frequencies(self):
        return Dlpack((10000.0 ** (-self.numpy.arange(32) / 32)).astype(self.numpy.float32))

    def stream(self):
        return None

    def floats(self, tensor):
        array = tensor._array
        return (dsv4.from_bf16(array) if array.dtype.itemsize == 2 else array).astype(float)

    def close(self, got, want, relative):
        return bool((abs(got - want) <= relative * abs(want).max(-1, keepdims=True)).all())

    def sum(self, x):
        return x.sum(-1, keepdims=True)


def arrays_for(backend, use_torch):
    """Where the tensors come from; leaves with 77 if nothing has them."""
    try:
        if use_torch:
            import torch
            if backend == "simt" or torch.cuda.is_available():
                return Torch(torch, "cuda" if backend == "cuda" else "cpu")
    except ImportError:
        pass
    try:
        import numpy
        if backend == "simt" and hasattr(numpy.ndarray, "__dlpack__"):
            return Numpy(numpy)
    except ImportError:
        pass
    print(f"skipped: libdsv4 with backend {backend} needs torch" + (" and a GPU" if backend == "cuda" else " or numpy"))
    sys.exit(77)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", help="path of libdsv4.so or libdsv4_simt.so, or cuda or simt for an installed one")
    parser.add_argument("--no-torch", action="store_true", help="use numpy even where there is torch")
    arguments = parser.parse_args()
    lib = dsv4.load(arguments.library)
    arrays = arrays_for(lib.backend(), not arguments.no_torch)
    print(f"dsv4 {lib.version()}, {lib.backend()}; {arrays.name}")

    # Queued on torch's stream, so that what torch queued before is done before, and what it queues next comes after.
    stream = arrays.stream()
    q, normed, turned, back = arrays.random(TOKENS, HEADS, DIM), *(arrays.empty(TOKENS, HEADS, DIM) for _ in range(3))
    lib.rms_norm(out=normed, x=q, rows=TOKENS * HEADS, n=DIM, eps=EPS, stream=stream)
    rotation = dict(positions=arrays.positions(), position_type="int64", table={"freq": arrays.frequencies()},
                    tokens=TOKENS, heads=HEADS, head_dim=DIM, rope_dim=64)
    lib.hadamard(out=turned, x=normed, rows=TOKENS * HEADS, n=DIM, stream=stream)
    lib.hadamard(out=back, x=turned, rows=TOKENS * HEADS, n=DIM, stream=stream)
    lib.rope(out=turned, x=turned, **rotation, stream=stream)

    x, y, z, r = map(arrays.floats, (q, normed, back, turned))
    half_step = 2.0**-8  # of bf16, relative
    checks = {
        "rms_norm": arrays.close(y, x * (arrays.sum(x * x) / DIM + EPS) ** -0.5, half_step),
        "hadamard, twice: the same again": arrays.close(z, y, 12 * half_step),
        "rope: no pair changes its length": arrays.close(arrays.sum(r * r), arrays.sum(y * y), 4 * half_step),
    }
    for what, ok in checks.items():
        print(f"{what:34} {'ok' if ok else 'WRONG'}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
