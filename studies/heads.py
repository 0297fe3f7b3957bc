# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Heads trained on a donor's pooled output, frozen, and evaluated on encoders that were trained further."""

import torch
from bert_pooled_mlm import calibrate_pooler
from corpus import CLASSES, digest
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoTokenizer, BertForNextSentencePrediction, BertModel

TASKS = ("nsp", "topic")


def save(model, tokenizer, folder):
    """Writes to a temporary folder and renames it, so that an existing folder is always complete."""
    part = folder.with_name(folder.name + ".part")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder)


@torch.no_grad()
def encode(model, texts, tokenizer, length, of_batch):
    """`of_batch(model, batch)` for all texts, or tuples that begin with a pair of texts, in their order."""
    columns = [list(texts)] if isinstance(texts[0], str) else [[text[side] for text in texts] for side in (0, 1)]
    encoded, found = tokenizer(*columns, truncation=True, max_length=length), {}
    order = sorted(range(len(texts)), key=lambda row: len(encoded["input_ids"][row]))  # to save padding
    for start in tqdm(range(0, len(order), 32), mininterval=10):
        rows = order[start : start + 32]
        batch = tokenizer.pad({name: [of[row] for row in rows] for name, of in encoded.items()}, return_tensors="pt")
        found |= zip(rows, of_batch(model.eval(), batch), strict=True)
    return torch.stack([found[row] for row in range(len(texts))])


def cls_state(model, batch):
    return model(**batch).last_hidden_state[:, 0]


def token_mean(model, batch):
    mask = batch["attention_mask"].unsqueeze(-1)
    return (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)


class States:
    """The final [CLS] states of each checkpoint on each set of texts, computed once and cached in the work folder.

    Args:
        sets: By name: texts, or tuples that begin with a pair of texts.
        labels: By name of the set, `(texts,)`.
    """

    def __init__(self, work_dir, sets, labels, length):
        self.work_dir, self.sets, self.length = work_dir, sets, length
        self.labels = {name: torch.tensor(each) for name, each in labels.items()}
        self.record = {name: {"count": len(rows), "sha256": digest(rows)} for name, rows in sets.items()}

    def get(self, checkpoint, name, of_batch=cls_state):
        """Float32, `(texts, hidden_size)`; `checkpoint` is a folder in the work folder."""
        kind = "" if of_batch is cls_state else f"_{of_batch.__name__}"
        file = self.work_dir / "cache" / f"{checkpoint.replace('/', '_')}_{name}{kind}.pt"
        if not file.exists():
            model = BertModel.from_pretrained(self.work_dir / checkpoint, add_pooling_layer=False)
            tokenizer = AutoTokenizer.from_pretrained(self.work_dir / "donor")
            file.parent.mkdir(exist_ok=True)
            states = encode(model, self.sets[name], tokenizer, self.length, of_batch)
            torch.save(states, file.with_suffix(".part"))
            file.with_suffix(".part").rename(file)
        return torch.load(file)

    def both_kinds(self):
        """Pairs and single texts, which alternate, so that every fold of a calibration has both."""
        return [text for both in zip(self.sets["pairs"], self.sets["singles"], strict=False) for text in both]

    def calibrated(self, checkpoint, texts):
        """The checkpoint's pooler, calibrated, as (weight, bias), and the report of the fit."""
        adapted, donor = (BertModel.from_pretrained(self.work_dir / name) for name in (checkpoint, "donor"))
        tokenizer = AutoTokenizer.from_pretrained(self.work_dir / "donor")
        texts = [text if isinstance(text, str) else tuple(text[:2]) for text in texts]
        found = calibrate_pooler(adapted, donor, tokenizer, texts, max_length=self.length)
        report = {name: getattr(found, name) for name in ("improved", "penalty", "cosine_before", "cosine_after")}
        return (adapted.pooler.dense.weight.detach(), adapted.pooler.dense.bias.detach()), report


def pooled(states, pooler):
    return torch.tanh(functional.linear(states, *pooler))


def probe(features, labels):
    """Logistic regression on standardised features with a ridge; returns the function from features to classes."""
    features = features.double()
    middle, spread = features.mean(0), features.std(0) + 1e-6
    inputs, classes = (features - middle) / spread, int(labels.max()) + 1
    weight = torch.zeros(classes, inputs.shape[1] + 1, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=60, history_size=20, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = functional.cross_entropy(inputs @ weight[:, :-1].T + weight[:, -1], labels)
        value = value + 0.01 * weight[:, :-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    fitted = weight.detach()
    return lambda new: (((new.double() - middle) / spread) @ fitted[:, :-1].T + fitted[:, -1]).argmax(-1)


def by_fold(features, labels, folds=5):
    """For each fifth of the texts, which they are, and a probe that was trained on the others."""
    parts = [torch.arange(len(labels)) % folds == fold for fold in range(folds)]
    return [(test, probe(features[~test], labels[~test])) for test in parts]


def right_by_fold(probes, features, labels):
    """1 or 0 for each text: whether the probe whose training excluded it is right."""
    right = torch.zeros(len(labels))
    for test, classify in probes:
        right[test] = (classify(features[test]) == labels[test]).float()
    return right


class FrozenHeads:
    """Evaluates the donor's next-sentence head and a topic classifier that was trained on its pooled output."""

    def __init__(self, states, tasks=TASKS):
        donor = BertForNextSentencePrediction.from_pretrained(states.work_dir / "donor").eval()
        dense = donor.bert.pooler.dense
        self.pooler, self.head = (dense.weight.detach(), dense.bias.detach()), donor.cls
        self.states, self.labels, self.tasks = states, states.labels, tasks
        self.classifiers = by_fold(pooled(states.get("donor", "topic"), self.pooler), self.labels["topic"])
        self.donor = self.frozen("donor", self.pooler)

    @torch.no_grad()
    def frozen(self, checkpoint, pooler):
        """1 or 0 for each held-out text, by task: whether the frozen head is right."""
        outputs = {task: pooled(self.states.get(checkpoint, task), pooler) for task in self.tasks}
        right = {"topic": right_by_fold(self.classifiers, outputs["topic"], self.labels["topic"])}
        if "nsp" in self.tasks:
            right["nsp"] = (self.head(outputs["nsp"]).argmax(-1) == self.labels["nsp"]).float()
        return right

    def score(self, right):
        """Accuracy with its standard error, and the retained part of the donor's accuracy above chance (bootstrap).

        `flips` is the fraction of texts that the donor gets right and this model wrong (negative flips: Yan et al.
        2021, arXiv 2105.03048).
        """
        result = {}
        for task in self.tasks:
            values, chance = right[task].double(), 0.5 if task == "nsp" else 1 / CLASSES
            draws = torch.randint(len(values), (1000, len(values)), generator=torch.Generator().manual_seed(0))
            own = self.donor[task].double()
            recovered = (values[draws].mean(1) - chance) / (own[draws].mean(1) - chance)
            result[task] = {
                "accuracy": values.mean().item(),
                "se": (values.std() / len(values) ** 0.5).item(),
                "recovery": ((values.mean() - chance) / (own.mean() - chance)).item(),
                "recovery_se": recovered.std().item(),
                "flips": ((own == 1) & (values == 0)).double().mean().item(),
            }
        return result
