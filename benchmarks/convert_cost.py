# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The cost of a conversion compared with the usual way and with a plain copy; a part of benchmark.py.

`convert.py` with its verification (of one checkpoint and of several) and with `--no-verify` is compared with (a) the
usual way, which loads the checkpoint and the donor with transformers, moves the pooler and calls `save_pretrained`,
and (b) `cp` of the weights. Each runs in a fresh process, interleaved, with warm files, after `sync`.
"""

import json
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import in_fresh_process
from subjects import BASE, ROOT

sys.path.insert(1, str(ROOT / "tests"))

from bert_pooled_mlm.conversion.bert import POOLER, TIED, expected_shapes, lineage_key
from bert_pooled_mlm.conversion.checkpoint import SAMPLED_ROWS
from hub_server import HubServer

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SMALL = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
# Shapes and numbers of files for the growth of cost with size: 0.2, 0.4, 1.3 and 5 GB.
SIZES = [(BASE | {"num_hidden_layers": 4}, 1), (BASE, 1), (LARGE, 1), (LARGE | {"num_hidden_layers": 96}, 8)]
SMALL_SIZES = [(SMALL, 1), (SMALL | {"num_hidden_layers": 24}, 1), (SMALL | {"num_hidden_layers": 48}, 4)]
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
# The converter's copy without Python's start, and the part of it that waits for the disk.
COPY = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conversion.sources import Folder
from conversion.staging import flushed
from conversion.weights import read_header, write_safetensors
fsync, waited = os.fsync, []
def timed(descriptor):
    began = time.perf_counter()
    fsync(descriptor)
    waited.append(time.perf_counter() - began)
os.fsync = timed
tensors, _ = read_header(Folder(Path(sys.argv[2])), "model.safetensors")
began = time.perf_counter()
with flushed(Path(sys.argv[3])) as file:
    write_safetensors(file, tensors)
seconds = time.perf_counter() - began
print(json.dumps({"copy": seconds - sum(waited), "fsync": sum(waited)}))
"""
CP = """
import json, os, subprocess, sys, time
began = time.perf_counter()
subprocess.run(["cp", *sys.argv[1:]], check=True)
copied = time.perf_counter()
with open(sys.argv[2], "rb") as file:
    os.fsync(file.fileno())
print(json.dumps({"copy": copied - began, "fsync": time.perf_counter() - copied}))
"""


def write_checkpoint(folder: Path, shape: dict, shards: int = 1, pooler: bool = False, sparse: bool = False) -> int:
    """Writes a seeded BERT of this shape; with `sparse`, what the converter only copies is zeros.

    Returns:
        The size of its tensors in bytes.
    """
    config = {"model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2, **shape}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    tied = TIED.keys()
    shapes = expected_shapes(config)
    shapes = {key: size for key, size in shapes.items() if key not in tied and (pooler or key not in POOLER)}
    block = np.random.default_rng(1).standard_normal(1 << 20).astype("<f4") * 0.02
    numbers = np.random.default_rng(0)
    vital = {key: numbers.standard_normal(math.prod(shapes[key])).astype("<f4") * 0.02
             for key in (lineage_key(config), *POOLER) if key in shapes}  # fmt: skip
    names, weight_map, total = list(shapes), {}, 0
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        held = names[number * len(names) // shards : (number + 1) * len(names) // shards]
        header, end = {"__metadata__": {"format": "pt"}}, 0
        for key in held:
            begin, end = end, end + 4 * math.prod(shapes[key])
            header[key] = {"dtype": "F32", "shape": shapes[key], "data_offsets": [begin, end]}
            weight_map[key] = name
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for key in held:
                count = math.prod(shapes[key])
                values = vital.get(key)
                if values is None and sparse:
                    head = block[: min(count, SAMPLED_ROWS * shapes[key][-1])]
                    file.write(head.tobytes())
                    file.seek(4 * (count - len(head)), os.SEEK_CUR)
                    continue
                for start in range(0, count, len(block)):
                    piece = block[: count - start] if values is None else values[start : start + len(block)]
                    file.write(piece.tobytes())
            file.truncate(8 + len(text) + end)
        total += end
    if shards > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
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


def several(shape: dict, rounds: dict[int, int], disk: Path | None = None) -> dict:
    """Converts several checkpoints in one call, verified, and the usual way in one process, in turns.

    Args:
        rounds: How often, by the number of checkpoints. They are links to one file, so that the disk holds it once.

    Returns:
        A checkpoint's size in bytes; by number and way: seconds, CPU seconds, peak bytes of the largest process.
    """
    with tempfile.TemporaryDirectory(dir=disk, prefix="benchmark-") as place:
        donor, out = Path(place, "donor"), Path(place, "out")
        checkpoints = [Path(place, f"checkpoint-{500 * (number + 1)}") for number in range(max(rounds))]
        size = write_checkpoint(checkpoints[0], shape)
        write_checkpoint(donor, shape, pooler=True)
        for checkpoint in checkpoints[1:]:
            shutil.copytree(checkpoints[0], checkpoint, copy_function=os.link)
        runs: dict[str, dict] = {}
        for count, times in rounds.items():
            pairs = [("convert", converted), ("usual", usual)]
            records = runs[str(count)] = {name: {"seconds": [], "cpu": [], "peak": []} for name, _ in pairs}
            for _ in range(times):
                for name, way in pairs:
                    warm(checkpoints[0])
                    warm(donor)
                    found = way(checkpoints[:count], donor, out)
                    shutil.rmtree(out)
                    for key, values in records[name].items():
                        values.append(round(found[key], 4))
                pairs.reverse()
    return {"bytes": size, "runs": runs}


def comparison(shape: dict, rounds: int, warm_rounds: int = 1, disk: Path | None = None) -> dict:
    """Measures all ways, interleaved, `rounds` times after `warm_rounds` that are discarded.

    Args:
        disk: A folder on the disk to measure; default: the temporary one.

    Returns:
        The checkpoint's size in bytes; seconds, CPU seconds and peak bytes of "no_verify" and "usual"; the seconds of
        the converter's copy and of "cp", without waiting for the disk ("copy") and waiting ("fsync").
    """
    with tempfile.TemporaryDirectory(dir=disk, prefix="benchmark-") as place:
        lost, donor, out = (Path(place, name) for name in ("lost", "donor", "out"))
        size = write_checkpoint(lost, shape)
        write_checkpoint(donor, shape, pooler=True)
        weights = lost / "model.safetensors"
        ways = {
            "no_verify": lambda: converted([lost], donor, out, "--no-verify"),
            "usual": lambda: usual([lost], donor, out),
            "copy": lambda: in_fresh_process(sys.executable, "-c", COPY, ROOT, lost, out),
            "cp": lambda: in_fresh_process(sys.executable, "-c", CP, weights, out),
        }
        # The short ones run more often because their times vary more.
        order = ["usual", "no_verify", *3 * ["copy", "cp"]]
        records: dict[str, dict[str, list[float]]] = {}
        for number in range(-warm_rounds, rounds):
            for name in order:
                warm(lost)
                warm(donor)
                found = ways[name]()
                if out.is_dir():
                    shutil.rmtree(out)
                else:
                    out.unlink()
                if number >= 0:
                    kept = json.loads(found["out"]) if name in ("copy", "cp") else found
                    for key in kept.keys() & {"seconds", "cpu", "peak", "copy", "fsync"}:
                        records.setdefault(name, {}).setdefault(key, []).append(round(kept[key], 4))
            order.reverse()
    return {"bytes": size, "runs": {name: records[name] for name in ways}}


def growth(sizes: list[tuple[dict, int]], disk: Path | None = None) -> list[dict]:
    """Converts one checkpoint of each size: bytes, number of files, seconds, and bytes of peak memory."""
    return [one_size(shape, shards, disk) for shape, shards in sizes]


def one_size(shape: dict, shards: int, disk: Path | None) -> dict:
    with tempfile.TemporaryDirectory(dir=disk, prefix="benchmark-") as place:
        lost, donor, out = (Path(place, name) for name in ("lost", "donor", "out"))
        size = write_checkpoint(lost, shape, shards, sparse=True)
        write_checkpoint(donor, shape, pooler=True, sparse=True)
        found = converted([lost], donor, out, "--no-verify")
        written = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    if written <= size:
        raise RuntimeError(f"{written} bytes written of a checkpoint of {size}: it is incomplete")
    return {"bytes": size, "files": shards, "seconds": round(found["seconds"], 3), "peak": found["peak"]}


def hub_donor(shape: dict, disk: Path | None = None) -> dict:
    """Converts with a donor on a Hub: the bytes that the Hub sent, and the size of the donor's weights."""
    with tempfile.TemporaryDirectory(dir=disk, prefix="benchmark-") as name, HubServer() as hub:
        place = Path(name)
        write_checkpoint(place / "lost", shape, sparse=True)
        size = write_checkpoint(place / "donor", shape, pooler=True, sparse=True)
        hub.add_repo("user/donor", place / "donor")
        converted([place / "lost"], "user/donor", place / "out", "--no-verify", **hub.environment(place))
        return {"bytes": size, "sent": hub.bytes_sent()}
