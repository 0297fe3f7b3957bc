# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What does a conversion cost, against the usual way and against a plain copy?

`convert.py --no-verify` moves bytes from file to file. Measured side by side with (a) the usual way, loading the
checkpoint and the donor with transformers, moving the pooler over and calling `save_pretrained`, and (b) `cp` of the
weights. Each in a fresh process, interleaved, over warm files, after `sync`; medians, with the range in brackets.

    python benchmarks/convert_cost.py               # about 4 minutes, 11 GB of disk
    python benchmarks/convert_cost.py --quick -o x  # small files: does it work at all?
"""

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import huggingface_hub
import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import convert  # noqa: E402

TARGETS = {"time": 0.4, "memory": 0.2, "copy": 1.3, "flat_mb": 20}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SMALL = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
# A child's peak has its parent's memory at the fork in it, so that the one who measures must be small itself.
MEASURE = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
seconds = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"code": done.returncode, "out": done.stdout, "err": done.stderr[-2000:], "seconds": seconds,
                  "cpu": used.ru_utime + used.ru_stime, "peak": peak}))
"""
USUAL = """
import sys
from transformers import BertForMaskedLM, BertModel
checkpoint, donor, out = sys.argv[1:]
model = BertForMaskedLM.from_pretrained(checkpoint)
model.bert.pooler = BertModel.from_pretrained(donor).pooler
model.save_pretrained(out)
"""
# The converter's copying alone, without Python's start; how much of it was waiting for the disk.
COPY = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import convert
fsync, waited = os.fsync, []
def timed(descriptor):
    began = time.perf_counter()
    fsync(descriptor)
    waited.append(time.perf_counter() - began)
os.fsync = timed
tensors = convert.read_header(convert.Folder(Path(sys.argv[2])), "model.safetensors")
began = time.perf_counter()
convert.write_safetensors(Path(sys.argv[3]), tensors)
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
    """A BERT of this shape, seeded; with `sparse`, zeros but for what the converter computes with.

    Returns:
        The size of its tensors in bytes.
    """
    config = {"model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2, **shape}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    tied = convert.TIED.keys()
    shapes = convert.expected_shapes(config)
    shapes = {key: size for key, size in shapes.items() if key not in tied and (pooler or key not in convert.POOLER)}
    block = np.random.default_rng(1).standard_normal(1 << 20).astype("<f4") * 0.02
    numbers = np.random.default_rng(0)
    vital = {key: numbers.standard_normal(math.prod(shapes[key])).astype("<f4") * 0.02
             for key in (convert.lineage_key(config), *convert.POOLER) if key in shapes}  # fmt: skip
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
                    file.seek(4 * count, os.SEEK_CUR)
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


def measured(*argv: str | Path) -> dict:
    """Runs a program in a fresh process: seconds, CPU seconds, peak bytes, what it printed."""
    os.sync()  # what was written before is not written back at this one's expense
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", MEASURE, *map(str, argv)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    if found["code"]:
        raise SystemExit(f"{argv[0]} failed: {found['err']}")
    return found


def warm(folder: Path) -> None:
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while file.read(1 << 22):
                pass


def converted(checkpoint: Path, donor: Path, out: Path) -> dict:
    program = (sys.executable, ROOT / "convert.py", checkpoint, "--pooler-from", donor, "-o", out, "--no-verify", "-q")
    return measured(*program)


def compare(place: Path, shape: dict, rounds: int) -> dict:
    """All ways side by side, `rounds` times after one that does not count."""
    lost, donor, out = place / "lost", place / "donor", place / "out"
    size = write_checkpoint(lost, shape)
    write_checkpoint(donor, shape, pooler=True)
    weights = lost / "model.safetensors"
    ways = {
        "convert": lambda: converted(lost, donor, out),
        "usual": lambda: measured(sys.executable, "-c", USUAL, lost, donor, out),
        "copy": lambda: measured(sys.executable, "-c", COPY, ROOT, lost, out),
        "cp": lambda: measured(sys.executable, "-c", CP, weights, out),
    }
    runs: dict[str, list[dict]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            warm(lost)
            warm(donor)
            found = run()
            if out.is_dir():
                shutil.rmtree(out)
            else:
                out.unlink()
            if number:
                runs[name].append(found)
    inner = {name: [json.loads(run["out"]) for run in runs[name]] for name in ("copy", "cp")}
    records = {
        name: {key: [round(run[key], 4) for run in runs[name]] for key in ("seconds", "cpu", "peak")}
        for name in ("convert", "usual")
    }
    records |= {
        name: {key: [round(run[key], 4) for run in inner[name]] for key in ("copy", "fsync")} for name in inner
    }
    shutil.rmtree(lost)
    shutil.rmtree(donor)
    return {"bytes": size, "runs": records}


def peak_memory(place: Path, shape: dict, shards: int) -> dict:
    lost, donor, out = place / "lost", place / "donor", place / "out"
    size = write_checkpoint(lost, shape, shards, sparse=True)
    write_checkpoint(donor, shape, pooler=True, sparse=True)
    found = converted(lost, donor, out)
    written = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    for folder in (lost, donor, out):
        shutil.rmtree(folder)
    assert written > size
    return {"bytes": size, "shards": shards, "peak": found["peak"], "seconds": round(found["seconds"], 3)}


def spread(values: list[float], unit: float = 1) -> str:
    return f"{statistics.median(values) / unit:8.2f} [{min(values) / unit:.2f} .. {max(values) / unit:.2f}]"


def ratios(runs: dict) -> dict[str, float]:
    """Of medians; the copy without what either side waits for the disk, and with it."""

    def median(way: str, *keys: str) -> float:
        return statistics.median(sum(values) for values in zip(*(runs[way][key] for key in keys), strict=True))

    return {
        "time": median("convert", "seconds") / median("usual", "seconds"),
        "cpu": median("convert", "cpu") / median("usual", "cpu"),
        "memory": median("convert", "peak") / median("usual", "peak"),
        "copy": median("copy", "copy") / median("cp", "copy"),
        "copy_on_disk": median("copy", "copy", "fsync") / median("cp", "copy", "fsync"),
    }


def table(result: dict) -> None:
    runs, found = result["compared"]["runs"], result["ratios"]
    size = result["compared"]["bytes"] / 1e6
    print(f"\n{size:.0f} MB, {len(runs['convert']['seconds'])} rounds\n")
    names = {
        "time": "convert / usual way, time",
        "cpu": "convert / usual way, CPU time",
        "memory": "convert / usual way, peak memory",
        "copy": "its copying / cp, time",
        "copy_on_disk": "its copying / cp, with fsync",
    }
    for key, name in names.items():
        target = f"   (at most {TARGETS[key]})" if key in TARGETS else ""
        print(f"{name:<34} {found[key]:6.2f}{target}")
    print()
    for way in ("convert", "usual"):
        for key, name, unit in (("seconds", "s", 1), ("cpu", "s of CPU", 1), ("peak", "MB", 1e6)):
            print(f"{way:<8} {spread(runs[way][key], unit)} {name}")
    for way in ("copy", "cp"):
        for key in ("copy", "fsync"):
            print(f"{way:<8} {spread(runs[way][key])} s{' of fsync' if key == 'fsync' else ''}")
    print("\nconvert's peak memory")
    for row in result["memory"]:
        print(f"{row['bytes'] / 1e6:8.0f} MB in {row['shards']:2} file(s) {row['peak'] / 1e6:8.1f} MB")
    print(f"{'largest difference':<27} {result['flat_mb']:8.1f} MB   (at most {TARGETS['flat_mb']})")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "convert_cost.json")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work-dir", type=Path, help="a folder on the disk to measure (default: the temporary one)")
    parser.add_argument("--quick", action="store_true", help="small files, one round")
    parser.add_argument("--show", action="store_true", help="print the table of an existing output, measure nothing")
    args = parser.parse_args(argv)
    if args.show:
        table(json.loads(args.output.read_text()))
        return 0
    rows = [(BASE, 1), (LARGE, 1), (LARGE | {"num_hidden_layers": 96}, 8)]
    if args.quick:
        rows = [(SMALL, 1), (SMALL | {"num_hidden_layers": 24}, 1), (SMALL | {"num_hidden_layers": 48}, 4)]
    with tempfile.TemporaryDirectory(dir=args.work_dir, prefix="convert-cost-") as place:
        compared = compare(Path(place), SMALL if args.quick else BASE, 1 if args.quick else args.rounds)
        memory = [peak_memory(Path(place), shape, shards) for shape, shards in rows]
    peaks = [row["peak"] for row in memory]
    result = {
        "quick": args.quick,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "huggingface_hub": huggingface_hub.__version__,
            "numpy": np.__version__,
        },
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "ratios": {name: round(value, 3) for name, value in ratios(compared["runs"]).items()},
        "flat_mb": round((max(peaks) - min(peaks)) / 1e6, 1),
        "compared": compared,
        "memory": memory,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    table(result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
