"""Every op from numpy: the numbers of its cases, and what it says to nulls and wrong sizes."""

import ctypes
import unittest

import cases_attention  # noqa: F401
import cases_moe  # noqa: F401
import cases_rows  # noqa: F401
from support import CASES, dsv4, lib


def leaves(fields, path=""):
    """(path, value) of every field that is no struct; "parts[1].y"."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{name}.")
        elif isinstance(value, list):
            for i, item in enumerate(value):
                yield from leaves(item, f"{path}{name}[{i}].")
        else:
            yield path + name, value


def with_value(params, path, value):
    """Writes a field of a C struct by its path; returns its name and its type in C."""
    *way, last = path.replace("[", ".").replace("]", "").split(".")
    for step in way:
        params = params[int(step)] if step.isdigit() else getattr(params, step)
    setattr(params, last, value)
    return last, type(params).fields[last].type.base


# Rows that there are, against which an op compares what it reads: any number will do.
CAPACITIES = {"x_rows", "states", "table.stride", "table.sequences"}


class Ops(unittest.TestCase):
    def each(self, check):
        for op, makers in CASES.items():
            for make in makers:
                with self.subTest(make.__name__):
                    check(op, make())

    def each_leaf(self, check):
        def leaf_by_leaf(op, case):
            for path, value in leaves(case.fields):
                with self.subTest(field=path):
                    check(op, case, path, value)

        self.each(leaf_by_leaf)

    def refused(self, op, call, naming, codes=("INVALID_ARGUMENT", "UNSUPPORTED"), within=""):
        """The message names the field, or the struct that it is in."""
        with self.assertRaises(dsv4.Error) as caught:
            call()
        self.assertIn(caught.exception.code.name, codes)
        self.assertTrue(caught.exception.message.startswith(op + ": "), caught.exception.message)
        *_, outer = ["", *within.split(".")[:-1]]
        self.assertRegex(caught.exception.message, rf"\b{naming}\b" + (rf"|\b{outer}\b" if outer else ""))

    def test_every_op_has_a_case(self):
        names = [lib.op_name(i) for i in range(lib.op_count())]
        self.assertEqual(sorted(names), sorted(CASES))
        self.assertEqual(sorted(names), sorted(lib.ops))

    def test_numbers(self):
        def check(op, case):
            getattr(lib, op)(**case.fields)
            case.check()

        self.each(check)

    def test_null_pointers(self):
        refusing = set()

        def check(op, case, path, value):
            if getattr(value, "size", 0):
                call = getattr(lib, op).bind(**case.fields)
                last, _ = with_value(call.params, path, None)
                if path in case.optional:
                    call()
                else:
                    self.refused(op, call, case.instead.get(path, last), within=path)
                    refusing.add(op)

        self.each_leaf(check)
        self.assertEqual(refusing, set(lib.ops))

    def test_wrong_sizes(self):
        refusing = set()

        def check(op, case, path, value):
            if type(value) is int:
                call = getattr(lib, op).bind(**case.fields)
                last, kind = with_value(call.params, path, -1)
                self.refused(op, call, last)
                if kind == "int64_t" and not path.endswith(tuple(CAPACITIES)):
                    with_value(call.params, path, 2**63 - 1)
                    self.refused(op, call, last)
                    refusing.add(op)

        self.each_leaf(check)
        self.assertEqual(refusing, set(lib.ops))

    def test_small_workspaces(self):
        small = set()

        def check(op, case, path, value):
            last = path.rpartition(".")[2]
            if last in ("workspace", "state") and op != "attn_compress" and value.size:
                call = getattr(lib, op).bind(**case.fields)
                with_value(call.params, path + "_bytes", value.nbytes - 1)
                self.refused(op, call, f"{last}(_bytes)?", ["WORKSPACE_TOO_SMALL"])
                small.add(path)

        self.each_leaf(check)
        self.assertEqual(small, {"workspace", "pre.workspace", "state"})

    def test_params_that_are_no_params(self):
        for op in lib.ops:
            function = getattr(lib.dll, f"dsv4_{op}")
            call = getattr(lib, op).bind()
            with self.subTest(op):
                self.refused(op, lambda f=function: lib.check(f(None, None)), "params")
                for size in (0, 8, 1 << 20):
                    call.params.struct_size = size
                    self.refused(op, call, "struct_size")
        self.refused("params_init", lambda: lib.check(lib.dll.dsv4_params_init(None, None, 0)), "op")

    def test_defaults(self):
        """In the last fields of structs, where a wrong layout would show."""
        self.assertTrue(lib.linear_fp8.bind().params.quantise)
        self.assertEqual(lib.attn_attend.bind().params.empty_lse, -float("inf"))
        self.assertEqual(lib.attn_attend.bind().params.entries.table.page_rows, 1)
        self.assertEqual(lib.moe_gate.bind().params.route_scale, 1)
        self.assertEqual(lib.moe_fused.bind().params.peers.ranks, 1)
        for op in lib.ops:
            params = getattr(lib, op).bind().params
            self.assertEqual(params.struct_size, ctypes.sizeof(params))


if __name__ == "__main__":
    unittest.main()
