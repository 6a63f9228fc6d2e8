"""reference/tools/record_activations.py: its options, and a recording that dsv4_validate holds.

The latter needs the packages of reference/tools/requirements.txt. Exit code 77 where it alone is asked for without."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = ROOT / "reference/tools/record_activations.py"
DATA = ROOT / "tests/data"
MISSING = [name for name in ("torch", "transformers", "safetensors") if importlib.util.find_spec(name) is None]


def run(*arguments):
    return subprocess.run([sys.executable, "-B", *map(str, arguments)], capture_output=True, text=True, check=False)


class Options(unittest.TestCase):
    def test_every_file_compiles(self):
        files = [TOOL, *(TOOL.parent / "recorder").glob("*.py")]
        self.assertGreater(len(files), 4)
        for file in files:
            compile(file.read_text(encoding="utf-8"), file, "exec")

    def test_help_needs_no_package(self):
        ran = run("-S", TOOL, "--help")
        self.assertEqual(ran.returncode, 0)
        self.assertIn("--as-is", ran.stdout)

    def test_wrong_options_are_named_in_one_line(self):
        for wrong, message in (
            (["--config", "dim=4x"], "--config: dim: '4x' is not JSON"),
            (["--config", "dim=0"], "--config: dim is 0, must be above 0"),
            (["--config", "dim=4.5"], "--config: dim must be an integer, got 4.5"),
            (["--config", "width=4"], "--config: there is no key 'width'; --help lists them"),
            (["--config", "head_dim=256"], "--config: head_dim is fixed, at 512"),
            (["--config", "compress_ratios=[0,4]"], "--config: compress_ratios has 2 entries, n_layers is 3"),
            (["--config", "compress_ratios=[0,4,8]"],
             "--config: compress_ratios has 8, only 0, 4 and 128 are supported"),
            (["--config", "n_activated_experts=10"], "--config: n_activated_experts is 10, n_routed_experts is 9"),
            (["--config", "o_groups=3"], "--config: o_groups is 3, must divide n_heads, 4"),
            (["--tokens", "0"], "--tokens is 0, must be in [1, 1048576]"),
            (["--inputs", "x", "--decode", "3"], "--tokens, --decode: the calls are those of --inputs"),
            (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        ):
            with self.subTest(wrong=wrong):
                ran = run("-S", TOOL, "--out", "/nonexistent/x", *wrong)
                self.assertEqual((ran.returncode, ran.stdout), (2, ""))
                self.assertEqual(ran.stderr, f"record_activations.py: {message}\n")


@unittest.skipIf(MISSING, f"not installed: {', '.join(MISSING)}")
class Recording(unittest.TestCase):
    WEIGHTS = ["--weights", DATA / "tiny-exact.weights.safetensors"]

    def validate(self, prefix, *options):
        ran = subprocess.run([os.environ["DSV4_VALIDATE"], "--weights", f"{prefix}.weights.safetensors",
                              "--recording", f"{prefix}.recording.safetensors", *options],
                             capture_output=True, text=True, check=False)
        return ran.returncode, ran.stdout

    def record(self, prefix, *options):
        ran = run(TOOL, "--out", prefix, *options)
        self.assertEqual(ran.returncode, 0, ran.stderr)

    def test_random_ones_hold_and_are_the_same_again(self):
        options = ["--config", "n_layers=2", "--config", "compress_ratios=[4,128]", "--tokens", 129, "--decode", 3]
        with tempfile.TemporaryDirectory() as folder:
            for name in "ab":
                self.record(f"{folder}/{name}", *options)
            for kind in ("weights", "recording"):
                first, second = (pathlib.Path(folder, f"{name}.{kind}.safetensors").read_bytes() for name in "ab")
                self.assertTrue(first == second, kind)
            for mode in ("free", "staged"):
                status, out = self.validate(f"{folder}/a", "--mode", mode)
                self.assertEqual(status, 0, out)

    def test_it_computes_what_the_published_code_computed(self):
        with tempfile.TemporaryDirectory() as folder:
            self.record(f"{folder}/x", *self.WEIGHTS, "--inputs", DATA / "tiny-exact.recording.safetensors")
            for mode in ("free", "staged"):
                status, out = self.validate(f"{folder}/x", "--mode", mode)
                self.assertEqual(status, 0, out)
                self.assertIn(" 0 unexplained", out)

    def test_as_is_it_differs_where_it_is_said_to(self):
        with tempfile.TemporaryDirectory() as folder:
            self.record(f"{folder}/x", *self.WEIGHTS, "--tokens", 9, "--decode", 1, "--as-is")
            status, out = self.validate(f"{folder}/x", "--mode", "staged")
            self.assertEqual(status, 1, out)
            failing = {line.split()[0].split(".", 2)[2] for line in out.splitlines() if line.endswith(" FAIL")}
            self.assertEqual(failing, {"attn.indexer.q", "attn.indexer.keys", "ffn.shared"})

    def test_what_does_not_fit_is_named_in_one_line(self):
        for wrong, message in (
            (["--weights", DATA / "tiny-deploy.weights.safetensors"], "mode is 'deploy', must be 'exact'"),
            (["--inputs", DATA / "tiny-exact.recording.safetensors"], "an element is not in [0, 320)"),
            (["--tokens", 1024, "--decode", 1], "the calls have 1025 tokens, max_seq_len is 1024"),
        ):
            with self.subTest(wrong=wrong):
                ran = run(TOOL, "--out", "/nonexistent/x", *wrong)
                self.assertEqual((ran.returncode, len(ran.stderr.splitlines())), (2, 1), ran.stderr)
                self.assertIn(message, ran.stderr)


if __name__ == "__main__":
    if MISSING and sys.argv[1:] == ["Recording"]:
        print(f"skipped: not installed: {', '.join(MISSING)}")
        sys.exit(77)
    unittest.main()
