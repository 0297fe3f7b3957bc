# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Measures whether an index that was made with a donor's pooled vectors still works after MLM training.

Two donors (one whose pooler outputs sentence vectors, one trained on next-sentence prediction) are trained further
with MLM, plain and anchored. Then the donor encodes the first halves of held-out passages, and the adapted model the
second halves, with the pooler unchanged (grafted) and refitted (calibrated).

    python studies/index_fidelity.py all --work-dir DIR    # the record and the tables of docs/fidelity.md
    python studies/index_fidelity.py show                  # the tables of the record

Corpora: "python" is the text of the other studies. "reference" trains on the docstrings of Python and searches its
language reference; "packages" is the docstrings of installed packages. On two cores all takes about eight hours.
The record also has other losses and other fits of the pooler; its `made_by` names the commit that has their code.
"""

import functools
import importlib.util
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import records
import torch
from corpus import docstrings, pairs_of, read_documents, split
from documents import markdown_table
from heads import TASKS, FrozenHeads, calibrate, cls_state, encode, pooled, save, token_mean
from indexes import compared
from measuring import ratio
from pretraining import Run, Work, next_sentence_donor, prepare, quickly, train_runs
from texts import paragraphs
from torch.nn import functional
from training import quiet
from transformers import AutoTokenizer, BertForNextSentencePrediction

OPTIONS = {"pairs": 5000, "singles": 10000, "passages": 1500}
CALIBRATION = 1000  # texts, at every step; after the last one also all
SPREAD = 0.4  # standard deviation of the sentence donor's outputs
PACKAGES = ("networkx", "numpy", "sympy", "torch")
MOST = 16000  # paragraphs of the packages
SHORTEST = 16  # words of a passage that is cut into two halves

# --- Texts and donors ------------------------------------------------------------------------------------------------


def package_docstrings() -> dict[str, list[str]]:
    found = {}
    for name in PACKAGES:
        root = Path(importlib.util.find_spec(name).submodule_search_locations[0])
        found |= {f"{name}/{module}": texts for module, texts in docstrings(root).items()}
    found, kept, count = paragraphs(found), {}, 0
    for name in random.Random(0).sample(sorted(found), len(found)):
        if count < MOST:
            kept[name], count = found[name], count + len(found[name])
    return kept


def parts_of(corpus: str) -> tuple[dict, dict]:
    """Documents to train on, and held out."""
    if corpus == "packages":
        return split(package_docstrings(), random.Random(0))
    documents = read_documents()
    if corpus == "python":
        return split(documents, random.Random(0))
    topics = {name: it for name, it in documents.items() if name.startswith("topic/")}
    return {name: it for name, it in documents.items() if name not in topics}, topics


def halves(paragraph: str) -> tuple[str, str]:
    words = paragraph.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def read_texts(corpus: str, options: dict) -> dict:
    (train, held_out), draw = parts_of(corpus), random.Random(2)
    training, passages = (
        [it for document in part.values() for it in document if len(it.split()) >= SHORTEST]
        for part in (train, held_out)
    )
    draw.shuffle(passages)
    first, second = zip(*map(halves, passages[: options["passages"]]), strict=True)
    return {
        "train": train,
        "held_out": held_out,
        "train_pairs": pairs_of(train, draw),
        "held_out_pairs": pairs_of(held_out, draw)[: options["held_out_pairs"]],
        # An index holds halves of paragraphs, and halves are its queries.
        "singles": [it for document in train.values() for it in document] + [it for p in training for it in halves(p)],
        "passages": first,
        "queries": second,
    }


def sentence_donor(folder: Path, base: str, options: dict, texts: dict) -> dict:
    """Fits a pooler whose output is the base model's mean over the tokens, by ridge regression."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(options["seed"])  # the next-sentence head, which nothing reads
    donor = BertForNextSentencePrediction.from_pretrained(base)
    singles = random.Random(0).sample(texts["singles"], min(len(texts["singles"]), 2 * options["singles"]))
    states, means = (
        encode(donor.bert, singles, tokenizer, options["length"], way).double() for way in (cls_state, token_mean)
    )
    vectors, states = functional.normalize(means, dim=1), functional.pad(states, (0, 1), value=1.0)
    targets = torch.atanh((SPREAD / vectors.std() * vectors).clamp(-0.95, 0.95))
    gram = states.T @ states
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram))
    fitted = torch.linalg.solve(gram + ridge, states.T @ targets).float()
    donor.bert.pooler.dense.load_state_dict({"weight": fitted[:-1].T, "bias": fitted[-1]})
    save(donor, tokenizer, folder / "donor")
    return {"texts": len(singles)}


CORPORA = ("python", "reference", "packages")
DONORS = {"sentence": sentence_donor, "nsp": next_sentence_donor}


def runs_of(corpus: str, donor: str) -> list[Run]:
    kind, seeds = "singles" if donor == "sentence" else "both", (1, 2) if corpus == "python" else (1,)
    return [Run(texts=texts, kind=kind, seed=seed) for seed in seeds for texts in (0, 4)]


def stage_train(args) -> None:
    jobs = []
    for corpus in CORPORA[: 1 if args.quick else None]:
        for donor, make in DONORS.items():
            folder = args.work_dir / f"{corpus}-{donor}"
            prepare(folder, args, OPTIONS, functools.partial(read_texts, corpus), make)
            jobs += [(folder, run) for run in quickly(runs_of(corpus, donor), args.quick)]
    train_runs(jobs)


# --- Evaluation ------------------------------------------------------------------------------------------------------


def score(heads: FrozenHeads, checkpoint: str, pooler) -> dict:
    def vectors(checkpoint, pooler):
        return {name: pooled(heads.states.get(checkpoint, name), pooler).double() for name in ("queries", "passages")}

    found = compared(**vectors(checkpoint, pooler), before=vectors("donor", heads.pooler))
    donor = heads.score(heads.donor)
    for task, row in heads.score(heads.frozen(checkpoint, pooler)).items():
        found[task] = {"accuracy": row["accuracy"], "donor": donor[task]["accuracy"], "kept": row["recovery"]}
    return found


def evaluated(heads: FrozenHeads, checkpoint: str, last: bool) -> dict:
    """Scores of the donor's pooler, and of those calibrated on some texts and, after the last step, on all."""
    both = "nsp" in heads.tasks
    adapted, donor = (
        heads.states.of_both_kinds(it) if both else heads.states.get(it, "singles") for it in (checkpoint, "donor")
    )
    found = {"grafted": score(heads, checkpoint, heads.pooler)}
    for count in (CALIBRATION, len(donor)) if last else (CALIBRATION,):
        found[f"ridge {count}"] = score(heads, checkpoint, calibrate(adapted[:count], donor[:count], heads.pooler)[0])
    return found


def stage_measure(args) -> dict:
    quiet(threads=2)
    record = {"options": OPTIONS | {"calibration": CALIBRATION}, "starts": {}, "runs": {}}
    record["variants"] = [
        {"title": "plain", "run": "plain", "timed": ""},
        {"title": "length², 0.1 (the package's)", "run": "anchors=4", "timed": ""},
    ]
    for folder in sorted(args.work_dir.glob("*-*/")):
        corpus, donor = folder.name.split("-")
        work, name = Work(folder), f"{corpus} {donor}"
        heads = FrozenHeads(work.states, TASKS if donor == "nsp" else ("topic",))
        record["starts"][name] = records.read_json(folder / "start.json")
        for run, losses in work.results(runs_of(corpus, donor)).items():
            last = max(map(int, losses["held_out"]))
            points = {
                at: {"held_out": loss} | evaluated(heads, f"{run.name}/step-{int(at):05}", int(at) == last)
                for at, loss in losses["held_out"].items()
            }
            how = f"anchors={run.texts}" if run.texts else "plain"
            record["runs"][f"{name} {how} seed={run.seed}"] = {"points": points}
    return record


# --- Tables ----------------------------------------------------------------------------------------------------------

STEPS = ("100", "300", "1000")
NAMES = {"sentence": "sentence", "nsp": "next-sentence"}
METHODS = {  # runs by their settings, as the record names them; the package's are the first two
    "plain": "plain",
    "anchored": "anchors=4",
    "variance 0.3": "anchors=4 weight=0.3 unit=variance",
    "variance 0.3, states 0.1": "anchors=4 weight=0.3 unit=variance tokens=0.1",
    "variance 0.3, states 0.1, search 0.3": "anchors=4 weight=0.3 unit=variance search=0.3 tokens=0.1",
}
FITS = {
    "ridge": "one penalty (the package's)",
    "by direction": "a penalty for each direction",
    "after tanh": "distances after the tanh",
    "search": "distances after the tanh, and search",
}
AIMS = [  # donor, steps, measure, its key, the aim
    ("sentence", "1000", "own document", "own", 0.98),
    ("sentence", "1000", "neighbours kept", "kept", 0.85),
    ("sentence", "1000", "loss above plain", "loss", 0.04),
    ("nsp", "1000", "next-sentence head, kept", "nsp", 0.99),
    ("nsp", "100", "neighbours kept", "kept", 0.75),
]
HEADS = {"topic": "classifier, kept", "nsp": "next-sentence head, kept"}
Row = dict[str, float]  # the figures of one pooler on one model


def percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def tenths(value: float) -> str:
    return f"{100 * value:.1f}%"


def two_digits(value: float) -> str:
    return f"{value:.2f}"


def signed(value: float) -> str:
    return f"{value:+.3f}" if abs(value) >= 0.0005 else "0.000"


def figures(point: dict, plain: dict, how: str) -> Row:
    """Of a point of the record, with the pooler of `how`; quality relative to the donor's own."""
    scores = point[how]
    found, centred, donor = scores["cosine"], scores["centred"], scores["cosine"]["donor"]
    row = {key: found[key] for key in ("vectors", "kept", "false_positives", "accepted_kept")}
    row |= {"centred": centred["vectors"], "centred_kept": centred["kept"]}
    row |= {"own": found["own"] / donor["own"], "mrr": found["mrr"] / donor["mrr"]}
    row |= {f"{key}_own": found[key]["own"] / donor["own"] for key in ("reembedded", "half")}
    row |= {"true_positives": found["true_positives"] / found["true_positives_donor"]}
    row |= {head: scores[head]["kept"] for head in HEADS if head in scores}
    return row | {"loss": point["held_out"] - plain["held_out"]}


def all_texts(point: dict) -> str:
    """The name of the calibration on the most texts."""
    return [name for name in point if name.startswith("ridge")][-1]


def rows(record: dict, start: str, settings: str, step: str, seeds=(1, 2)) -> dict[str, list[Row]]:
    """Grafted, calibrated on 1,000 texts and (at the last step) on all, one row for each seed that the record has."""
    found = {"grafted": [], "calibrated": [], "all": []}
    for seed in seeds:
        run, plain = (record["runs"].get(f"{start} {it} seed={seed}") for it in (settings, "plain"))
        if run and step in run["points"]:
            point, reference = run["points"][step], plain["points"][step]
            names = {"grafted": "grafted", "calibrated": f"ridge {record['options']['calibration']}"}
            for how, name in (names | {"all": all_texts(point)}).items():
                found[how].append(figures(point, reference, name))
    return found


def mean(rows: list[Row], key: str) -> float:
    return statistics.mean(row[key] for row in rows)


def both(found: dict[str, list[Row]], key: str, show: Callable[[float], str], last: bool = False) -> str:
    return " → ".join(show(mean(found[how], key)) for how in ("grafted", "calibrated", *(["all"] if last else [])))


def kept_table(record: dict, donor: str, corpora: tuple[str, ...], steps: tuple[str, ...]) -> str:
    """Cosines, neighbours, retrieval and heads, grafted → calibrated on 1,000 texts."""
    heads, lines = ["topic", "nsp"] if donor == "nsp" else ["topic"], []
    several = ["corpus"] if len(corpora) > 1 else []
    for corpus, step, title in ((c, s, t) for c in corpora for s in steps for t in METHODS):
        found = rows(record, f"{corpus} {donor}", METHODS[title], step)
        if found["grafted"]:
            line = [corpus for _ in several] + [title, f"{int(step):,}", str(len(found["grafted"]))]
            line += [both(found, key, two_digits) for key in ("vectors", "centred", "kept", "centred_kept")]
            line += [both(found, key, percent) for key in ("own", "mrr", *heads)]
            lines.append([*line, signed(mean(found["grafted"], "loss"))])
    names = [*several, "", "steps", "seeds", "cosine", "centred cosine", "neighbours kept", "by centred cosine"]
    names += ["own document", "MRR", *(HEADS[head] for head in heads), "loss above plain"]
    return markdown_table(names, lines)


def use_table(record: dict) -> str:
    """After the last step: what becomes of an index that is kept, re-embedded or half-migrated, and of a threshold."""
    lines = []
    for donor, title in ((donor, title) for donor in DONORS for title in METHODS):
        found = rows(record, f"python {donor}", METHODS[title], STEPS[-1])
        if found["grafted"]:
            line = [NAMES[donor], title, *(both(found, key, percent) for key in ("own", "half_own", "reembedded_own"))]
            line.append(both(found, "false_positives", tenths))
            lines.append([*line, *(both(found, key, percent) for key in ("true_positives", "accepted_kept"))])
    names = ["donor", "", "donor's index", "half-migrated", "re-embedded"]
    return markdown_table([*names, "false positives", "true positives / donor", "accepted pairs kept"], lines)


def variants_table(record: dict, donor: str) -> str:
    """Every loss after the last step, with the first seed: grafted → calibrated on 1,000 → on all texts."""
    heads, lines = ["topic", "nsp"] if donor == "nsp" else ["topic"], []
    for variant in variants(record, donor):
        found = rows(record, f"python {donor}", variant["run"], STEPS[-1], (1,))
        line = [variant["title"], both(found, "kept", two_digits, True), both(found, "own", percent, True)]
        line += [both(found, head, percent) for head in heads] + [signed(mean(found["grafted"], "loss"))]
        seconds = [it for it in record.get("time", {}).values() if variant["timed"] in it]
        times = [ratio(it[variant["timed"]], it["plain"])[0] for it in seconds]
        lines.append([*line, " / ".join(map(two_digits, times))])
    names = ["", "neighbours kept", "own document", *(HEADS[head] for head in heads)]
    return markdown_table([*names, "loss above plain", "step / plain's"], lines)


def variants(record: dict, donor: str) -> list[dict]:
    runs = {it["run"]: rows(record, f"python {donor}", it["run"], STEPS[-1], (1,)) for it in record["variants"]}
    return [it for it in record["variants"] if runs[it["run"]]["grafted"]]


def fits_table(record: dict) -> str:
    """Other fits of the pooler on the sentence donor, calibrated on 1,000 → on all texts."""
    lines = []
    for title in ("plain", "anchored", "variance 0.3"):
        run = record["runs"].get(f"python sentence {METHODS[title]} seed=1")
        point = run["points"].get(STEPS[-1], {}) if run else {}
        for fit, named in FITS.items():
            found = [figures(point, point, name) for name in point if name.startswith(f"{fit} ")]
            shown = {"kept": two_digits, "own": percent, "topic": percent}
            cells = [" → ".join(show(it[key]) for it in found) for key, show in shown.items()]
            lines += [[title, named, *cells]] if found else []
    return markdown_table(["", "fit", "neighbours kept", "own document", "classifier, kept"], lines)


def aims_table(record: dict) -> str:
    """The aims by method, calibrated on 1,000 → on all texts; in bold what was missed."""
    lines, anchored = [], [title for title in METHODS if title != "plain"]
    for corpus, (donor, step, name, key, aim) in ((corpus, aim) for corpus in CORPORA for aim in AIMS):
        show = {"kept": two_digits, "loss": signed}.get(key, tenths)
        bound = f"{'at most' if key == 'loss' else 'at least'} {show(aim)}"
        line = [corpus, NAMES[donor], f"{int(step):,}", name, bound]
        for title in anchored:
            found = rows(record, f"{corpus} {donor}", METHODS[title], step)
            hows = ["calibrated", "all"] if step == STEPS[-1] and key != "loss" else ["calibrated"]
            values = [mean(found[how], key) for how in hows if found[how]]
            missed = [value > aim if key == "loss" else value < aim for value in values]
            shown = [f"**{show(it)}**" if bad else show(it) for it, bad in zip(values, missed, strict=True)]
            line.append(" → ".join(shown))
        lines.append(line)
    return markdown_table(["corpus", "donor", "steps", "", "aim", *anchored], lines)


def donors_table(record: dict) -> str:
    """What the donors themselves find."""
    lines = []
    for corpus, donor in ((corpus, donor) for corpus in CORPORA for donor in DONORS):
        if run := record["runs"].get(f"{corpus} {donor} plain seed=1"):
            scores = list(run["points"].values())[-1]["grafted"]
            values = [scores["cosine"]["donor"][key] for key in ("own", "mrr")]
            values += [scores["cosine"]["true_positives_donor"], *(scores[h]["donor"] for h in HEADS if h in scores)]
            cells = [f"{value:.3f}" for value in values]
            lines.append([corpus, NAMES[donor], *cells, *[""] * (5 - len(cells))])
    names = ["corpus", "donor", "own document among ten", "MRR", "true positives", "classifier", "next-sentence head"]
    return markdown_table(names, lines)


def time_table(record: dict) -> str:
    lines = [
        [blocks, name, *map(two_digits, ratio(each, seconds["plain"]))]
        for blocks, seconds in record.get("time", {}).items()
        for name, each in seconds.items()
        if name != "plain"
    ]
    return markdown_table(["blocks in a batch", "added to 16 blocks", "time per step / plain", "from", "to"], lines)


def tables(record: dict) -> dict[str, str]:
    return {
        "donors": donors_table(record),
        "sentence": kept_table(record, "sentence", ("python",), STEPS),
        "nsp": kept_table(record, "nsp", ("python",), STEPS),
        "use": use_table(record),
        "corpora": kept_table(record, "sentence", ("reference", "packages"), STEPS[-1:]),
        "corpora_nsp": kept_table(record, "nsp", ("reference", "packages"), STEPS[-1:]),
        "aims": aims_table(record),
        "variants": variants_table(record, "sentence"),
        "variants_nsp": variants_table(record, "nsp"),
        "fits": fits_table(record),
        "time": time_table(record),
    }


if __name__ == "__main__":
    records.run("index_fidelity", __doc__, {"train": stage_train, "measure": stage_measure}, tables)
