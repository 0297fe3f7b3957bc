# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The cost of a conversion compared with the usual way and with a plain copy, and of the start of the package.

`convert.py` with its verification (of one checkpoint and of several) and with `--no-verify` is compared with (a) the
usual way, which loads the checkpoint and the donor with transformers, moves the pooler and calls `save_pretrained`,
and (b) `cp` of the weights. Each runs in a fresh process, interleaved, with warm files, after `sync`.
"""

import contextlib
import functools
import json
import math
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import unittest.mock
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from measuring import in_fresh_process
from safetensors.numpy import save_file
from subjects import BASE, ROOT

sys.path.insert(1, str(ROOT / "tests"))

from bert_pooled_mlm.conversion.bert import POOLER, TIED, expected_shapes
from bert_pooled_mlm.conversion.sources import Folder
from bert_pooled_mlm.conversion.staging import flushed
from bert_pooled_mlm.conversion.weights import read_header, write_safetensors
from hub_server import HubServer

COMMAND = Path(sysconfig.get_path("scripts")) / "bert-pooled-mlm-convert"
IMPORTED = "import pathlib, bert_pooled_mlm; print(pathlib.Path(bert_pooled_mlm.__file__).parent)"
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SMALL = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
SIZES = [(BASE | {"num_hidden_layers": 4}, 1), (BASE, 1), (LARGE, 1), (LARGE | {"num_hidden_layers": 48}, 4)]
SMALL_SIZES = [(SMALL, 1), (SMALL | {"num_hidden_layers": 24}, 1), (SMALL | {"num_hidden_layers": 48}, 4)]
# A checkpoint's shape; shapes and numbers of files for the growth of cost with size: large (0.2 to 5 GB), and small.
FILES = {True: (BASE, SIZES), False: (SMALL, SMALL_SIZES)}
USUAL = """
import sys
from pathlib import Path
from transformers import BertForMaskedLM, BertModel
*checkpoints, donor, out = sys.argv[1:]
pooler = BertModel.from_pretrained(donor).pooler
for checkpoint in checkpoints:
    model = BertForMaskedLM.from_pretrained(checkpoint)
    model.bert.pooler = pooler
    model.save_pretrained(Path(out, Path(checkpoint).name))
"""


def write_checkpoint(folder: Path, shape: dict, shards: int = 1, pooler: bool = False) -> int:
    """Writes a BERT of this shape, each tensor drawn with a seed of its own; returns the bytes of its tensors."""
    config = {"model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2, **shape}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    shapes, weight_map = expected_shapes(config), {}
    names = [key for key in shapes if key not in TIED and (pooler or key not in POOLER)]
    for number in range(shards):
        file, held = f"model-{number + 1:05d}-of-{shards:05d}.safetensors", names[number::shards]
        dice = {key: np.random.default_rng(zlib.crc32(key.encode())) for key in held}
        tensors = {key: 0.02 * dice[key].standard_normal(shapes[key], dtype=np.float32) for key in held}
        save_file(tensors, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(held, file)
    total = sum(4 * math.prod(shapes[key]) for key in names)
    if shards > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        (folder / file).rename(folder / "model.safetensors")
    return total


def warm(folder: Path) -> None:
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while file.read(1 << 22):
                pass


def converted(checkpoints: list[Path], donor: Path | str, out: Path, *options: str, **environment: str) -> dict:
    argv = (sys.executable, ROOT / "convert.py", *checkpoints, "--pooler-from", donor, "-o", out, "-q", *options)
    return in_fresh_process(*argv, **environment)


def usual(checkpoints: list[Path], donor: Path, out: Path) -> dict:
    return in_fresh_process(sys.executable, "-c", USUAL, *checkpoints, donor, out)


def copied(call: Callable) -> dict[str, float]:
    """The seconds of a copy in this process, and the part of them that waits for the disk."""
    fsync, waited = os.fsync, []

    def timed(descriptor: int) -> None:
        began = time.perf_counter()
        fsync(descriptor)
        waited.append(time.perf_counter() - began)

    os.sync()
    began = time.perf_counter()
    with unittest.mock.patch("os.fsync", timed):
        call()
    return {"copy": time.perf_counter() - began - sum(waited), "fsync": sum(waited)}


def in_rounds(
    ways: dict[str, Callable[[], dict]], inputs: list[Path], out: Path, rounds: int, warm_rounds: int = 0, order=None
) -> dict[str, dict[str, list[float]]]:
    """Runs all ways in each round, in an order that is reversed for the next, with `inputs` in the page cache.

    Args:
        ways: Each returns its figures, and may write `out`, which is removed.
        warm_rounds: Rounds before, which are discarded.
    """
    order, runs = list(order or ways), {name: {} for name in ways}
    for number in range(-warm_rounds, rounds):
        for name in order:
            for folder in inputs:
                warm(folder)
            found = ways[name]()
            if out.is_dir():
                shutil.rmtree(out)
            out.unlink(missing_ok=True)
            for key in ("seconds", "cpu", "peak", "copy", "fsync"):
                if key in found and number >= 0:
                    runs[name].setdefault(key, []).append(round(found[key], 4))
        order.reverse()
    return runs


@contextlib.contextmanager
def folders(shape: dict, shards: int = 1) -> Iterator[tuple[Path, Path, Path, int]]:
    """A checkpoint without a pooler, its donor, a place for the output; and the checkpoint's size in bytes."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as place:
        lost, donor, out = (Path(place, name) for name in ("lost", "donor", "out"))
        write_checkpoint(donor, shape, pooler=True)
        yield lost, donor, out, write_checkpoint(lost, shape, shards)


def several(shape: dict, rounds: dict[int, int]) -> dict:
    """Converts several checkpoints in one call, verified, and the usual way in one process, in turns.

    Args:
        rounds: How often, by the number of checkpoints. They are links to one file, so that the disk holds it once.

    Returns:
        A checkpoint's size in bytes; by number and way: seconds, CPU seconds, peak bytes of the largest process.
    """
    with folders(shape) as (lost, donor, out, size):
        checkpoints = [lost, *(lost.with_name(f"lost-{number}") for number in range(1, max(rounds)))]
        for checkpoint in checkpoints[1:]:
            shutil.copytree(lost, checkpoint, copy_function=os.link)
        runs = {}
        for count, times in rounds.items():
            work = checkpoints[:count], donor, out
            ways = {"convert": functools.partial(converted, *work), "usual": functools.partial(usual, *work)}
            runs[str(count)] = in_rounds(ways, [lost, donor], out, times)
    return {"bytes": size, "runs": runs}


def comparison(shape: dict, rounds: int, warm_rounds: int = 1) -> dict:
    """Measures all ways, interleaved, `rounds` times after `warm_rounds` that are discarded.

    Returns:
        The checkpoint's size in bytes; seconds, CPU seconds and peak bytes of "no_verify" and "usual"; the seconds of
        the converter's copy and of "cp", without waiting for the disk ("copy") and waiting ("fsync").
    """

    def ours() -> None:
        with flushed(out) as file:
            write_safetensors(file, read_header(Folder(lost), "model.safetensors")[0])

    def theirs() -> None:
        subprocess.run(["cp", lost / "model.safetensors", out], check=True)
        with out.open("rb") as file:
            os.fsync(file.fileno())

    with folders(shape) as (lost, donor, out, size):
        ways = {
            "no_verify": lambda: converted([lost], donor, out, "--no-verify"),
            "usual": lambda: usual([lost], donor, out),
            "copy": lambda: copied(ours),
            "cp": lambda: copied(theirs),
        }
        # The short ones run more often because their times vary more.
        order = ["usual", "no_verify", *3 * ["copy", "cp"]]
        return {"bytes": size, "runs": in_rounds(ways, [lost, donor], out, rounds, warm_rounds, order)}


def one_size(shape: dict, shards: int) -> dict:
    """Converts one checkpoint: bytes, number of files, seconds, and bytes of peak memory."""
    with folders(shape, shards) as (lost, donor, out, size):
        found = converted([lost], donor, out, "--no-verify")
        written = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    if written <= size:
        raise RuntimeError(f"{written} bytes written of a checkpoint of {size}: it is incomplete")
    return {"bytes": size, "files": shards, "seconds": round(found["seconds"], 3), "peak": found["peak"]}


def hub_donor(shape: dict) -> dict:
    """Converts with a donor on a Hub: the bytes that the Hub sent, and the size of the donor's weights."""
    with folders(shape) as (lost, donor, out, _), HubServer() as hub:
        hub.add_repo("user/donor", donor)
        converted([lost], "user/donor", out, "--no-verify", **hub.environment(lost.parent))
        return {"bytes": (donor / "model.safetensors").stat().st_size, "sent": hub.bytes_sent()}


def start(shape: dict, rounds: int) -> dict:
    """What the installed package costs before any work: its command and its import, each in a fresh process, in turns.

    The installed command is compared with `python convert.py` of the checkout, `import bert_pooled_mlm` with
    `import transformers`.
    """
    with folders(shape) as (lost, donor, out, size):
        work = (lost, "--pooler-from", donor, "-o", out, "-q", "--no-verify")
        checkout = (sys.executable, ROOT / "convert.py")
        ways = {
            "installed": (COMMAND, *work),
            "checkout": (*checkout, *work),
            "installed_help": (COMMAND, "--help"),
            "checkout_help": (*checkout, "--help"),
            "import": (sys.executable, "-c", IMPORTED),
            "import_transformers": (sys.executable, "-c", "import transformers"),
        }
        found = Path(in_fresh_process(*ways["import"])["out"].strip())
        if found.resolve() != ROOT:
            raise RuntimeError(f"installed is {found}, not this checkout: run `pip install -e .`")
        calls = {name: functools.partial(in_fresh_process, *argv) for name, argv in ways.items()}
        return {"bytes": size, "runs": in_rounds(calls, [lost, donor], out, rounds, warm_rounds=1)}
