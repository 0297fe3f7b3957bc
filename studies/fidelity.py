# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Measures how well anchored training preserves the heads of a donor's pooled output, and what it costs.

The donor is trained on next-sentence prediction. Its encoder is trained further with masked-language modelling (MLM):
plain, with anchors, and with other methods against forgetting. The heads of the donor's pooled output are then
evaluated on the adapted encoder, with the pooler unchanged (grafted) and refitted (calibrated). Weights and text are
those of studies/calibration.py. Produces a figure, the record and tables of docs/fidelity.md.

    python studies/fidelity.py train --work-dir DIR     # resumes where it stopped; `--runs N`: only the first N,
                                                        # `--missing`: only those that the record lacks
    python studies/fidelity.py time --work-dir DIR      # the time of a step; a few minutes, on idle cores
    python studies/fidelity.py measure --work-dir DIR   # the record, the figure, the tables of the page
    python studies/fidelity.py show                     # the tables of the record

On two cores without bfloat16 a step takes 1.3 seconds of one core, and all runs together about four hours of both.
"""

import dataclasses
import functools
import math
import multiprocessing
import random
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import documents
import records
import torch
from bert_pooled_mlm import AnchoredDataset, AnchoringCollator, BertPooledMLMForMaskedLM, anchor_rows
from corpus import blocks_of, read_texts, topic_task
from heads import TASKS, FrozenHeads, States, calibrate, train_donor
from measuring import cpu_name, in_turns, ratio
from probes import by_fold, right_by_fold
from training import LAST, masked, mean_of_last, quiet, train
from transformers import DataCollatorForLanguageModeling

OPTIONS = {"nsp_steps": 360, "nsp_lr": 1e-4, "head_steps": 500, "head_lr": 1e-3, "batch_size": 16, "length": 64}
OPTIONS |= {"held_out_pairs": 1500, "calibration_texts": 1000, "anchors": 2000, "held_out_blocks": 400, "seed": 0}
QUICK = {"nsp_steps": 2, "head_steps": 2, "held_out_pairs": 100, "calibration_texts": 200, "anchors": 20}
QUICK |= {"held_out_blocks": 8}
STEPS = (100, 300, 1000)
SHARE_OF_DONOR = 0.5  # in the weight average with the initial model (WiSE-FT: Wortsman et al. 2022)
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "exclude_modules": r".*(pooler|cls).*"}


@dataclasses.dataclass(frozen=True)
class Run:
    """One continued pre-training.

    Attributes:
        texts: Anchors in a batch in addition to the blocks, on average.
        weight: `config.pooler_loss_weight`.
        kind: Of the anchors: pairs, singles or both.
        head: The initial MLM head: trained before on the frozen donor, or new.
        lora: Train only adapters (Hu et al. 2022).
    """

    texts: int = 0
    weight: float = 0.1
    lr: float = 1e-4
    steps: tuple[int, ...] = STEPS
    seed: int = 1
    kind: str = "both"
    head: str = "trained"
    lora: bool = False

    @property
    def name(self) -> str:
        how = f"anchors-{self.texts}-{self.weight:g}-{self.kind}" if self.texts else "lora" if self.lora else "plain"
        return f"{how}-{self.lr:.0e}-{self.head}-seed{self.seed}"


PLAIN, ANCHORED, SHORT = Run(), Run(texts=4), STEPS[:2]
RUNS = [  # in order; a run that is listed twice resumes
    PLAIN,
    ANCHORED,
    Run(texts=4, weight=0.03),
    Run(texts=2, steps=SHORT),
    Run(head="new", steps=SHORT),
    Run(texts=4, head="new", steps=SHORT),
    Run(seed=2, steps=SHORT),
    Run(texts=4, seed=2, steps=SHORT),
    Run(lr=5e-5, steps=SHORT),
    Run(texts=4, lr=5e-5, steps=SHORT),
    Run(lora=True, lr=5e-4, steps=SHORT),
    Run(texts=4, kind="singles", steps=SHORT),
    Run(texts=4, kind="pairs", steps=SHORT),
    Run(texts=2),
    Run(seed=2),
    Run(texts=4, seed=2),
    Run(texts=4, weight=1.0, steps=SHORT),
    Run(lr=5e-5),
    Run(texts=4, lr=5e-5),
    Run(lora=True, lr=5e-4),
    Run(texts=4, weight=0.03, seed=2),
    Run(texts=2, seed=2),
    Run(lr=5e-5, seed=2),
    Run(texts=4, lr=5e-5, seed=2),
    Run(head="new", seed=2, steps=SHORT),
    Run(texts=4, head="new", seed=2, steps=SHORT),
]


class Material:
    """The texts of a work folder for training and for evaluation."""

    def __init__(self, work_dir: Path, options: dict):
        texts, draw = records.read_json(work_dir / "texts.json"), random.Random(1)
        singles = [paragraph for document in texts["train"].values() for paragraph in document]
        pairs = [tuple(pair[:2]) for pair in texts["train_pairs"]]
        draw.shuffle(singles)
        draw.shuffle(pairs)
        classes, topic = topic_task(texts["held_out"])
        half, cut = options["anchors"] // 2, options["calibration_texts"] // 2
        kinds = {"pairs": pairs, "singles": singles}
        self.anchors = {kind: each[: 2 * half] for kind, each in kinds.items()}
        self.anchors["both"] = [text for each in kinds.values() for text in each[:half]]
        nsp = texts["held_out_pairs"]
        sets = {"nsp": nsp, "topic": [paragraph for paragraph, _ in topic]}
        sets |= {kind: each[2 * half : 2 * half + cut] for kind, each in kinds.items()}  # not anchors
        labels = {"nsp": [pair[2] for pair in nsp], "topic": [label for _, label in topic]}
        self.states = States(work_dir, sets, labels, options["length"])
        self.states.record["topic"]["classes"] = classes
        self.tokenizer, self.options, length = self.states.tokenizer, options, options["length"]
        self.blocks = blocks_of(texts["train"], self.tokenizer, length)
        held_out, dice = blocks_of(texts["held_out"], self.tokenizer, length), torch.Generator().manual_seed(0)
        self.held_out = next(masked(held_out, self.tokenizer, options["held_out_blocks"], dice))

    def batches(self, run: Run, donor) -> Iterator[tuple[dict, torch.Tensor]]:
        """Endless batches, as `Trainer` makes them with the dataset and collator of the package."""
        rows, size = [{"input_ids": block.tolist()} for block in self.blocks], self.options["batch_size"]
        collator = DataCollatorForLanguageModeling(self.tokenizer)
        if run.texts:
            size += run.texts
            anchors = anchor_rows(donor, self.tokenizer, self.anchors[run.kind], max_length=self.options["length"])
            for anchor in anchors:  # the record is of distances in units of each target's squared length
                del anchor["pooler_target_variance"]
            rows, collator = AnchoredDataset(rows, anchors, run.texts / size), AnchoringCollator(collator)
        shuffle = {"shuffle": True, "generator": torch.Generator().manual_seed(run.seed), "drop_last": True}
        loader = torch.utils.data.DataLoader(rows, size, collate_fn=collator, **shuffle)
        while True:
            for batch in loader:
                yield batch, batch.pop("labels")

    @torch.no_grad()
    def loss(self, model) -> float:
        """Held-out MLM loss in nats per masked token, on the same blocks and masks each time."""
        ids, labels = self.held_out[0]["input_ids"], self.held_out[1]
        total = 0.0
        for part, of in zip(ids.split(32), labels.split(32), strict=True):
            loss = model.eval()(input_ids=part, labels=of, return_logits=False).loss
            total += loss.item() * (of != -100).sum().item()
        return total / (labels != -100).sum().item()


def loss_of(model, inputs, labels):
    return model(**inputs, labels=labels).loss


def train_head(work_dir: Path, options: dict) -> dict:
    """Trains a new MLM head on the frozen donor, so that continued pre-training starts as that of a published BERT."""
    material = Material(work_dir, options)
    torch.manual_seed(options["seed"])
    model = BertPooledMLMForMaskedLM.from_pretrained(work_dir / "donor", sparse_prediction=True)
    model.bert.requires_grad_(False)
    record = {"before": material.loss(model)}

    def reached(step, losses):
        record["loss"] = mean_of_last(losses, LAST)

    batches, steps = material.batches(Run(), None), [options["head_steps"]]
    train("MLM head", model, batches, loss_of, options["head_lr"], options["seed"], steps, reached)
    model.bert.requires_grad_(True)
    model.save_pretrained(work_dir / "head")
    return record | {"after": material.loss(model)}


def train_run(work_dir: Path, options: dict, run: Run) -> None:
    """Executes one run in its own process; writes its checkpoints, cached states and losses."""
    losses_file = work_dir / "runs" / f"{run.name}.json"
    record = records.read_json(losses_file) if losses_file.exists() else {"held_out": {}, "train": {}}
    if record["held_out"].keys() >= set(map(str, run.steps)):
        return
    quiet(threads=1)
    material = Material(work_dir, options)
    torch.manual_seed(options["seed"])  # for a new MLM head
    start = work_dir / ("head" if run.head == "trained" else "donor")
    fields = {"sparse_prediction": True, "pooler_loss_weight": run.weight}
    model = whole = BertPooledMLMForMaskedLM.from_pretrained(start, **fields)
    if run.lora:
        import peft

        whole = peft.get_peft_model(model, peft.LoraConfig(**LORA))

    def reached(step, losses):
        name = f"{run.name}/step-{step:05}"
        for texts in material.states.sets:
            material.states.get(name, texts, model.bert)
        if not run.lora:
            model.save_pretrained(work_dir / name)
        record["held_out"][str(step)], record["train"][str(step)] = material.loss(model), mean_of_last(losses, LAST)
        records.write_json(losses_file, record)

    batches, keep = material.batches(run, work_dir / "donor"), losses_file.with_suffix(".pt")
    train(run.name, whole, batches, loss_of, run.lr, run.seed, list(run.steps), reached, keep=keep)
    if run.steps[-1] == STEPS[-1]:
        keep.unlink(missing_ok=True)


def stage_train(args) -> None:
    """Trains the donor and its MLM head, then two runs at a time, one thread each; skips finished runs."""
    args.work_dir.mkdir(parents=True, exist_ok=True)
    options = OPTIONS | (QUICK if args.quick else {})
    stamp = args.work_dir / "start.json"
    if not stamp.exists():
        records.write_json(args.work_dir / "texts.json", read_texts(options))
        texts = records.read_json(args.work_dir / "texts.json")
        donor = train_donor(args, options, texts, bfloat16=False)
        records.write_json(stamp, {"options": options, "donor": donor, "head": train_head(args.work_dir, options)})
    options = records.read_json(stamp)["options"]
    runs = [dataclasses.replace(run, steps=(1, 2)) if args.quick else run for run in RUNS[: args.runs]]
    if args.missing:
        recorded = records.read_json(args.output_dir / "fidelity.json")["runs"]
        runs = [run for run in runs if run.name not in recorded or run.steps[-1] > recorded[run.name]["steps"][-1]]
    material = Material(args.work_dir, options)
    for texts in material.states.sets:
        material.states.get("donor", texts)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for job in [pool.submit(train_run, args.work_dir, options, run) for run in runs]:
            job.result()


def stage_time(args) -> None:
    """Measures the seconds of a training step, plain and with anchors, interleaved, on two threads."""
    options = records.read_json(args.work_dir / "start.json")["options"]
    material, subjects = Material(args.work_dir, options), {}
    torch.set_num_threads(2)
    for texts in (0, 2, 4):
        run = Run(texts=texts)
        model = BertPooledMLMForMaskedLM.from_pretrained(args.work_dir / "head", sparse_prediction=True).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=run.lr, fused=True)
        subjects[str(texts)] = functools.partial(
            step, model, optimizer, material.batches(run, args.work_dir / "donor")
        )
    seconds = in_turns(subjects, torch.device("cpu"), 0, least=4 if args.quick else 40)
    records.write_json(args.work_dir / "time.json", {"cpu": cpu_name(), "threads": 2, "seconds": seconds})


def step(model, optimizer, batches) -> None:
    inputs, labels = next(batches)
    loss_of(model, inputs, labels).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


# --- Evaluation ------------------------------------------------------------------------------------------------------


def averaged(work_dir: Path, name: str) -> BertPooledMLMForMaskedLM:
    """A checkpoint whose weights are averaged with those of the initial model."""
    model, base = (BertPooledMLMForMaskedLM.from_pretrained(work_dir / each) for each in (name, "head"))
    with torch.no_grad():
        for ours, theirs in zip(model.parameters(), base.parameters(), strict=True):
            ours.lerp_(theirs, SHARE_OF_DONOR)
    return model


def evaluated(heads: FrozenHeads, states: States, name: str) -> dict:
    """Scores the frozen heads on a checkpoint: grafted, and with one pooler calibrated on both kinds of text."""
    count = len(states.sets["pairs"])
    order = torch.arange(2 * count).view(2, count).T.flatten()  # alternate, so that every fold has both kinds
    adapted, donor = (
        torch.cat([states.get(it, kind) for kind in ("pairs", "singles")])[order] for it in (name, "donor")
    )
    pooler, fit = calibrate(adapted, donor, heads.pooler)
    found = {"grafted": heads.pooler, "calibrated": pooler}
    found = {how: heads.score(heads.frozen(name, it)) for how, it in found.items()}
    return found | {"fit": fit, "new_probe": new_probe(heads, states.get(name, "topic"))}


def new_probe(heads: FrozenHeads, features: torch.Tensor) -> dict:
    """Accuracy of a new topic classifier, trained with labels and cross-validated."""
    labels = heads.labels["topic"]
    right = right_by_fold(by_fold(features, labels), features, labels)
    return {"accuracy": right.mean().item(), "se": (right.std() / len(right) ** 0.5).item()}


def evaluated_folder(work_dir: Path) -> tuple[dict, dict]:
    """The settings and donor of a work folder, and the results of its finished runs."""
    start = records.read_json(work_dir / "start.json")
    material = Material(work_dir, start["options"])
    states, heads, runs, averages = material.states, FrozenHeads(material.states, work_dir), {}, {}
    for run in {run.name: run for run in RUNS}.values():
        file = work_dir / "runs" / f"{run.name}.json"
        losses = records.read_json(file) if file.exists() else {"held_out": {}, "train": {}}
        points = {
            at: {"held_out": loss, "train": losses["train"][at]}
            | evaluated(heads, states, f"{run.name}/step-{int(at):05}")
            for at, loss in losses["held_out"].items()
        }
        if points:
            runs[run.name] = dataclasses.asdict(run) | {"steps": [*map(int, points)], "points": points}
    for at in runs[PLAIN.name]["steps"][1:] if PLAIN.name in runs else ():
        name = f"{PLAIN.name}/step-{at:05}"
        model = averaged(work_dir, name)
        for texts in states.sets:
            states.get(f"averaged/{name}", texts, model.bert)
        averages[str(at)] = {"held_out": material.loss(model)} | evaluated(heads, states, f"averaged/{name}")
    last = [f"{it.name}/step-{runs[it.name]['steps'][-1]:05}" for it in (PLAIN, ANCHORED) if it.name in runs]
    probes = {
        name: {how: new_probe(heads, states.get(name, "topic", mean=how == "mean")) for how in ("cls", "mean")}
        for name in ("donor", *last)
    }
    settings = {"versions": records.versions(), "texts": states.record, "donor_heads": heads.score(heads.donor)}
    return start | settings, {"new_probe": probes, "runs": runs, "averaged": averages}


def stage_measure(args) -> None:
    """Evaluates the finished runs; writes the record, the figure and the tables of the page.

    Results in the record from another work folder with the same settings and donor are kept.
    """
    torch.set_num_threads(2)
    file, time = args.output_dir / "fidelity.json", args.work_dir / "time.json"
    record = records.read_json(file) if file.exists() else {}
    settings, found = map(records.six_digits, evaluated_folder(args.work_dir))
    kept = record if settings.items() <= record.items() else {}
    found = {name: kept.get(name, {}) | part for name, part in found.items()}
    times = records.six_digits(records.read_json(time)) if time.exists() or not kept else kept["time"]
    records.publish("fidelity", settings | found | {"time": times}, args.output_dir, draw, tables)


HEADS = ["", "steps", "seeds", "next-sentence head", "kept", "flips", "topic classifier", "kept", "flips"]
HEADS += ["perplexity / plain", "new topic probe"]
TABLES = {  # by name: the reference run for perplexity, and the rows
    "main": (
        PLAIN,
        {
            "plain": PLAIN,
            "4 texts, weight 0.1": ANCHORED,
            "4 texts, weight 0.03": Run(texts=4, weight=0.03),
            "2 texts, weight 0.1": Run(texts=2),
            "half the rate": Run(lr=5e-5),
            "LoRA at 5e-4": Run(lora=True, lr=5e-4),
        },
    ),
    "rate": (Run(lr=5e-5), {"plain": Run(lr=5e-5), "4 texts, weight 0.1": Run(texts=4, lr=5e-5)}),
    "new_head": (Run(head="new"), {"plain": Run(head="new"), "4 texts, weight 0.1": Run(texts=4, head="new")}),
    "kinds": (
        PLAIN,
        {
            "singles and pairs": ANCHORED,
            "singles alone": Run(texts=4, kind="singles"),
            "pairs alone": Run(texts=4, kind="pairs"),
            "both, weight 1": Run(texts=4, weight=1.0),
        },
    ),
}

AIMS = {  # for anchored and calibrated runs at 1e-4, by steps
    at: {
        "next-sentence head, kept": (("nsp", "recovery"), head),
        "topic classifier, kept": (("topic", "recovery"), classifier),
        "next-sentence head, flips": (("nsp", "flips"), flips),
        "topic classifier, flips": (("topic", "flips"), flips),
        "perplexity / plain": ("perplexity", perplexity),
    }
    for at, head, classifier, flips, perplexity in ((300, 0.98, 0.97, 0.05, 1.02), (1000, 0.97, 0.95, 0.07, 1.03))
}


def points_of(result: dict, run: Run, at: int) -> dict[int, dict]:
    """The results of a run at a step, by seed."""
    seeds = {it.seed for it in RUNS}
    runs = {seed: result["runs"].get(dataclasses.replace(run, seed=seed).name) for seed in sorted(seeds)}
    return {seed: it["points"][str(at)] for seed, it in runs.items() if it and str(at) in it["points"]}


def figures(points: list[dict], plain: list[dict]) -> dict:
    """Means over the seeds, by name; for a head by (task, name)."""

    def mean(read) -> float:
        return statistics.mean(map(read, points))

    found = {"probe": mean(lambda it: it["new_probe"]["accuracy"])}
    for task in TASKS:
        found[task, "grafted"] = mean(lambda it: it["grafted"][task]["accuracy"])  # noqa: B023
        for name in ("accuracy", "recovery", "flips"):
            found[task, name] = mean(lambda it: it["calibrated"][task][name])  # noqa: B023
    ratios = [math.exp(it["held_out"] - its["held_out"]) for it, its in zip(points, plain, strict=True)]
    return found | {"perplexity": statistics.mean(ratios)}


def cells(found: dict) -> list[str]:
    row = []
    for task in TASKS:
        row.append(f"{found[task, 'grafted']:.3f} → {found[task, 'accuracy']:.3f}")
        row += [f"{found[task, 'recovery']:.0%}", f"{found[task, 'flips']:.1%}"]
    return [*row, f"{found['perplexity']:.3f}", f"{found['probe']:.3f}"]


def aims(result: dict) -> str:
    """The table of aims, with those that were missed in bold."""
    titles = ["4 texts, weight 0.1", "4 texts, weight 0.03", "2 texts, weight 0.1"]
    lines = []
    for at, aims_there in AIMS.items():
        plain, runs = points_of(result, PLAIN, at), [points_of(result, TABLES["main"][1][it], at) for it in titles]
        found = [points and figures([*points.values()], [plain[seed] for seed in points]) for points in runs]
        for name, (key, aim) in aims_there.items():
            form = "{:.3f}" if key == "perplexity" else "{:.1%}"
            line = [f"{at:,}", name, ("at least " if "recovery" in key else "at most ") + form.format(aim)]
            for it in found:
                missed = it and (it[key] < aim if "recovery" in key else it[key] > aim)
                line.append(("**{}**" if missed else "{}").format(form.format(it[key])) if it else "")
            lines.append(line)
    return documents.markdown_table(["steps", "", "aim", *titles], lines)


def tables(result: dict) -> dict[str, str]:
    """The tables of docs/fidelity.md by name, in Markdown."""
    made = {}
    for name, (reference, named) in TABLES.items():
        lines = []
        for at in STEPS:
            plain = points_of(result, reference, at)
            for title, run in named.items():
                points = points_of(result, run, at)
                if points:
                    line = cells(figures([*points.values()], [plain[seed] for seed in points]))
                    lines.append([title, f"{at:,}", str(len(points)), *line])
            if name == "main" and str(at) in result["averaged"]:
                line = cells(figures([result["averaged"][str(at)]], [plain[PLAIN.seed]]))
                lines.append(["averaged weights", f"{at:,}", "1", *line])
        made[name] = documents.markdown_table(HEADS, lines)
    made["aims"] = aims(result)
    seconds = result["time"]["seconds"]
    lines = [[texts, *(f"{value:.2f}" for value in ratio(seconds[texts], seconds["0"]))] for texts in ("2", "4")]
    made["time"] = documents.markdown_table(["texts in a batch", "time per step / plain", "from", "to"], lines)
    return made


def draw(result: dict, path: Path) -> None:
    """Plots the accuracy of the donor's heads and the perplexity over the steps, plain and anchored."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    # Okabe and Ito's colours, which colour-blind readers tell apart; the markers do in print.
    runs = {"plain": (PLAIN, "#D55E00", "s"), "anchored: 4 texts a batch": (ANCHORED, "#0072B2", "o")}
    titles = {"nsp": "the donor's next-sentence head", "topic": "classifier on pooler_output"}
    steps = [at for at in STEPS if all(points_of(result, run, at) for run, *_ in runs.values())]
    figure, panels = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    for axes, task in zip(panels, TASKS, strict=False):
        own = result["donor_heads"][task]["accuracy"]
        axes.axhline(own, color="black", linestyle="--", linewidth=1.2, label="on the donor itself")
        for label, (run, colour, marker) in runs.items():
            for how, style in (("grafted", ":"), ("calibrated", "-")):
                points = [points_of(result, run, at).values() for at in steps]
                values = [statistics.mean(it[how][task]["accuracy"] for it in point) for point in points]
                axes.plot(steps, values, style, color=colour, marker=marker, label=f"{label}, {how}")
        axes.set(title=titles[task], ylabel="accuracy on held-out texts")
    for label, (run, colour, marker) in runs.items():
        points = [points_of(result, run, at).values() for at in steps]
        values = [math.exp(statistics.mean(it["held_out"] for it in point)) for point in points]
        panels[-1].plot(steps, values, color=colour, marker=marker, label=label)
    panels[-1].set(title="held-out perplexity")
    panels[-1].legend(frameon=False)
    for axes in panels:
        axes.set(xscale="log", xlabel="MLM steps")
        axes.set_xticks(steps, [f"{step:,}" for step in steps])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Heads made for the donor's pooler_output, on the encoder after MLM", fontweight="bold")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv=None):
    options = records.parser("fidelity", __doc__, "train", "time", "measure", "show")
    options.add_argument("--runs", type=int, default=len(RUNS), help="only the first N; default: all %(default)s")
    options.add_argument("--missing", action="store_true", help="only runs that the record lacks or has shorter")
    args = options.parse_args(argv)
    quiet(threads=1)
    if args.stage == "show":
        records.show(tables(records.read_json(args.output_dir / "fidelity.json")))
    else:
        {"train": stage_train, "time": stage_time, "measure": stage_measure}[args.stage](args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
