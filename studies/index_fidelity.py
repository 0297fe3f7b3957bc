# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Measures whether an index that was made with a donor's pooled vectors still works after MLM training.

Two donors (one whose pooler outputs sentence vectors, one trained on next-sentence prediction) are trained further
with MLM, plain and with anchors by two losses. Then the donor encodes the first halves of held-out passages, and the
adapted model the second halves, with the pooler unchanged (grafted) and refitted (calibrated).

    python studies/index_fidelity.py all --work-dir DIR    # the record and the tables of docs/fidelity.md
    python studies/index_fidelity.py show                  # the tables of the record

Corpora: "python" is the text of the other studies. "reference" trains on the docstrings of Python and searches its
language reference; "packages" is the docstrings of installed packages. On two cores all takes about eight hours.
The record also has other losses and other fits of the pooler; its `made_by` names the commit that has their code.
"""

import dataclasses
import functools
import importlib.util
import random
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import records
import torch
from corpus import docstrings, pairs_of, read_documents, split
from heads import TASKS, FrozenHeads, cls_state, encode, pooled, save, token_mean
from index_tables import CORPORA, METHODS, tables
from indexes import compared
from pretraining import Run, Work, next_sentence_donor, prepare, quickly, train_runs
from texts import paragraphs
from torch.nn import functional
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
    found, kept = paragraphs(found), {}
    for name in random.Random(0).sample(sorted(found), len(found)):
        if sum(map(len, kept.values())) < MOST:
            kept[name] = found[name]
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
    parts, draw = parts_of(corpus), random.Random(2)
    training, passages = ([it for document in part.values() for it in document] for part in parts)
    passages = [it for it in passages if len(it.split()) >= SHORTEST]
    draw.shuffle(passages)
    first, second = zip(*map(halves, passages[: options["passages"]]), strict=True)
    return {
        **dict(zip(("train", "held_out"), parts, strict=True)),
        "train_pairs": pairs_of(parts[0], draw),
        "held_out_pairs": pairs_of(parts[1], draw)[: options["held_out_pairs"]],
        # An index holds halves of paragraphs, and halves are its queries.
        "singles": training + [it for p in training if len(p.split()) >= SHORTEST for it in halves(p)],
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


DONORS = {"sentence": sentence_donor, "nsp": next_sentence_donor}


def runs_of(corpus: str, donor: str) -> list[Run]:
    kind, seeds = "singles" if donor == "sentence" else "both", (1, 2) if corpus == "python" else (1,)
    runs = (Run(), Run(texts=4), Run(texts=4, weight=0.3, unit="variance"))  # METHODS
    return [dataclasses.replace(run, kind=kind, seed=seed) for seed in seeds for run in runs]


def settings_of(run: Run) -> str:
    """As the record names them."""
    return "plain" if not run.texts else "anchors=4" if run.unit == "length" else "anchors=4 weight=0.3 unit=variance"


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
    ours, donors = (
        {name: pooled(heads.states.get(it, name), by).double() for name in ("queries", "passages")}
        for it, by in ((checkpoint, pooler), ("donor", heads.pooler))
    )
    found = compared(**ours, before=donors)
    donor = heads.score(heads.donor)
    for task, row in heads.score(heads.frozen(checkpoint, pooler)).items():
        found[task] = {"accuracy": row["accuracy"], "donor": donor[task]["accuracy"], "kept": row["recovery"]}
    return found


def evaluated(heads: FrozenHeads, checkpoint: str, last: bool) -> dict:
    """Scores of the donor's pooler, and of those calibrated on some texts and, after the last step, on all."""
    states = heads.states
    texts = states.both_kinds() if "nsp" in heads.tasks else states.sets["singles"]
    found = {"grafted": score(heads, checkpoint, heads.pooler)}
    for count in (CALIBRATION, len(texts)) if last else (CALIBRATION,):
        found[f"ridge {count}"] = score(heads, checkpoint, states.calibrated(checkpoint, texts[:count])[0])
    return found


def stage_measure(args) -> dict:
    record = {"options": OPTIONS | {"calibration": CALIBRATION}, "starts": {}, "runs": {}}
    record["variants"] = [{"title": title, "run": run, "timed": ""} for title, run in list(METHODS.items())[:3]]
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
            record["runs"][f"{name} {settings_of(run)} seed={run.seed}"] = {"points": points}
    return record


if __name__ == "__main__":
    records.run("index_fidelity", __doc__, {"train": stage_train, "measure": stage_measure}, tables)
