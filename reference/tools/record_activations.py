#!/usr/bin/env python3
"""Records activations of DeepSeek-V4 as Hugging Face transformers computes it, for dsv4_validate to compare with.

Writes PREFIX.weights.safetensors (checkpoint names, the configuration as JSON) and PREFIX.recording.safetensors (the
taps of a prefill and of single-token decodes with transformers' cache), in fp32 throughout: the exact mode. The first
call, the first decode and the last ten decodes are recorded in full, the others with streams, final norm, logits and
the indexer's choice.

Weights and tokens are random, or those of another recording. transformers loads the weights by its own mapping of the
published names. Two things are adjusted, which --as-is leaves out: the shared expert's clamp, where it differs from
the routed experts' (transformers has one number for both), and the Hadamard transform in the indexer's taps
(transformers scores without it, which gives the same scores).
"""

import argparse
import json
import os
import pathlib
import sys

from recorder.config import DEFAULTS, InputError, changed_config

PROGRAM = "record_activations.py"


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(message)  # one line, without the usage


def arguments():
    keys = ", ".join(f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in DEFAULTS.items())
    parser = Parser(
        prog=PROGRAM,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Needs the packages of requirements.txt beside it. On one machine, the same options give the same\n"
        "bytes. Exit: 0 written, 2 not.",
    )
    parser.add_argument("--out", required=True, metavar="PREFIX", help="of the two files")
    parser.add_argument("--seed", type=int, default=1, help="of weights and tokens (default 1)")
    parser.add_argument("--tokens", type=int, metavar="N", help="of the prefill (default 131)")
    parser.add_argument("--decode", type=int, metavar="N", help="single-token calls after it (default 126)")
    parser.add_argument("--config", action="append", default=[], metavar="KEY=VALUE",
                        help=f"changes one of (may be given again): {keys}")
    parser.add_argument("--weights", metavar="FILE", help="weights of an exact recording; its MTP block is left out")
    parser.add_argument("--inputs", metavar="FILE", help="a recording whose calls and tokens are run")
    parser.add_argument("--as-is", action="store_true", help="without the two adjustments")
    args = parser.parse_args()
    if args.weights and args.config:
        raise InputError("--config: the configuration is that of --weights")
    if args.inputs and not (args.tokens is None and args.decode is None):
        raise InputError("--tokens, --decode: the calls are those of --inputs")
    args.tokens = 131 if args.tokens is None else args.tokens
    args.decode = 126 if args.decode is None else args.decode
    for name, least, most in (("seed", 0, 2**32 - 1), ("tokens", 1, 2**20), ("decode", 0, 2**20)):
        if not least <= getattr(args, name) <= most:
            raise InputError(f"--{name} is {getattr(args, name)}, must be in [{least}, {most}]")
    return args


def other_version(installed):
    """The pinned version of transformers, if another one is installed."""
    requirements = pathlib.Path(__file__).with_name("requirements.txt").read_text(encoding="utf-8")
    pinned = next(line.split("==")[1] for line in requirements.splitlines() if line.startswith("transformers=="))
    return pinned if pinned != installed else None


def main(args):
    config = None if args.weights else changed_config(args.config)
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import torch
        import transformers
        from safetensors.torch import save_file

        from recorder import model, weights
    except ImportError as error:
        raise InputError(f"{error}: pip install -r requirements.txt") from None
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if pinned := other_version(transformers.__version__):
        print(f"{PROGRAM}: transformers {transformers.__version__}; written for {pinned}", file=sys.stderr)

    if args.weights:
        config, tensors = weights.stored_weights(args.weights)
    else:
        tensors = weights.random_weights(config, args.seed)
    if args.inputs:
        calls = model.stored_calls(args.inputs, config)
    else:
        calls = model.random_calls(config, args.tokens, args.decode, args.seed)
    taps = model.record(model.load(config, tensors, args.as_is), config, calls, args.as_is)
    for kind, contents in (("weights", tensors), ("recording", taps)):
        path = f"{args.out}.{kind}.safetensors"
        try:
            save_file(contents, path, metadata={"config": json.dumps(config)})
        except Exception as error:  # of the file system, in whatever type the library gives it
            raise InputError(f"{path}: {error}") from None
        print(f"{path}: {len(contents)} tensors, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    try:
        main(arguments())
    except InputError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        sys.exit(2)
