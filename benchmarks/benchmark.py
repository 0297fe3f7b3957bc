# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Speed and memory, each measured next to the usual alternative.

    python benchmarks/benchmark.py            # everything: under 30 minutes on 2 idle cores, 18 GB memory, 11 GB disk
    python benchmarks/benchmark.py --quick    # a smoke test with a small model; under two minutes
    python benchmarks/benchmark.py --show     # the tables of the recorded run
    python benchmarks/benchmark.py --only several,start --merge --update-docs    # measures these parts of it anew

Needs `pip install -c constraints.txt -e ".[bench]"`. Models have bert-base's shape and random weights; nothing is
downloaded; conversions run on the disk of TMPDIR. Writes <device>.json with all raw seconds, and two figures.
"""

import argparse
import dataclasses
import json
import logging
import platform
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import advice
import convert_cost
import documents
import figures
import measuring
import model_cost
import report
import rows
import torch
import transformers
from subjects import BASE, Work

HERE = Path(__file__).resolve().parent
DOCUMENTS = [HERE.parent / "docs" / name for name in ("performance.md", "converter.md", "training.md")]
PARTS = (
    "forward", "vectors", "training", "memory", "loading", "length", "share", "conversion", "several", "start",
    "lengths", "bfloat16", "throughput", "trainer", "onnx", "compile",
)  # fmt: skip
ON_CUDA = tuple(name for name in PARTS if name not in ("loading", "conversion", "several", "start", "onnx"))


@dataclasses.dataclass(frozen=True)
class Preset:
    """The extent of a run. `pace` scales the seconds of each comparison, `least` is its smallest number of rounds."""

    shape_name: str
    shape: dict
    pace: float
    least: int
    rows: int = 8
    length: int = 128
    memory: tuple[int, int] = (32, 512)
    memory_plain: int = 4  # rows on the CPU, 0: left out; bert-base at 32 x 512 without checkpointing takes over 30 GB
    memory_needed: float = 16e9
    lengths: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    shares: tuple[float, ...] = (0.05, 0.15, 1.0)
    conversions: int = 3
    several: tuple[tuple[int, int], ...] = ((1, 3), (2, 2), (4, 2), (8, 3), (16, 1))  # checkpoints of a call, rounds
    large_files: bool = True
    texts: int = 64
    trainer: tuple[int, int] = (40, 2)  # steps, rounds
    backend: str = "inductor"


SMALL = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 1024}
TINY = SMALL | {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 300}
FEW = {"several": ((1, 1), (2, 1), (8, 1)), "conversions": 1, "large_files": False}
PRESETS = {
    "full": Preset("bert-base", BASE, 1, 3),
    "quick": Preset(
        "small", SMALL, 0.02, 2, memory=(4, 256), memory_plain=0, memory_needed=4e9, lengths=(16, 64, 256),
        shares=(0.05, 0.5, 1.0), texts=16, trainer=(8, 1), **FEW,
    ),
    # For the tests of each part.
    "tiny": Preset(
        "tiny", TINY, 0, 1, rows=2, length=16, memory=(2, 16), memory_plain=1, memory_needed=0, lengths=(8, 16),
        shares=(0.1, 1.0), texts=4, trainer=(1, 1), backend="eager", **FEW,
    ),
}  # fmt: skip


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model and few rounds, as a smoke test")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: %(default)s")
    place = "default: benchmarks/results; of --quick: benchmark-quick"
    parser.add_argument("-o", "--output-dir", type=Path, help=place)
    parser.add_argument("--only", help=f"some parts, separated by commas: {','.join(PARTS)}")
    parser.add_argument("--merge", action="store_true", help="with --only: put these parts into the recorded run")
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    parser.add_argument("--show", action="store_true", help="print the tables of an earlier run")
    parser.add_argument("--update-docs", action="store_true", help="write the tables into docs/ (of a full CPU run)")
    parser.add_argument("--preset", choices=PRESETS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.preset = args.preset or ("quick" if args.quick else "full")
    possible = ON_CUDA if args.device == "cuda" else PARTS
    args.parts = [name for name in possible if not args.only or name in args.only.split(",")]
    if args.only and {*args.only.split(",")} - {*args.parts}:
        parser.error(f"--only {args.only}: expected some of {','.join(possible)}")
    if args.merge and not args.only:
        parser.error("--merge needs --only: which parts are measured?")
    recorded = args.preset == "full" and (args.merge or not args.only)
    if args.update_docs and not (recorded and args.device == "cpu"):
        parser.error("--update-docs takes a full run on the CPU, or --merge")
    args.output_dir = args.output_dir or (HERE / "results" if recorded else Path("benchmark-quick"))
    return args


def plan(preset: Preset, args: argparse.Namespace) -> dict[str, Callable[[], dict]]:
    """The measurement of each part, by name.

    The first numbers are seconds for the rounds of a comparison at full pace.
    """
    device, pace, least = torch.device(args.device), preset.pace, preset.least
    work = Work(preset.shape, device, rows=preset.rows, length=preset.length)
    settings = [work]
    if device.type == "cuda":
        settings.append(dataclasses.replace(work, dtype=torch.bfloat16, rows=8 * preset.rows))

    def each(measure, seconds: float) -> Callable[[], dict]:
        return lambda: {str(setting): measure(setting, pace * seconds, least) for setting in settings}

    def memory() -> dict:
        rows, length = preset.memory
        plain = preset.memory_plain if device.type == "cpu" else rows
        sizes = {"checkpointing": rows, "plain": plain, "evaluation": 2 * plain}
        large = {way: dataclasses.replace(settings[-1], rows=n, length=length) for way, n in sizes.items() if n}
        return model_cost.memory(large, preset.memory_needed)

    stored, sizes = convert_cost.FILES[preset.large_files]

    def conversion() -> dict:
        return {
            "compared": convert_cost.comparison(stored, preset.conversions, int(preset.large_files)),
            "growth": [convert_cost.one_size(*size) for size in sizes],
            "hub": convert_cost.hub_donor(stored),
        }

    half, quarter = (dataclasses.replace(work, rows=max(1, work.rows // part)) for part in (2, 4))
    calls = {
        "forward": each(model_cost.forward, 36),
        "vectors": each(model_cost.vectors, 20),
        "training": each(model_cost.training, 66),
        "memory": memory,
        "loading": lambda: model_cost.loading(work, pace * 6, least),
        "length": lambda: model_cost.over_length(quarter, preset.lengths, pace * 6, least),
        "share": lambda: model_cost.over_share(half, preset.shares, pace * 15, least),
        "conversion": conversion,
        "several": lambda: convert_cost.several(stored, dict(preset.several)),
        "start": lambda: convert_cost.start(stored, preset.conversions),
        "lengths": lambda: advice.mixed_lengths(device, preset.texts, pace * 12, least),
        "bfloat16": lambda: advice.bfloat16(work, preset.texts, pace * 10, least),
        "throughput": lambda: advice.throughput(work, preset.texts, pace * 10, least),
        "trainer": lambda: advice.trainer(device, *preset.trainer),
        "onnx": lambda: advice.onnx(work, pace * 3, least),
        "compile": lambda: advice.compiled(work, pace * 3, least, preset.backend),
    }
    return {name: calls[name] for name in args.parts}


def describe(args: argparse.Namespace) -> dict:
    """The device; its `slug` names the files of results."""
    threads = torch.get_num_threads()
    name = measuring.cpu_name() if args.device == "cpu" else torch.cuda.get_device_name()
    slug = f"cpu-{threads}-cores" if args.device == "cpu" else re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return {"type": args.device, "name": name, "slug": slug, "threads": threads}


def versions() -> dict[str, str]:
    packages = ("torch", "transformers", "safetensors", "huggingface_hub", "numpy", "onnxruntime")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}


def measure(args: argparse.Namespace, device: dict) -> dict:
    """Runs the parts in order; prints the seconds of each and whether the machine was otherwise idle.

    Returns:
        The record of the run; `others` is the fraction of the CPU that other programs used.
    """
    preset = PRESETS[args.preset]
    result = {"preset": args.preset, "shape_name": preset.shape_name, "shape": preset.shape, "device": device}
    result |= {"versions": versions(), "seconds": {}, "others": {}, "parts": {}}
    for name, call in plan(preset, args).items():
        print(f"{name:<12}", end="", flush=True)
        result["parts"][name], seconds, others = measuring.watched(call)
        result["seconds"][name], result["others"][name] = round(seconds, 1), others
        busy = f"   other programs took {others:.0%} of the CPU: measure again" if others > measuring.IDLE else ""
        print(f"{seconds:7.1f} s{busy}")
    return result | {"rows": rows.rows(result)}


def merged(earlier: dict, result: dict) -> dict:
    """A recorded run with the parts of a later one; `later` names those of another device or other versions."""
    together = {
        key: {name: (earlier[key] | result[key])[name] for name in PARTS if name in earlier[key] | result[key]}
        for key in ("parts", "seconds", "others")
    }
    later = {name: where for name, where in earlier.get("later", {}).items() if name not in result["parts"]}
    if any(earlier[key] != result[key] for key in ("device", "versions")):
        later |= dict.fromkeys(result["parts"], report.described(result))
    together = earlier | together | {"later": later}
    return together | {"rows": rows.rows(together)}


def main(argv: list[str] | None = None) -> int | str:
    args = parse(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        return "benchmark.py: torch finds no CUDA device"
    transformers.logging.set_verbosity_error()
    logging.getLogger("modeling_bert_pooled_mlm").setLevel(logging.ERROR)  # MiniLM has no MLM head
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(args.threads or measuring.cores())
    device, earlier = describe(args), {}
    path = args.output_dir / f"{device['slug']}.json"
    if args.show or args.merge:
        if not path.is_file():
            return f"benchmark.py: there is no {path}; name its folder by -o, its --device and --threads"
        earlier = json.loads(path.read_text(encoding="utf-8"))
    if args.merge and earlier["preset"] != args.preset:
        return f"benchmark.py: {path} is of the preset {earlier['preset']}, not of {args.preset}"
    if args.preset != "full":
        print("A small model and few rounds: these are not the figures that the documents quote.\n")
    result = earlier if args.show else measure(args, device)
    result = merged(earlier, result) if args.merge else result
    blocks = report.blocks(result)
    if not args.show:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        figures.draw_ratios(path.with_suffix(".png"), result)
        figures.draw_growth(path.with_name(f"{path.stem}-growth.png"), result)
        print(f"\n{path} and its two figures are written; {sum(result['seconds'].values()) / 60:.1f} minutes.")
    for name, text in blocks.items():
        if name not in ("conversion", "trainer"):  # these are in rows, too
            print(f"\n{text}")
    if args.update_docs:
        for document in DOCUMENTS:
            documents.update(document, "benchmark.py", blocks)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
