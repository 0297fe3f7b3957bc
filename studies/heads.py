# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Heads trained on a donor's pooled output, and their evaluation on encoders that were trained further.

The donor is trained on next-sentence prediction. Its next-sentence head and a topic classifier on its `pooler_output`
are then frozen and evaluated on other encoders with other poolers.
"""

from types import SimpleNamespace

import torch
from bert_pooled_mlm import calibrate_pooler
from corpus import CLASSES, digest, labelled_pairs, padded, tokenized
from probes import by_fold, probe, right_by_fold
from texts import minilm
from torch.nn import functional
from tqdm import tqdm
from training import LAST, mean_of_last, nsp_loss, train
from transformers import AutoTokenizer, BertForNextSentencePrediction, BertModel

SEEDS = 5  # random poolers
TASKS = ("nsp", "topic")


def save(model, tokenizer, folder):
    """Writes to a temporary folder and renames it, so that an existing folder is always complete."""
    part = folder.with_name(folder.name + ".part")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder)


@torch.no_grad()
def nsp_accuracy(model, pairs, tokenizer, length):
    model.eval()
    encoded, right = tokenized(pairs, tokenizer, length), 0
    order = sorted(range(len(pairs)), key=lambda row: len(encoded["input_ids"][row]))
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        labels = torch.tensor([pairs[row][2] for row in rows])
        right += (model(**padded(encoded, rows, tokenizer)).logits.argmax(-1) == labels).sum().item()
    return right / len(pairs)


def train_donor(args, options, texts, bfloat16=True):
    """Trains the base model on next-sentence prediction; returns the record."""
    base = str(args.model or minilm())
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(args.seed)  # the new next-sentence head
    donor = BertForNextSentencePrediction.from_pretrained(base)
    seed, record = args.seed + 1, {}
    batches = labelled_pairs(texts["train_pairs"], tokenizer, options, torch.Generator().manual_seed(seed))

    def reached(step, losses):
        record[step] = mean_of_last(losses, LAST)

    steps = [options["nsp_steps"]]
    train("donor", donor, batches, nsp_loss, options["nsp_lr"], seed, steps, reached, bfloat16)
    save(donor, tokenizer, args.work_dir / "donor")
    accuracy = nsp_accuracy(donor, texts["held_out_pairs"], tokenizer, options["length"])
    print(f"donor: held-out next-sentence accuracy {accuracy:.4f} on {len(texts['held_out_pairs'])} pairs", flush=True)
    return {"accuracy": accuracy, "loss": record}


class States:
    """The final [CLS] states of each checkpoint on each set of texts, computed once and cached in the work folder.

    Args:
        sets: By name: texts, or tuples that begin with a pair of texts.
        labels: By name of the set, `(texts,)`.
        bfloat16: Whether the encoder runs under autocast.
    """

    def __init__(self, work_dir, sets, labels, length, bfloat16=False):
        self.work_dir, self.sets, self.length, self.bfloat16 = work_dir, sets, length, bfloat16
        self.labels = {name: torch.tensor(each) for name, each in labels.items()}
        self.record = {name: {"count": len(rows), "sha256": digest(rows)} for name, rows in sets.items()}
        self.tokenizer = AutoTokenizer.from_pretrained(work_dir / "donor")

    def get(self, checkpoint, name, model=None, mean=False):
        """Float32, `(texts, hidden_size)`.

        Args:
            checkpoint: A folder in the work folder, or a cache name for `model`.
            model: The encoder, if it is already in memory.
            mean: Return the mean over the tokens instead of [CLS].
        """
        file = self.work_dir / "cache" / f"{checkpoint.replace('/', '_')}_{name}{'_mean' * mean}.pt"
        sha256 = self.record[name]["sha256"]
        if file.exists() and (kept := torch.load(file))["sha256"] == sha256:
            return kept["states"]
        model = model or BertModel.from_pretrained(self.work_dir / checkpoint, add_pooling_layer=False)
        states = self.encode(model.eval(), name, mean)
        file.parent.mkdir(exist_ok=True)
        part = file.with_suffix(".part")
        torch.save({"sha256": sha256, "states": states}, part)
        part.rename(file)
        return states

    @torch.no_grad()
    def encode(self, model, name, mean):
        encoded = tokenized(self.sets[name], self.tokenizer, self.length)
        order = sorted(range(len(self.sets[name])), key=lambda row: len(encoded["input_ids"][row]))
        states = torch.empty(len(order), model.config.hidden_size)
        for start in tqdm(range(0, len(order), 32), desc=name, mininterval=10):
            rows = order[start : start + 32]
            batch = padded(encoded, rows, self.tokenizer)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
                last = model(**batch).last_hidden_state.float()
            read = batch["attention_mask"].unsqueeze(-1)
            states[rows] = (last * read).sum(1) / read.sum(1) if mean else last[:, 0]
        return states


class CachedEncoder(torch.nn.Module):
    """Replaces a BERT in `calibrate_pooler`: text n is the single token n, whose state is the cached one."""

    def __init__(self, states, weight, bias):
        super().__init__()
        self.states, self.base_model, self.device = states, self, torch.device("cpu")
        self.config = SimpleNamespace(max_position_embeddings=512, vocab_size=len(states), type_vocab_size=1)
        self.pooler = torch.nn.Module()
        self.pooler.dense = torch.nn.Linear(*reversed(weight.shape))
        with torch.no_grad():
            self.pooler.dense.weight.copy_(weight)
            self.pooler.dense.bias.copy_(bias)

    def __setattr__(self, name, value):
        # base_model is this module itself: registered as a submodule it would recurse without end
        object.__setattr__(self, name, value) if name == "base_model" else super().__setattr__(name, value)

    def forward(self, input_ids, **_):
        return SimpleNamespace(last_hidden_state=self.states[input_ids])


class IndexTokenizer:
    """Replaces the tokenizer in `calibrate_pooler`: the text "7" is the single token 7."""

    pad_token_id = 0

    def __call__(self, text, **_):
        return {"input_ids": [int(text)]}

    def get_vocab(self):
        return {}


def calibrate(adapted, donor, pooler):
    """Runs `calibrate_pooler` on cached states.

    Returns:
        The calibrated (weight, bias), and the report of the fit.
    """
    model = CachedEncoder(adapted, *pooler)
    texts = [str(n) for n in range(len(adapted))]
    found = calibrate_pooler(model, CachedEncoder(donor, *pooler), IndexTokenizer(), texts)
    report = {name: getattr(found, name) for name in ("improved", "penalty", "cosine_before", "cosine_after")}
    return (model.pooler.dense.weight.detach(), model.pooler.dense.bias.detach()), report


def pooled(states, pooler):
    return torch.tanh(functional.linear(states, *pooler))


class FrozenHeads:
    """Evaluates the donor's next-sentence head and a topic classifier that was trained on its pooled output."""

    def __init__(self, states, work_dir):
        donor = BertForNextSentencePrediction.from_pretrained(work_dir / "donor").eval()
        dense = donor.bert.pooler.dense
        self.pooler, self.head = (dense.weight.detach(), dense.bias.detach()), donor.cls
        self.states = states
        self.labels = states.labels
        self.classifiers = by_fold(pooled(states.get("donor", "topic"), self.pooler), self.labels["topic"])
        self.donor = self.frozen("donor", self.pooler)

    @torch.no_grad()
    def frozen(self, checkpoint, pooler):
        """1 or 0 for each held-out text, by task: whether the frozen head is right."""
        outputs = {task: pooled(self.states.get(checkpoint, task), pooler) for task in TASKS}
        return {
            "nsp": (self.head(outputs["nsp"]).argmax(-1) == self.labels["nsp"]).float(),
            "topic": right_by_fold(self.classifiers, outputs["topic"], self.labels["topic"]),
        }

    def fresh(self, checkpoint, poolers):
        """The same for a new linear probe; for next sentences it is trained on the labels of the calibration pairs.

        Args:
            poolers: By task; None means the raw [CLS] state.
        """

        def features(name, task):
            states = self.states.get(checkpoint, name)
            return states if poolers[task] is None else pooled(states, poolers[task])

        classify, topic = probe(features("pairs", "nsp"), self.labels["pairs"]), features("topic", "topic")
        return {
            "nsp": (classify(features("nsp", "nsp")) == self.labels["nsp"]).float(),
            "topic": right_by_fold(by_fold(topic, self.labels["topic"]), topic, self.labels["topic"]),
        }

    def score(self, right):
        """Accuracy with its standard error, and the retained part of the donor's accuracy above chance (bootstrap).

        `flips` is the fraction of texts that the donor gets right and this model wrong (negative flips: Yan et al.
        2021, arXiv 2105.03048).
        """
        result = {}
        for task in TASKS:
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


def random_poolers(shape):
    """As `BertModel` initialises them: normal with standard deviation 0.02, zero bias."""
    for seed in range(SEEDS):
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        yield 0.02 * noise, torch.zeros(shape[0])
