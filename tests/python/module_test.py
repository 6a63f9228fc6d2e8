"""python/dsv4.py itself: the parser of dsv4.h, fields, arrays and DLPack, formats, how libraries are found."""

import ctypes
import gc
import os
import subprocess
import sys
import tempfile
import unittest

import numpy as np

import oracle
from support import ROOT, dsv4, lib

X = np.zeros((2, 128), np.uint16)


class Parser(unittest.TestCase):
    def parse(self, text):
        with tempfile.NamedTemporaryFile("w", suffix=".h") as file:
            file.write(text)
            file.flush()
            return dsv4.Header(file.name)

    def wrong(self, text, line, message):
        with self.assertRaisesRegex(dsv4.HeaderError, rf"\.h:{line}: .*{message}"):
            self.parse(text)

    def test_what_it_reads(self):
        header = self.parse("/* a\n * comment */\n#define DSV4_N 3\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n"
                            "enum dsv4_kind { DSV4_KIND_A_B = 0, DSV4_KIND_C = 7 };\n"
                            "typedef struct S_st* dsv4_stream;\n"
                            "typedef struct dsv4_in {\n  void* const* p;\n  int32_t kind; /* dsv4_kind */\n} dsv4_in;\n"
                            "typedef struct dsv4_out {\n  size_t n;\n  dsv4_in in[DSV4_N];\n  bool b;\n} dsv4_out;\n"
                            "static inline int f(void) {\n  return 0;\n}\n"
                            "DSV4_C const char* dsv4_f(const dsv4_out* p, dsv4_stream s);\nDSV4_C int dsv4_g(void);\n")
        self.assertEqual(header.constants, {"N": 3})
        self.assertEqual(dict(header.enums["dsv4_kind"].__members__), {"A_B": 0, "C": 7})
        self.assertEqual(header.structs["dsv4_in"].fields["kind"].enum, "dsv4_kind")
        self.assertEqual(header.structs["dsv4_in"].fields["p"].type, ("void", 2, False))
        self.assertEqual(ctypes.sizeof(header.structs["dsv4_out"]), 8 + 3 * 16 + 8)
        result, arguments = header.functions["dsv4_f"]
        self.assertEqual(result, ("char", 1, True))
        self.assertEqual(arguments, [("dsv4_out", 1, True), ("dsv4_stream", 0, False)])
        self.assertEqual(header.functions["dsv4_g"][1], [])

    def test_errors_name_the_line(self):
        self.wrong("\n\nint x;\n", 3, "'enum' or 'typedef' or 'DSV4_C', not 'int'")
        self.wrong("enum dsv4_e { A };\n", 1, "'=', not '}'")
        self.wrong("enum dsv4_e { A = B };\n", 1, "a number, not 'B'")
        self.wrong("/* 1\n2 */ typedef struct dsv4_s {\n  long x;\n} dsv4_s;\n", 3, "a type, not 'long'")
        self.wrong("typedef struct dsv4_s {\n  int x : 3;\n} dsv4_s;\n", 2, "';', not ':'")
        self.wrong("typedef struct dsv4_s {\n  int x;\n  int x;\n} dsv4_s;\n", 3, "one field of this name")
        self.wrong("typedef struct dsv4_s {\n  int x;\n} dsv4_t;\n", 3, "'dsv4_s', not 'dsv4_t'")
        self.wrong("typedef struct dsv4_s {\n  int32_t x; /* dsv4_nothing */\n} dsv4_s;\n", 2, "to name an enum")
        self.wrong("DSV4_C int dsv4_f(int);\n", 1, r"a name, not '\)'")
        self.wrong("DSV4_C int dsv4_f(int a", 1, "',', not 'the end'")

    def test_every_function_is_there(self):
        with open(os.path.join(ROOT, "include/dsv4/dsv4.h"), encoding="utf-8") as file:
            declared = [line.split("(")[0].split()[-1].lstrip("*") for line in file if line.startswith("DSV4_C ")]
        self.assertEqual(declared, list(lib.header.functions))


class Fields(unittest.TestCase):
    def wrong(self, error, message, op="rms_norm", **fields):
        with self.assertRaisesRegex(error, message):
            getattr(lib, op).bind(**fields)

    def test_names(self):
        self.wrong(TypeError, "rms_norm: xs: there is no such field; did you mean x", xs=X)
        self.wrong(TypeError, r"rms_norm: quantised\.codez: there is no such field; did you mean codes",
                   quantised=dict(codez=X))
        self.wrong(TypeError, "rms_norm: struct_size: there is no such field", struct_size=8)
        self.wrong(TypeError, "quantised: a dict of dsv4_fp8_output's fields, not int", quantised=1)
        self.wrong(ValueError, "linear_multi: parts: 17 are more than 16", op="linear_multi", parts=[{}] * 17)
        self.wrong(TypeError, r"linear_multi: parts\[1\]\.n: int64_t, not str", op="linear_multi",
                   parts=[{}, {"n": "2"}])

    def test_numbers(self):
        self.wrong(ValueError, "rope_dim: 2147483648 does not fit int32_t", op="rope", rope_dim=2**31)
        self.wrong(ValueError, "workspace_bytes: -1 does not fit size_t", op="mhc_pre", workspace_bytes=-1)
        self.wrong(TypeError, "rows: int64_t, not float", rows=2.0)
        self.wrong(TypeError, "eps: float, not list", eps=[])
        self.wrong(ValueError, "wide_ids: 2 is neither", op="embed", wide_ids=2)
        self.wrong(ValueError, "dtype: 'f16' is none of bf16, f32", dtype="f16")
        self.wrong(ValueError, "dtype: 9 is no dsv4_dtype", dtype=9)
        for dtype in ("f32", 1, lib.dtype.F32):
            self.assertEqual(lib.rms_norm.bind(dtype=dtype, rows=np.int32(3)).params.dtype, 1)

    def test_elements(self):
        f32, i32, i64 = np.zeros(4, "f4"), np.zeros(4, "i4"), np.zeros(4, "i8")
        self.wrong(TypeError, "rms_norm: x: float32, but it must be bfloat16", x=f32)
        self.wrong(TypeError, "rms_norm: x: uint16, but it must be float32", x=X, dtype="f32")
        self.wrong(TypeError, "rms_norm: weight: float64, but it must be float32", weight=np.zeros(4))
        self.wrong(TypeError, "x: swapped uint16", x=X.astype(">u2"))
        self.wrong(TypeError, "rope: positions: int64, but it must be int32", op="rope", positions=i64)
        self.wrong(TypeError, "positions: int32, but it must be int64", op="rope", positions=i32, position_type="int64")
        self.wrong(TypeError, "attn_kv_proj: slots: int64", op="attn_kv_proj", slots=i64)
        self.wrong(TypeError, "embed: ids: int64", op="embed", ids=i64)
        self.wrong(TypeError, "embed: table: float32", op="embed", table=f32)
        self.wrong(TypeError, "moe_gate: token_ids: int32, but", op="moe_gate", token_ids=i32, wide_ids=True)
        self.wrong(TypeError, "moe_gate: idx: int64", op="moe_gate", idx=i64)
        self.wrong(TypeError, "linear_bf16: input.x: float32", op="linear_bf16", input=dict(x=f32))
        self.wrong(TypeError, "linear_bf16: y: uint16", op="linear_bf16", y=X, y_type="f32")
        self.wrong(TypeError, "linear_fp8: weight.data: uint16, but it must be uint8", op="linear_fp8",
                   weight=dict(data=X, format="fp8"))
        self.wrong(TypeError, "act_quant: scales: float32, but it must be uint8", op="act_quant", scales=f32)
        self.wrong(TypeError, "moe_combine: out: uint16, but it must be float32", op="moe_combine", out=X, out_f32=True)
        self.wrong(TypeError, "attn_index_scores: queries.q: uint16, but it must be uint8", op="attn_index_scores",
                   queries=dict(q=X))
        self.wrong(TypeError, "x: an array or an address, not str", x="abc")

    def test_layouts(self):
        self.wrong(ValueError, r"rms_norm: x: the array is not contiguous \(shape \(2, 64\)", x=X[:, ::2])
        self.wrong(ValueError, "rms_norm: out: the array is not contiguous", out=X[:, :64])
        self.wrong(ValueError, "x: the array is not contiguous", x=X.T, x_stride=2)
        lib.rms_norm.bind(x=X[:, :64], x_stride=128)  # rows apart, as told
        readonly = X.copy()
        readonly.flags.writeable = False
        self.wrong(ValueError, "rms_norm: out: the array is read-only", out=readonly)
        lib.rms_norm.bind(x=readonly)

    def test_addresses(self):
        x = (ctypes.c_float * 4)(0, 3, 0, 4)
        out = (ctypes.c_float * 4)()
        for address in (ctypes.addressof(out), np.uint64(ctypes.addressof(out))):
            out[:] = [0] * 4
            lib.rms_norm(out=address, x=x, weight=None, rows=1, n=4, dtype="f32")
            np.testing.assert_allclose(out, np.array([0, 3, 0, 4]) / 2.5, rtol=1e-6)

    def test_a_call_keeps_its_arrays(self):
        out, x = X.copy(), X.copy()
        before = sys.getrefcount(x)
        call = lib.rms_norm.bind(out=out, x=x, rows=2, n=128, eps=1e-6)
        self.assertGreater(sys.getrefcount(x), before)
        x[:] = dsv4.to_bf16(np.full((2, 128), 3.0))
        call()
        self.assertTrue((dsv4.from_bf16(out) == 1).all())
        del call
        self.assertEqual(sys.getrefcount(x), before)

    def test_workspaces(self):
        sizes = dict(tokens=2, hidden=64, stream_count=4)
        needed = lib.mhc_pre.workspace_bytes(**sizes)
        self.assertGreater(needed, 0)
        self.assertEqual(lib.mhc_pre.bind(workspace=dsv4.zeros(needed), **sizes).params.workspace_bytes, needed)
        self.assertEqual(lib.rms_norm.workspace_bytes(), 0)
        self.assertEqual(dsv4.zeros((3, 5), "f4").ctypes.data % 256, 0)

    def test_errors_of_the_library(self):
        with self.assertRaises(dsv4.Error) as caught:
            lib.rms_norm(rows=1, n=0)
        self.assertEqual(caught.exception.code, lib.code.INVALID_ARGUMENT)
        self.assertRegex(caught.exception.message, r"^rms_norm: n in \[1, 2\^30\]")


class Producer:
    """Something with __dlpack__, whose deleter counts."""

    def __init__(self, versioned, element=(4, 16), device=1, flags=0, major=1):
        self.memory, self.shape, self.deleted = np.zeros((2, 128), np.uint16), (ctypes.c_int64 * 2)(2, 128), 0
        layout = dsv4._DLManagedTensorVersioned if versioned else dsv4._DLManagedTensor
        self.deleter = dsv4._DELETER(self.delete)  # ctypes needs it to live
        self.managed, self.versioned, self.device = layout(deleter=self.deleter), versioned, device
        self.managed.tensor = dsv4._DLTensor(self.memory.ctypes.data - 64, device, 0, 2, *element, 1, self.shape, None,
                                             64)
        if versioned:
            self.managed.major, self.managed.flags = major, flags

    def delete(self, address):
        assert address == ctypes.addressof(self.managed)
        self.deleted += 1

    def __dlpack_device__(self):
        return self.device, 0

    def __dlpack__(self, *, stream=None, **options):
        if options and not self.versioned:
            raise TypeError("older than DLPack 1.0")
        self.stream = stream
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        self.name = b"dltensor_versioned" if self.versioned else b"dltensor"
        self.capsule = new(ctypes.addressof(self.managed), self.name, None)
        return self.capsule


class Dlpack(unittest.TestCase):
    def test_the_deleter_is_called_once_after_the_call(self):
        for versioned in (False, True):
            with self.subTest(versioned=versioned):
                producer = Producer(versioned)
                call = lib.rms_norm.bind(out=producer, rows=0, n=128)
                self.assertEqual(call.params.out, producer.memory.ctypes.data)
                call()
                self.assertEqual(producer.deleted, 0)
                self.assertRegex(repr(producer.capsule), '"used_dltensor')
                del call
                gc.collect()
                self.assertEqual(producer.deleted, 1)

    def test_a_capsule_is_consumed_once(self):
        producer = Producer(False)
        tensor = dsv4.from_dlpack(producer)
        self.assertEqual((tensor.shape, tensor.strides, tensor.element, tensor.nbytes),
                         ((2, 128), (128, 1), "bfloat16", 512))
        producer.__class__ = type("Again", (Producer,), {"__dlpack__": lambda self, **options: self.capsule})
        with self.assertRaisesRegex(TypeError, "rms_norm: x: __dlpack__ did not give a fresh capsule"):
            lib.rms_norm.bind(x=producer)
        del tensor
        self.assertEqual(producer.deleted, 1)

    def test_what_it_says_of_itself(self):
        wrong = ((Producer(True, flags=1), ValueError, "out: the array is read-only"),
                 (Producer(True, major=2), TypeError, "out: DLPack 2.0 is not understood"),
                 (Producer(True, element=(2, 32)), TypeError, "out: float32, but it must be bfloat16"),
                 (Producer(False, element=(10, 8)), TypeError, "out: float8_e4m3fn, but"),
                 (Producer(False, device=2), ValueError, "out: in memory of device type 2 of DLPack, but"))
        for producer, error, message in wrong:
            with self.subTest(message), self.assertRaisesRegex(error, message):
                lib.rms_norm.bind(out=producer, stream=0)
            self.assertEqual(producer.deleted, 0 if "understood" in message else 1)
        self.assertEqual(wrong[-1][0].stream, 1)  # CUDA: the stream that will use it, 0 being written as 1

    @unittest.skipUnless(hasattr(X, "__dlpack__"), "numpy is older than 1.22")
    def test_numpy(self):
        x = dsv4.to_bf16(np.arange(256.0).reshape(2, 128))
        out, again, before = np.zeros_like(x), np.zeros_like(x), sys.getrefcount(x)
        lib.rms_norm(out=out, x=x, rows=2, n=128)
        lib.rms_norm(out=dsv4.from_dlpack(again), x=dsv4.from_dlpack(x), rows=2, n=128)
        self.assertTrue((out == again).all() and out.any())
        gc.collect()
        self.assertEqual(sys.getrefcount(x), before)

    def test_data_ptr(self):
        class Old:  # a tensor without DLPack
            dtype, device, shape = "torch.bfloat16", None, (2, 128)
            strides = (256, 2)

            def data_ptr(self):
                return X.ctypes.data

            def element_size(self):
                return 2

            def stride(self):
                return self.strides

        with self.assertRaisesRegex(ValueError, "x: the array is not contiguous"):
            lib.rms_norm.bind(x=Old())
        Old.strides = (128, 1)
        self.assertEqual(lib.rms_norm.bind(x=Old()).params.x, X.ctypes.data)


class Formats(unittest.TestCase):
    def test_bf16(self):
        bits = np.arange(65536, dtype=np.uint16)
        back = dsv4.to_bf16(dsv4.from_bf16(bits))
        nan = np.isnan(dsv4.from_bf16(bits))
        self.assertTrue((back == bits)[~nan].all() and np.isnan(dsv4.from_bf16(back[nan])).all())
        # Halfway between two: to the even one.
        x = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 3.4e38, np.inf], np.float32)
        np.testing.assert_array_equal(dsv4.from_bf16(dsv4.to_bf16(x)), [1, 1 + 2**-6, 1 + 2**-7, np.inf, np.inf])
        self.assertEqual(dsv4.from_bf16(np.array([-16384], np.int16))[0], -2)

    def test_small_formats(self):
        codes = np.arange(256, dtype=np.uint8)
        e4m3 = dsv4.decode_e4m3(codes)
        np.testing.assert_array_equal(e4m3[:127], oracle.E4M3)
        np.testing.assert_array_equal(e4m3[128:255], -oracle.E4M3)
        self.assertTrue(np.isnan(e4m3[[127, 255]]).all())
        np.testing.assert_array_equal(dsv4.decode_e8m0(codes)[:255], 2.0 ** (np.arange(255) - 127))
        self.assertTrue(np.isnan(dsv4.decode_e8m0(codes)[255]))
        np.testing.assert_array_equal(dsv4.decode_e2m1(np.array([[0x21, 0xF7]], np.uint8)), [[0.5, 1, 6, -6]])


class Loading(unittest.TestCase):
    def test_a_prefix(self):
        """An installed module finds the header and the library beside it."""
        with tempfile.TemporaryDirectory() as prefix:
            for target, link in ((os.path.join(ROOT, "python/dsv4.py"), "share/dsv4/python/dsv4.py"),
                                 (os.path.join(ROOT, "include/dsv4/dsv4.h"), "include/dsv4/dsv4.h"),
                                 (os.path.abspath(lib.path), "lib/libdsv4_simt.so")):
                os.makedirs(os.path.dirname(os.path.join(prefix, link)), exist_ok=True)
                os.symlink(target, os.path.join(prefix, link))
            program = ("import dsv4, sys; lib = dsv4.load(*sys.argv[1:]);"
                       "print(lib.path, lib.header.path, lib.backend(), lib.version())")

            def run(*arguments):
                environment = {k: v for k, v in os.environ.items() if k != "DSV4_LIBRARY"}
                environment["PYTHONPATH"] = os.path.join(prefix, "share/dsv4/python")
                return subprocess.run([sys.executable, "-c", program, *arguments], env=environment, capture_output=True,
                                      text=True, check=False)

            places = f"{prefix}/lib/libdsv4_simt.so {prefix}/include/dsv4/dsv4.h simt {lib.version()}\n"
            for arguments in ([], ["simt"]):
                self.assertEqual(run(*arguments).stdout, places)
            self.assertIn(f"ImportError: {prefix} has no libdsv4.so", run("cuda").stderr)
            os.symlink("libdsv4_simt.so", os.path.join(prefix, "lib/libdsv4.so"))
            self.assertIn("has simt and cuda libraries of dsv4: give load() a path", run().stderr)

    def test_a_header_of_another_version(self):
        with open(lib.header.path, encoding="utf-8") as file:
            text = file.read()
        for old, new, message in (("ABI_VERSION 1", "ABI_VERSION 7", "has ABI 1, .* 7"),
                                  ("dsv4_op_count", "dsv4_op_number", "has no dsv4_op_number")):
            with tempfile.NamedTemporaryFile("w", suffix=".h") as file:
                file.write(text.replace(old, new))
                file.flush()
                with self.assertRaisesRegex(ImportError, message):
                    dsv4.load(lib.path, file.name)


if __name__ == "__main__":
    unittest.main()
