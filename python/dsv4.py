"""dsv4 from Python, without compiled glue: every op of dsv4.h through ctypes.

    import dsv4
    lib = dsv4.load("simt")                       # libdsv4_simt.so: arrays of the host; "cuda": libdsv4.so
    lib.rms_norm(out=out, x=x, weight=weight, rows=4, n=512, eps=1e-6)
    lib.rms_norm(quantised={"codes": codes, "scales": scales}, x=x, rows=4, n=512, stream=stream)

Fields are those of the C structs, with their defaults: dsv4.h is read when the library is loaded, and nothing of
it is repeated here. What fields mean stands in <dsv4/ops/*.hpp>.

A pointer takes an array of numpy, anything with __dlpack__ (torch, CuPy, JAX) or with data_ptr() and dtype, a
ctypes array, an address, or None. No array is copied. One of the wrong type, of a wrong layout, of the wrong
memory, or read-only where the op writes, is an error that names the field. bf16 may come as uint16 or int16, e4m3,
e2m1 and UE8M0 as uint8. Sizes are the caller's word, as in C: an array that is shorter than they say is not noticed.
An array need not outlive the call, but for libdsv4 it must outlive the kernels, in the order of the stream.

A field of an enum takes its member, number or name: dtype="f32", lib.dtype.F32. "workspace" fills in
workspace_bytes. What the library refuses raises dsv4.Error, with a code and a message."""

import ctypes
import difflib
import enum
import glob
import numbers
import operator
import os
import re
import weakref
from collections import namedtuple

__all__ = ["Error", "HeaderError", "Library", "Tensor", "decode_e2m1", "decode_e4m3", "decode_e8m0", "from_bf16",
           "from_dlpack", "load", "to_bf16", "zeros"]


class Error(RuntimeError):
    """What the library refused, or failed at: its code and its message."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message


# ---- dsv4.h -------------------------------------------------------------------------------------------------


class HeaderError(ValueError):
    """A line of dsv4.h that is not in the part of C that it is written in."""


CType = namedtuple("CType", "base pointers const")  # const: what the pointer leads to
Field = namedtuple("Field", "type enum count")  # enum: name, or None; count: elements of an array, or 0

_SCALARS = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64,
            "size_t": ctypes.c_size_t, "int": ctypes.c_int, "float": ctypes.c_float, "bool": ctypes.c_bool}
_TOKEN = re.compile(r"\s+|(?P<enum>/\* dsv4_\w+ \*/)|/\*.*?\*/|(?P<word>\w+)|(?P<mark>[{}()\[\];,*=])|(?P<other>.)",
                    re.DOTALL)
_DIRECTIVE = re.compile(r"^[ \t]*#[^\n]*", re.MULTILINE)


class Header:
    """Enums (IntEnum classes), structs (ctypes classes), functions and constants of a dsv4.h."""

    def __init__(self, path):
        self.path, self.constants, self.enums, self.structs, self.functions = path, {}, {}, {}, {}
        self._opaque, self._values = set(), {}
        with open(path, encoding="utf-8") as file:
            text = file.read()

        def blank(match):  # so that lines keep their numbers
            return "\n" * match.group().count("\n")

        text = re.sub(r"^#ifdef __cplusplus\n.*?^#endif", blank, text, flags=re.MULTILINE | re.DOTALL)
        for match in _DIRECTIVE.finditer(text):
            if constant := re.match(r"#define DSV4_(\w+) (\d+)$", match.group()):
                self._values["DSV4_" + constant[1]] = self.constants[constant[1]] = int(constant[2])
        # Of inline functions only the names matter, and those are made from the ops'.
        text = re.sub(r"^static inline [^{;]*\{.*?^\}", blank, _DIRECTIVE.sub(blank, text),
                      flags=re.MULTILINE | re.DOTALL)
        self._tokens, line = [], 1
        for match in _TOKEN.finditer(text):
            if match.lastgroup:
                self._tokens.append((match.lastgroup, match.group(), line))
            line += match.group().count("\n")
        self._tokens.append(("end", "the end", line))
        self._at = 0
        while self._peek() != "the end":
            self._declaration()

    def _peek(self):
        return self._tokens[self._at][1]

    def _fail(self, wanted):
        raise HeaderError(f"{self.path}:{self._tokens[self._at][2]}: expected {wanted}, not {self._peek()!r}")

    def _take(self, *marks):
        if marks and self._peek() not in marks:
            self._fail(" or ".join(map(repr, marks)))
        if not marks and self._tokens[self._at][0] != "word":
            self._fail("a name")
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _declaration(self):
        if self._tokens[self._at][0] == "enum":  # a comment of that form, between declarations
            self._at += 1
            return
        start = self._take("enum", "typedef", "DSV4_C")
        if start == "enum":
            self._enum(self._take())
        elif start == "DSV4_C":
            result, name = self._type(), self._take()
            self._take("(")
            self.functions[name] = (result, self._arguments())
        else:
            self._take("struct")
            tag = self._take()
            if self._peek() == "*":
                self._take("*")
                self._opaque.add(self._take())
            else:
                self._struct(tag)
                self._take(tag)
        self._take(";")

    def _enum(self, name):
        members = {}
        self._take("{")
        while self._peek() != "}":
            member = self._take()
            self._take("=")
            members[member] = self._number()
            if self._peek() != "}":
                self._take(",")
        self._take("}")
        if not members:
            self._fail(f"members of {name}")
        # DSV4_CACHE_ROWS of dsv4_cache_format is cache_format.ROWS: what all members begin with, in whole words.
        prefix = os.path.commonprefix(list(members)).rpartition("_")[0] + "_"
        self.enums[name] = enum.IntEnum(name, {m[len(prefix):]: value for m, value in members.items()})

    def _number(self):
        word = self._take()
        if word.isdigit():
            return int(word)
        if word not in self._values:
            self._at -= 1
            self._fail("a number")
        return self._values[word]

    def _type(self):
        const = self._peek() == "const"
        if const:
            self._take("const")
        base, pointers = self._take(), 0
        if base not in _SCALARS and base not in self.structs and base not in self._opaque | {"void", "char"}:
            self._at -= 1
            self._fail("a type")
        while self._peek() in ("*", "const"):
            pointers += self._take("*", "const") == "*"
        return CType(base, pointers, const)

    def _arguments(self):
        arguments = []
        if self._peek() == "void" and self._tokens[self._at + 1][1] == ")":
            self._take("void")
        while self._peek() != ")":
            arguments.append(self._type())
            self._take()
            if self._peek() != ")":
                self._take(",")
        self._take(")")
        return arguments

    def _struct(self, name):
        fields = {}
        self._take("{")
        while self._peek() != "}":
            kind, field, count, of = self._type(), self._take(), 0, None
            if field in fields:
                self._at -= 1
                self._fail(f"one field of this name in {name}")
            if self._peek() == "[":
                self._take("[")
                count = self._number()
                self._take("]")
            self._take(";")
            if self._tokens[self._at][0] == "enum":
                of = self._peek()[3:-3]
                if of not in self.enums:
                    self._fail("the comment to name an enum")
                self._at += 1
            fields[field] = Field(kind, of, count)
        self._take("}")
        layout = [(n, self.ctype(f.type) * f.count if f.count else self.ctype(f.type)) for n, f in fields.items()]
        self.structs[name] = type(name, (ctypes.Structure,), {"_fields_": layout, "fields": fields})

    def ctype(self, kind, argument=False):
        if kind.pointers == 0:
            return ctypes.c_void_p if kind.base in self._opaque else _SCALARS.get(kind.base) or self.structs[kind.base]
        if kind.pointers == 1 and kind.base == "char":
            return ctypes.c_char_p
        return ctypes.POINTER(self.structs[kind.base]) if argument and kind.base in self.structs else ctypes.c_void_p


# ---- arrays -------------------------------------------------------------------------------------------------

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13  # DLDeviceType
_DEVICES = {"simt": (CPU, CUDA_HOST, CUDA_MANAGED), "cuda": (CUDA, CUDA_HOST, CUDA_MANAGED)}


class Tensor:
    """An array in memory that something else owns. Strides count elements."""

    def __init__(self, pointer, element, itemsize, shape, strides, readonly, device, owner):
        self.pointer, self.element, self.itemsize, self.shape = pointer, element, itemsize, tuple(shape)
        if strides is None:
            strides = [1] * len(self.shape)
            for axis in range(len(self.shape) - 2, -1, -1):
                strides[axis] = strides[axis + 1] * self.shape[axis + 1]
        self.strides, self.readonly, self.device, self.owner = tuple(strides), readonly, device, owner

    @property
    def nbytes(self):
        size = self.itemsize
        for extent in self.shape:
            size *= extent
        return size

    def is_contiguous(self, last_only):
        """With `last_only`, is the last dimension?"""
        expected = 1
        for extent, stride in list(zip(self.shape, self.strides))[::-1][: 1 if last_only else None]:
            if extent != 1 and stride != expected and 0 not in self.shape:
                return False
            expected *= extent
        return True


class _DLTensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


# Called with the lock of the interpreter held, which producers in Python need.
_DELETER = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


class _DLManagedTensor(ctypes.Structure):
    _fields_ = [("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", _DELETER)]


class _DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
                ("deleter", _DELETER), ("flags", ctypes.c_uint64), ("tensor", _DLTensor)]


_DL_ELEMENTS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool", 10: "float8_e4m3fn",
                14: "float8_e8m0fnu", 17: "float4_e2m1fn"}
# Names of capsules, before and after they are consumed. Capsules keep the pointer: these must live as long.
_CAPSULES = ((b"dltensor_versioned", b"used_dltensor_versioned", _DLManagedTensorVersioned),
             (b"dltensor", b"used_dltensor", _DLManagedTensor))
_api = ctypes.PyDLL(None)
_api.PyCapsule_IsValid.argtypes = _api.PyCapsule_GetPointer.argtypes = ctypes.py_object, ctypes.c_char_p
_api.PyCapsule_SetName.argtypes = ctypes.py_object, ctypes.c_char_p
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p


def from_dlpack(producer, stream=None):
    """The Tensor behind __dlpack__, which the producer keeps until the Tensor is gone: then the capsule's deleter
    is called. `stream`: of CUDA, the one that will use it; the producer makes it wait for its own."""
    options = {}
    if producer.__dlpack_device__()[0] == CUDA and stream is not None:
        options["stream"] = stream or 1  # 1: the legacy default stream
    try:
        capsule = producer.__dlpack__(max_version=(1, 0), **options)
    except TypeError:  # older than DLPack 1.0
        capsule = producer.__dlpack__(**options)
    for name, used, layout in _CAPSULES:
        if _api.PyCapsule_IsValid(capsule, name):
            break
    else:
        raise TypeError("__dlpack__ did not give a fresh capsule of DLPack")
    managed = layout.from_address(_api.PyCapsule_GetPointer(capsule, name))
    versioned = layout is _DLManagedTensorVersioned
    if versioned and managed.major != 1:  # an incompatible layout; the capsule's own destructor frees it
        raise TypeError(f"DLPack {managed.major}.{managed.minor} is not understood")
    t = managed.tensor
    base = _DL_ELEMENTS.get(t.code, f"code{t.code}_")
    element = (base if t.code >= 10 else f"{base}{t.bits}") + ("" if t.lanes == 1 else f"_x{t.lanes}")
    tensor = Tensor((t.data or 0) + t.byte_offset, element, t.bits * t.lanes // 8 or 1,
                    t.shape[:t.ndim] if t.ndim else (), t.strides[:t.ndim] if t.ndim and t.strides else None,
                    versioned and bool(managed.flags & 1), t.device_type, managed)
    _api.PyCapsule_SetName(capsule, used)  # from here on it is ours
    if managed.deleter:
        deleter = _DELETER(ctypes.cast(managed.deleter, ctypes.c_void_p).value)  # not read from what it frees
        weakref.finalize(tensor, deleter, ctypes.addressof(managed))
    return tensor


_KINDS = {"f": "float", "i": "int", "u": "uint", "b": "bool", "c": "complex", "V": "raw"}


def _tensor(value, stream):
    """`value` as a Tensor; None if it is no array."""
    if isinstance(value, Tensor):
        return value
    if interface := getattr(value, "__array_interface__", None):
        order, kind, size = re.match(r"(.)(.)(\d+)$", interface["typestr"]).groups()
        element = ("swapped " if order == ">" else "") + _KINDS.get(kind, kind) + str(8 * int(size))
        strides = interface.get("strides")
        strides = strides and [s // int(size) if s % int(size) == 0 else -1 for s in strides]
        return Tensor(interface["data"][0], element, int(size), interface["shape"], strides, interface["data"][1],
                      CPU, value)
    if hasattr(value, "__dlpack__"):
        return from_dlpack(value, stream)
    if hasattr(value, "data_ptr"):
        device = getattr(getattr(value, "device", None), "type", "cpu")
        strides = value.stride() if callable(getattr(value, "stride", None)) else None
        return Tensor(value.data_ptr(), str(value.dtype).rpartition(".")[2], value.element_size(), value.shape,
                      strides, False, {"cpu": CPU, "cuda": CUDA}.get(device, 0), value)
    return None


# ---- fields -------------------------------------------------------------------------------------------------

_BYTES = ("uint8", "int8", "raw8", "float8_e4m3fn", "float8_e8m0fnu", "float4_e2m1fn", "float4_e2m1fn_x2")
# What a member of an enum makes of the array that it describes; those of quantised formats are bytes.
_ELEMENTS = {"BF16": ("bfloat16", "uint16", "int16", "raw16"), "F32": ("float32",), "INT32": ("int32",),
             "INT64": ("int64",)}
_POINTEES = {"float": ("float32",), "int32_t": ("int32",)}
# Of these structs, the array that the field `format` describes.
_FORMATTED = {"dsv4_cache_pool": "data", "dsv4_linear_weight": "data", "dsv4_expert_matrix": "data",
              "dsv4_attn_index_prep_part": "codes", "dsv4_attn_index_prep_params": "codes",
              "dsv4_index_queries": "q"}


class _Filler:
    """Writes fields into a struct, and keeps what they point to."""

    def __init__(self, library, stream):
        self.header, self.devices, self.stream, self.keep = library.header, library.devices, stream, []

    def fill(self, struct, values, where, dtype=None):
        fields = type(struct).fields
        for name in values:
            if name not in fields or name == "struct_size":
                near = difflib.get_close_matches(name, fields, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise TypeError(f"{where}{name}: there is no such field{hint}")
        for name, value in values.items():  # types and formats first: they say what arrays must hold
            if self._is_scalar(fields[name]):
                setattr(struct, name, self._scalar(fields[name], value, where + name))
        if "dtype" in fields:
            dtype = self._member(struct, "dtype")
        for name, value in values.items():
            field = fields[name]
            if self._is_scalar(field) or value is None:
                continue
            if field.type.pointers:
                self._pointer(struct, name, value, values, where + name, dtype)
            elif field.count:
                if len(value) > field.count:
                    raise ValueError(f"{where}{name}: {len(value)} are more than {field.count}")
                for i, item in enumerate(value):
                    self.fill(getattr(struct, name)[i], item, f"{where}{name}[{i}].", dtype)
            elif hasattr(value, "items"):
                self.fill(getattr(struct, name), value, f"{where}{name}.", dtype)
            else:
                raise TypeError(f"{where}{name}: a dict of {field.type.base}'s fields, not {type(value).__name__}")

    def _is_scalar(self, field):
        return not (field.type.pointers or field.count or field.type.base in self.header.structs)

    def _member(self, struct, name):
        field = type(struct).fields[name]
        return self.header.enums[field.enum](getattr(struct, name)).name

    def _scalar(self, field, value, where):
        if field.enum and isinstance(value, str):
            members = self.header.enums[field.enum].__members__
            if value.upper() not in members:
                raise ValueError(f"{where}: {value!r} is none of {', '.join(m.lower() for m in members)}")
            return members[value.upper()]
        try:
            if field.type.base == "float":
                return float(value)
            if field.type.base == "bool":
                if value in (True, False):
                    return bool(value)
                raise ValueError(f"{where}: {value!r} is neither True nor False")
            number = operator.index(value)
        except TypeError:
            raise TypeError(f"{where}: {field.type.base}, not {type(value).__name__}") from None
        if _SCALARS[field.type.base](number).value != number:
            raise ValueError(f"{where}: {number} does not fit {field.type.base}")
        if field.enum and number not in set(self.header.enums[field.enum]):
            raise ValueError(f"{where}: {number} is no {field.enum}")
        return number

    def _wanted(self, struct, name, dtype):
        """The elements that an array behind a pointer may have; None: any."""
        fields, kind = type(struct).fields, type(struct).fields[name].type
        if kind.base != "void" or kind.pointers > 1:
            return _POINTEES.get(kind.base)
        last = name.rpartition("_")[2]
        for sibling in (f"{name}_type", f"{last.rstrip('s')}_type", f"{name}_dtype"):
            if sibling in fields:
                return _ELEMENTS.get(self._member(struct, sibling), _BYTES)
        for sibling in (f"wide_{name}", f"wide_{last}"):
            if sibling in fields:
                return _ELEMENTS["INT64" if getattr(struct, sibling) else "INT32"]
        if getattr(struct, f"{name}_f32", False):
            return _ELEMENTS["F32"]
        if _FORMATTED.get(type(struct).__name__) == name:
            stored = self._member(struct, "format")
            return _ELEMENTS[dtype] if stored == "ROWS" else _ELEMENTS.get(stored, _BYTES)
        if name in ("workspace", "state"):
            return None
        if name in ("codes", "scales"):
            return _BYTES + (("float32",) if type(struct).__name__ == "dsv4_cache_pool" else ())
        return _ELEMENTS[dtype]

    def _pointer(self, struct, name, value, values, where, dtype):
        if isinstance(value, ctypes.Array):
            self.keep.append(value)
            value = ctypes.addressof(value)
        if isinstance(value, numbers.Integral):
            return setattr(struct, name, int(value))
        try:
            tensor = _tensor(value, self.stream)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise type(error)(f"{where}: {error}") from error
        if tensor is None:
            raise TypeError(f"{where}: an array or an address, not {type(value).__name__}")
        wanted = self._wanted(struct, name, dtype)
        if wanted and tensor.element not in wanted:
            raise TypeError(f"{where}: {tensor.element}, but it must be {wanted[0]}"
                            + (f" (or {', '.join(wanted[1:])})" if wanted[1:] else ""))
        if tensor.device not in self.devices:
            raise ValueError(f"{where}: in memory of device type {tensor.device} of DLPack, but this library takes "
                             + " or ".join(map(str, self.devices)))
        if tensor.readonly and not type(struct).fields[name].type.const:
            raise ValueError(f"{where}: the array is read-only, and the op may write to it")
        if not tensor.is_contiguous(bool(values.get(f"{name}_stride") or (name == "data" and values.get("stride")))):
            raise ValueError(f"{where}: the array is not contiguous (shape {tensor.shape}, strides {tensor.strides})")
        self.keep.append(tensor)
        setattr(struct, name, tensor.pointer)
        if f"{name}_bytes" in type(struct).fields and f"{name}_bytes" not in values:
            setattr(struct, f"{name}_bytes", tensor.nbytes)


# ---- the library --------------------------------------------------------------------------------------------


class Call:
    """An op with its params and its stream, to be called any number of times: params.x can be changed between."""

    def __init__(self, op, fields, stream):
        handle = getattr(stream, "cuda_stream", stream)  # torch.cuda.Stream
        self.op, self.params, self.stream = op, op.struct(), handle
        op.library.check(op.library.dll.dsv4_params_init(op.name.encode(), ctypes.byref(self.params),
                                                         ctypes.sizeof(self.params)))
        filler = _Filler(op.library, handle or 0)
        filler.fill(self.params, fields, op.name + ": ")
        self.keep = filler.keep

    def __call__(self):
        self.op.library.check(self.op.function(self.params, self.stream))


class Op:
    """lib.NAME(field=value, ..., stream=None). bind() returns the Call instead of calling it; workspace_bytes()
    and, where there is one, state_bytes() take the same fields."""

    def __init__(self, library, name, struct):
        self.library, self.name, self.struct = library, name, struct
        self.function = getattr(library.dll, f"dsv4_{name}")

    def __call__(self, *, stream=None, **fields):
        self.bind(stream=stream, **fields)()

    def bind(self, *, stream=None, **fields):
        return Call(self, fields, stream)

    def workspace_bytes(self, **fields):
        return self._bytes("workspace", fields)

    def state_bytes(self, **fields):
        return self._bytes("state", fields)

    def _bytes(self, of, fields):
        name = f"dsv4_{self.name}_{of}_bytes"
        if name not in self.library.header.functions:
            return 0
        return getattr(self.library.dll, name)(self.bind(**fields).params)


class Library:
    """The ops, functions, enums and constants of dsv4.h, without their dsv4_: lib.rms_norm, lib.version(),
    lib.dtype.F32, lib.MAX_LINEAR_PARTS. `ops` names the ops."""

    def __init__(self, path, header):
        self.path, self.header, self.dll, self.ops = path, header, ctypes.CDLL(path), []
        for name, values in header.enums.items():
            setattr(self, name[len("dsv4_"):], values)
        for name, value in header.constants.items():
            setattr(self, name, value)
        for name, (result, arguments) in header.functions.items():
            try:
                function = getattr(self.dll, name)
            except AttributeError:
                raise ImportError(f"{path} has no {name}, which {header.path} declares") from None
            function.restype = header.ctype(result)
            function.argtypes = [header.ctype(a, argument=True) for a in arguments]
        if self.dll.dsv4_abi_version() != self.ABI_VERSION:
            raise ImportError(f"{path} has ABI {self.dll.dsv4_abi_version()}, {header.path} {self.ABI_VERSION}")
        self.devices = _DEVICES[self.dll.dsv4_backend().decode()]
        for name, (result, arguments) in header.functions.items():
            short = name[len("dsv4_"):]
            if arguments[:1] == [CType(f"{name}_params", 1, True)] and result.base == "int":
                self.ops.append(short)
                setattr(self, short, Op(self, short, header.structs[f"{name}_params"]))
            elif not (arguments and arguments[0].base.endswith("_params")):  # else of an Op
                setattr(self, short, self._plain(getattr(self.dll, name), result))

    def _plain(self, function, result):
        def call(*arguments):
            value = function(*(a.encode() if isinstance(a, str) else a for a in arguments))
            if result == CType("int", 0, False):
                return self.check(value)
            return value.decode() if isinstance(value, bytes) else value

        return call

    def check(self, code):
        if code:
            raise Error(self.header.enums["dsv4_code"](code), self.dll.dsv4_last_error().decode())


_HERE = os.path.dirname(os.path.abspath(__file__))
_PREFIX = os.path.abspath(os.path.join(_HERE, "..", "..", ".."))  # this is PREFIX/share/dsv4/python/dsv4.py
_NAMES = {"simt": "libdsv4_simt.so", "cuda": "libdsv4.so"}


def _installed(backend):
    """Path of a library of this prefix, or None."""
    for folder in ("lib", "lib64", "lib/*-linux-gnu"):
        for path in glob.glob(os.path.join(glob.escape(_PREFIX), folder, _NAMES[backend])):
            return path
    return None


def load(library=None, header=None):
    """The Library of `library`: a path, or "simt" or "cuda" for that of this prefix. None: what DSV4_LIBRARY says (the
    same), else the one that this prefix has. `header`: of dsv4.h, else that of this prefix or source tree."""
    library = library or os.environ.get("DSV4_LIBRARY")
    found = {backend: _installed(backend) for backend in _NAMES}
    if not library:
        there = [backend for backend, path in found.items() if path]
        if len(there) != 1:
            raise ImportError(f"{_PREFIX} has {' and '.join(there) or 'no'} libraries of dsv4: give load() a path, or "
                              "\"simt\" or \"cuda\", or set DSV4_LIBRARY")
        library = there[0]
    if library in found:
        if not found[library]:
            raise ImportError(f"{_PREFIX} has no {_NAMES[library]}: give load() a path, or set DSV4_LIBRARY")
        library = found[library]
    places = [os.path.join(root, "include/dsv4/dsv4.h") for root in (_PREFIX, os.path.dirname(_HERE))]
    header = header or next(filter(os.path.exists, places), None)
    if not header:
        raise ImportError(f"dsv4.h is not at {' or '.join(places)}: give load() its path")
    return Library(os.fspath(library), Header(os.fspath(header)))


# ---- formats, with numpy ------------------------------------------------------------------------------------


def zeros(shape, dtype="u1", align=256):
    """Zeros at a multiple of `align` bytes, as workspaces, states and pages want them."""
    import numpy as np
    count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = np.zeros(count + align, "u1")
    first = -memory.ctypes.data % align
    return memory[first:first + count].view(dtype).reshape(shape)


def to_bf16(x):
    """Floats to the bits of bf16 (uint16): nearest, ties to even; NaNs stay NaNs."""
    import numpy as np
    x = np.asarray(x, np.float32, order="C")
    bits = x.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))) >> 16
    return np.where(np.isnan(x), bits >> 16 | 0x40, rounded).astype(np.uint16)


def from_bf16(bits):
    """bf16, as uint16 or int16, to float32."""
    import numpy as np
    return (np.asarray(bits).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def decode_e8m0(codes):
    """UE8M0 scales to float32: 2^(byte - 127); 255 is NaN."""
    import numpy as np
    codes = np.asarray(codes).view(np.uint8).astype(np.int32)
    return np.where(codes == 255, np.float32("nan"), np.ldexp(np.float32(1), np.minimum(codes, 254) - 127))


def decode_e4m3(codes):
    """e4m3 bytes to float32."""
    import numpy as np
    codes = np.asarray(codes).view(np.uint8).astype(np.int32)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    value = np.ldexp(np.where(exponent == 0, mantissa, mantissa + 8).astype(np.float32), np.maximum(exponent, 1) - 10)
    return np.where(codes & 127 == 127, np.float32("nan"), np.where(codes & 128, -value, value))


def decode_e2m1(codes):
    """Bytes of two e2m1 values each, the even channel in the low nibble, to float32: [..., n] to [..., 2 n]."""
    import numpy as np
    codes = np.asarray(codes).view(np.uint8)
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    values = np.concatenate([values, -values])
    return np.stack([values[codes & 15], values[codes >> 4]], axis=-1).reshape(*codes.shape[:-1], -1)
