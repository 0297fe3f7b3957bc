# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Measures how well anchored training preserves the heads of a donor's pooled output, and what it costs.

The donor is trained on next-sentence prediction, and its encoder further with masked-language modelling (MLM), plain
and with anchors. The heads of the donor's pooled output are then evaluated on the adapted encoder, with the pooler
unchanged (grafted) and refitted (calibrated). Weights and text are those of studies/calibration.py.

    python studies/fidelity.py all --work-dir DIR       # a figure, the record and tables of docs/fidelity.md
    python studies/fidelity.py train --work-dir DIR     # a finished run is not repeated
    python studies/fidelity.py time --work-dir DIR      # the time of a step; a few minutes, on idle cores
    python studies/fidelity.py measure --work-dir DIR   # the record, the figure, the tables of the page
    python studies/fidelity.py show                     # the tables of the record

On two cores without bfloat16 a step takes 1.3 seconds of one core, and all runs together about four hours of both.
The record also has LoRA and averaged weights; its `made_by` names the commit that has their code.
"""

import dataclasses
import functools
import math
import statistics
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import drawing
import records
import torch
from bert_pooled_mlm import BertPooledMLMForMaskedLM
from documents import markdown_table
from heads import TASKS, FrozenHeads, by_fold, cls_state, right_by_fold, token_mean
from measuring import cpu_name, in_turns, ratio
from pretraining import Run, Work, prepare, quickly, train_runs
from training import own_loss

PLAIN, ANCHORED, SHORT = Run(), Run(texts=4), (100, 300)
RUNS = [
    *(Run(texts=texts, seed=seed) for seed in (1, 2) for texts in (0, 4)),
    Run(texts=4, weight=0.03),
    Run(texts=2),
    *(Run(texts=texts, lr=5e-5) for texts in (0, 4)),
    *(Run(texts=texts, lr=5e-5, seed=2, steps=SHORT) for texts in (0, 4)),
    *(Run(texts=texts, head="new", seed=seed, steps=SHORT) for seed in (1, 2) for texts in (0, 4)),
    *(Run(texts=4, kind=kind, steps=SHORT) for kind in ("singles", "pairs")),
    Run(texts=4, weight=1.0, steps=SHORT),
]


def stage_train(args) -> None:
    prepare(args.work_dir, args, {})
    train_runs([(args.work_dir, run) for run in quickly(RUNS, args.quick)])


def stage_time(args) -> None:
    """Measures the seconds of a training step, plain and with anchors, interleaved, on two threads."""
    work, subjects = Work(args.work_dir), {}
    for texts in (0, 2, 4):
        model = BertPooledMLMForMaskedLM.from_pretrained(args.work_dir / "head", sparse_prediction=True).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=PLAIN.lr, fused=True)
        subjects[str(texts)] = functools.partial(step, model, optimizer, work.batches(Run(texts=texts)))
    seconds = in_turns(subjects, torch.device("cpu"), 0, least=1 if args.quick else 40)
    records.write_json(args.work_dir / "time.json", {"cpu": cpu_name(), "threads": 2, "seconds": seconds})


def step(model, optimizer, batches) -> None:
    own_loss(model, *next(batches)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def evaluated(heads: FrozenHeads, name: str) -> dict:
    """Scores the frozen heads on a checkpoint: grafted, and with one pooler calibrated on both kinds of text."""
    pooler, fit = heads.states.calibrated(name, heads.states.both_kinds())
    found = {"grafted": heads.pooler, "calibrated": pooler}
    found = {how: heads.score(heads.frozen(name, it)) for how, it in found.items()}
    return found | {"fit": fit, "new_probe": new_probe(heads, name)}


def new_probe(heads: FrozenHeads, name: str, of_batch=cls_state) -> dict:
    """Accuracy of a new topic classifier, trained with labels and cross-validated."""
    features, labels = heads.states.get(name, "topic", of_batch), heads.labels["topic"]
    right = right_by_fold(by_fold(features, labels), features, labels)
    return {"accuracy": right.mean().item(), "se": (right.std() / len(right) ** 0.5).item()}


def stage_measure(args) -> dict:
    work = Work(args.work_dir)
    heads, runs, last = FrozenHeads(work.states), {}, ["donor"]
    for run, losses in work.results(RUNS).items():
        points = {
            at: {"held_out": loss, "train": losses["train"][at]} | evaluated(heads, f"{run.name}/step-{int(at):05}")
            for at, loss in losses["held_out"].items()
        }
        runs[run.name] = dataclasses.asdict(run) | {"steps": [*map(int, points)], "points": points}
        if run in (PLAIN, ANCHORED):
            last.append(f"{run.name}/step-{max(map(int, points)):05}")
    ways = {"cls": cls_state, "mean": token_mean}
    probes = {name: {how: new_probe(heads, name, way) for how, way in ways.items()} for name in last}
    found = records.read_json(args.work_dir / "start.json") | {"texts": work.states.record}
    found |= {"donor_heads": heads.score(heads.donor), "new_probe": probes, "runs": runs}
    return found | {"time": records.read_json(args.work_dir / "time.json")}


# --- Tables ----------------------------------------------------------------------------------------------------------

HEADS = ["", "steps", "seeds", "next-sentence head", "kept", "flips", "topic classifier", "kept", "flips"]
HEADS += ["perplexity / plain", "new topic probe"]
STEPS = (100, 300, 1000)
MAIN = {  # runs by their names without the seed
    "plain": "plain-1e-04-trained",
    "4 texts, weight 0.1": "anchors-4-0.1-both-1e-04-trained",
    "4 texts, weight 0.03": "anchors-4-0.03-both-1e-04-trained",
    "2 texts, weight 0.1": "anchors-2-0.1-both-1e-04-trained",
    "half the rate": "plain-5e-05-trained",
    "LoRA at 5e-4": "lora-5e-04-trained",
    "averaged weights": "averaged-1e-04-trained",
}
KINDS = {
    "singles and pairs": MAIN["4 texts, weight 0.1"],
    "singles alone": "anchors-4-0.1-singles-1e-04-trained",
    "pairs alone": "anchors-4-0.1-pairs-1e-04-trained",
    "both, weight 1": "anchors-4-1-both-1e-04-trained",
}
RATE = {"plain": "plain-5e-05-trained", "4 texts, weight 0.1": "anchors-4-0.1-both-5e-05-trained"}
NEW_HEAD = {"plain": "plain-1e-04-new", "4 texts, weight 0.1": "anchors-4-0.1-both-1e-04-new"}
TABLES = {  # by name: the rows, and the reference run for perplexity
    "main": (MAIN, MAIN["plain"]),
    "rate": (RATE, RATE["plain"]),
    "new_head": (NEW_HEAD, NEW_HEAD["plain"]),
    "kinds": (KINDS, MAIN["plain"]),
}
LIMITS = {300: (0.98, 0.97, 0.05, 0.05, 1.02), 1000: (0.97, 0.95, 0.07, 0.07, 1.03)}
MEASURES = {
    "next-sentence head, kept": ("nsp", "recovery"),
    "topic classifier, kept": ("topic", "recovery"),
    "next-sentence head, flips": ("nsp", "flips"),
    "topic classifier, flips": ("topic", "flips"),
    "perplexity / plain": "perplexity",
}
# Of anchored and calibrated runs at 1e-4, by steps: the measure and its limit.
AIMS = {
    at: {name: (key, limit) for (name, key), limit in zip(MEASURES.items(), limits, strict=True)}
    for at, limits in LIMITS.items()
}


def points_of(result: dict, run: str, at: int) -> dict[int, dict]:
    """The results of a run at a step, by seed."""
    runs = {seed: result["runs"].get(f"{run}-seed{seed}", {"points": {}}) for seed in (1, 2)}
    return {seed: it["points"][str(at)] for seed, it in runs.items() if str(at) in it["points"]}


def figures(result: dict, run: str, at: int, reference: str) -> dict:
    """Means over the seeds, by name; for a head by (task, name). Empty if there was no such run."""
    points, plain = (points_of(result, it, at) for it in (run, reference))
    if not points:
        return {}

    def mean(read) -> float:
        return statistics.mean(map(read, points.values()))

    found = {"seeds": len(points), "probe": mean(lambda it: it["new_probe"]["accuracy"])}
    for task in TASKS:
        found[task, "grafted"] = mean(lambda it: it["grafted"][task]["accuracy"])  # noqa: B023
        for name in ("accuracy", "recovery", "flips"):
            found[task, name] = mean(lambda it: it["calibrated"][task][name])  # noqa: B023
    ratios = [math.exp(it["held_out"] - plain[seed]["held_out"]) for seed, it in points.items()]
    return found | {"perplexity": statistics.mean(ratios)}


def cells(found: dict) -> list[str]:
    row = [str(found["seeds"])]
    for task in TASKS:
        row.append(f"{found[task, 'grafted']:.3f} → {found[task, 'accuracy']:.3f}")
        row += [f"{found[task, 'recovery']:.0%}", f"{found[task, 'flips']:.1%}"]
    return [*row, f"{found['perplexity']:.3f}", f"{found['probe']:.3f}"]


def aims(result: dict) -> str:
    """The table of aims, with those that were missed in bold."""
    titles, lines = ["4 texts, weight 0.1", "4 texts, weight 0.03", "2 texts, weight 0.1"], []
    for at, aims_there in AIMS.items():
        found = [figures(result, MAIN[title], at, MAIN["plain"]) for title in titles]
        for name, (key, aim) in aims_there.items():
            form = "{:.3f}" if key == "perplexity" else "{:.1%}"
            line = [f"{at:,}", name, ("at least " if "recovery" in key else "at most ") + form.format(aim)]
            for it in found:
                missed = it and (it[key] < aim if "recovery" in key else it[key] > aim)
                line.append(("**{}**" if missed else "{}").format(form.format(it[key])) if it else "")
            lines.append(line)
    return markdown_table(["steps", "", "aim", *titles], lines)


def tables(result: dict) -> dict[str, str]:
    """The tables of docs/fidelity.md by name, in Markdown."""
    made = {}
    for name, (runs, reference) in TABLES.items():
        found = [(title, at, figures(result, run, at, reference)) for at in STEPS for title, run in runs.items()]
        lines = [[title, f"{at:,}", *cells(row)] for title, at, row in found if row]
        made[name] = markdown_table(HEADS, lines)
    seconds = result["time"]["seconds"]
    lines = [[texts, *(f"{value:.2f}" for value in ratio(seconds[texts], seconds["0"]))] for texts in ("2", "4")]
    time = markdown_table(["texts in a batch", "time per step / plain", "from", "to"], lines)
    return made | {"aims": aims(result), "time": time}


def draw(result: dict, path: Path) -> None:
    """Plots the accuracy of the donor's heads and the perplexity over the steps, plain and anchored."""
    runs = {"plain": (MAIN["plain"], drawing.RED, "s")}
    runs["anchored: 4 texts a batch"] = (MAIN["4 texts, weight 0.1"], drawing.BLUE, "o")
    titles = {"nsp": "the donor's next-sentence head", "topic": "classifier on pooler_output"}
    steps = [at for at in STEPS if all(points_of(result, run, at) for run, *_ in runs.values())]
    figure, (panels,) = drawing.panels(1, 3, (12, 4.2))
    for axes, task in zip(panels, TASKS, strict=False):
        own = result["donor_heads"][task]["accuracy"]
        axes.axhline(own, color="black", linestyle="--", linewidth=1.2, label="on the donor itself")
        axes.set(title=titles[task], ylabel="accuracy on held-out texts")
    for label, (run, colour, marker) in runs.items():
        found = [points_of(result, run, at).values() for at in steps]
        for axes, task in zip(panels, TASKS, strict=False):
            for how, style in (("grafted", ":"), ("calibrated", "-")):
                values = [statistics.mean(it[how][task]["accuracy"] for it in points) for points in found]
                axes.plot(steps, values, style, label=f"{label}, {how}", color=colour, marker=marker)
        values = [math.exp(statistics.mean(it["held_out"] for it in points)) for points in found]
        panels[-1].plot(steps, values, "-", label=label, color=colour, marker=marker)
    panels[-1].set(title="held-out perplexity")
    panels[-1].legend(frameon=False)
    for axes in panels:
        axes.set_xlabel("MLM steps")
        drawing.over_steps(axes, steps)
    drawing.save(figure, path, "Heads made for the donor's pooler_output, on the encoder after MLM")


if __name__ == "__main__":
    stages = {"train": stage_train, "time": stage_time, "measure": stage_measure}
    records.run("fidelity", __doc__, stages, tables, draw)
