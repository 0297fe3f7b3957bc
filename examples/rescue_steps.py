# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The six steps of rescue_minilm.py, and what is measured in them."""

import math
import random
import shlex
import shutil
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import torch
import transformers
from common import like_length, with_bar
from rescue_output import print_step
from transformers import TrainingArguments

CONVERT = Path(__file__).resolve().parent.parent / "convert.py"
LOADS = 5
SENTENCE = "An iterator returns its items one at a time."
FROZEN_LAYERS = 3  # the lowest; next-sentence training freezes them and the embeddings, to save time
ANCHOR_SHARE = 0.2  # fraction of the rows of a batch
HELD_OUT_TEXTS = 64  # for the MLM loss
Pair = tuple[str, str, int]  # label 1: the second text does not follow the first


def encoder_of(model):
    return getattr(model, "bert", model)


def same_pooler(model, donor) -> bool:
    """Whether both models have the same pooler, bit for bit."""
    ours, theirs = ([p for name, p in m.named_parameters() if "pooler.dense." in name] for m in (model, donor))
    return len(ours) == len(theirs) == 2 and all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


class Steps:
    """The six steps of the demonstration, and what they share."""

    def __init__(self, base: str, blocks: list[list[str]], pairs: list[Pair], held_out: list[Pair], args):
        self.args, self.base, self.tokenizer = args, base, transformers.AutoTokenizer.from_pretrained(base)
        names = ("donor", "mlm", "mlm-pooled", "mlm-anchored")
        self.donor_dir, self.mlm_dir, self.pooled_dir, self.anchored_dir = folders = [
            args.output_dir / n for n in names
        ]
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        self.pairs, self.held_out = pairs, self.rows(held_out)
        texts = [self.encode(text, length=args.length // 2) for block in blocks for text in block]  # half of a pair
        random.Random(args.seed).shuffle(texts)
        count = min(HELD_OUT_TEXTS, len(texts) // 5)
        self.texts, self.held_out_texts = texts[count:], texts[:count]
        self.pad = transformers.DataCollatorWithPadding(self.tokenizer)
        self.mask = transformers.DataCollatorForLanguageModeling(self.tokenizer)

    def encode(self, *texts: str, length: int) -> dict:
        return self.tokenizer(*texts, truncation=True, max_length=length)

    def rows(self, pairs: list[Pair]) -> list[dict]:
        """Tokenized rows of `pairs`, sorted by length to save padding."""
        rows = [{**self.encode(*texts, length=self.args.length), "labels": label} for *texts, label in pairs]
        return sorted(rows, key=lambda row: len(row["input_ids"]))

    def train(self, model, rows, collator, steps: int, lr: float, folder: Path, size: int | None = None, **more):
        """Trains with the stock Trainer, on the CPU, so that runs are reproducible bit for bit; saves the model."""
        settings = TrainingArguments(
            str(self.args.output_dir), max_steps=steps, per_device_train_batch_size=size or self.args.batch_size,
            learning_rate=lr, warmup_steps=steps // 10, logging_steps=max(1, steps // 20), save_strategy="no",
            report_to="none", disable_tqdm=False, use_cpu=True, dataloader_pin_memory=False, seed=self.args.seed,
            **more,
        )  # fmt: skip
        trainer = transformers.Trainer(model=model, args=settings, train_dataset=rows, data_collator=collator)
        with_bar(trainer).train()
        model.eval().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return model

    # What is measured.

    @torch.no_grad()
    def states(self, model) -> torch.Tensor:
        """The [CLS] states of the held-out pairs, `(pairs, 1, hidden_size)`."""
        batches = (self.pad(self.held_out[start : start + 32]) for start in range(0, len(self.held_out), 32))
        inputs = ({name: value for name, value in batch.items() if name != "labels"} for batch in batches)
        return torch.cat([encoder_of(model)(**batch).last_hidden_state[:, :1] for batch in inputs])

    @torch.no_grad()
    def evaluate(self, model, states: torch.Tensor) -> dict:
        """Accuracy of the donor's next-sentence head, and mean cosine of the pooled vectors with the donor's."""
        vectors, labels = encoder_of(model).pooler(states), torch.tensor([row["labels"] for row in self.held_out])
        cosines = torch.nn.functional.cosine_similarity(vectors, self.donor.bert.pooler(self.donor_states))
        right = (self.donor.cls(vectors).argmax(-1) == labels).double()
        return {"accuracy": right.mean().item(), "cosine": cosines.mean().item()}

    @torch.no_grad()
    def mlm_loss(self, model) -> float:
        transformers.set_seed(self.args.seed)
        size = self.args.batch_size
        batches = [self.mask(self.held_out_texts[at : at + size]) for at in range(0, len(self.held_out_texts), size)]
        return sum(model(**batch).loss.item() for batch in batches) / len(batches)

    @torch.no_grad()
    def compare_loads(self, load) -> tuple[torch.Tensor, dict]:
        """Loads a checkpoint `LOADS` times with different random seeds, as separate processes would.

        Returns:
            The cosines between the `pooler_output`s of `SENTENCE`, `(loads, loads)`, and the figures for the table.
        """
        states, outputs, results = [], [], []
        for number in range(LOADS):
            torch.manual_seed(1000 * (self.args.seed + 1) + number)
            # Show the load report of transformers once, not for each load.
            transformers.logging.set_verbosity(transformers.logging.ERROR if number else transformers.logging.WARNING)
            model = load().eval()
            if number == 0:
                pair_states = self.states(model)  # once: the loads differ in the pooler only
            output = encoder_of(model)(**self.tokenizer(SENTENCE, return_tensors="pt"))
            states.append(output.last_hidden_state[0, 0])
            outputs.append(output.pooler_output[0])
            results.append(self.evaluate(model, pair_states))
            shown = " ".join(f"{value:+.3f}" for value in outputs[-1][:4])
            accuracy = f"next-sentence accuracy {results[-1]['accuracy']:.2f}"
            print(f"   load {number + 1}: pooler_output [{shown} ...]   {accuracy}")
        transformers.logging.set_verbosity_error()
        rows = torch.stack(outputs).double()
        cosines = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1)
        return cosines, {
            "distinct_states": len(torch.unique(torch.stack(states), dim=0)),
            "distinct": len(torch.unique(rows, dim=0)),
            "cosines": [cosines[i, j].item() for i in range(LOADS) for j in range(i)],
            "accuracy": [result["accuracy"] for result in results],
            "donor_cosine": [result["cosine"] for result in results],
            "pooler_equal": same_pooler(model, self.donor),
        }

    # The steps.

    def train_donor(self) -> float:
        args = self.args
        text = f"Next-sentence prediction, as in BERT's own pre-training: {len(self.pairs)} pairs of paragraphs, "
        text += f"{args.nsp_steps} steps; {len(self.held_out)} other pairs are held out. To save time, the embeddings "
        text += f"and the lowest {FROZEN_LAYERS} layers are frozen, and batches hold pairs of similar length."
        print_step(1, "Train a BERT with a useful pooler", text)
        transformers.set_seed(args.seed)
        donor = transformers.BertForNextSentencePrediction.from_pretrained(self.base)
        donor.bert.embeddings.requires_grad_(False)
        donor.bert.encoder.layer[:FROZEN_LAYERS].requires_grad_(False)
        rows = self.rows(self.pairs)
        self.donor = self.train(donor, rows, self.pad, args.nsp_steps, args.lr, self.donor_dir, **like_length())
        self.donor_states = self.states(donor)
        accuracy = self.evaluate(donor, self.donor_states)["accuracy"]
        print(f"   Saved: {self.donor_dir}. Held-out accuracy {accuracy:.2f} (chance: 0.50).")
        return accuracy

    def lose_the_pooler(self) -> dict:
        args = self.args
        text = f"{args.mlm_steps} steps of masked-language modelling on the same text. BertForMaskedLM has no pooler: "
        text += "the donor's is dropped at loading, and the new checkpoint is saved without one. All layers are "
        text += "trained. The MLM head is new, since the donor has none, so the first steps change the encoder a lot."
        print_step(2, "Continue pre-training with stock BertForMaskedLM", text)
        torch.manual_seed(args.seed)
        model = transformers.BertForMaskedLM.from_pretrained(self.donor_dir)
        self.train(model, self.texts, self.mask, args.mlm_steps, args.mlm_lr, self.mlm_dir)
        count = sum("pooler" in name for name in model.state_dict())
        print(f"   Saved: {self.mlm_dir}. Of its {len(model.state_dict())} tensors, {count} belong to a pooler.")
        return {"mlm_loss": self.mlm_loss(model)}

    def show_the_bug(self) -> tuple[torch.Tensor, dict]:
        text = f"BertModel.from_pretrained({str(self.mlm_dir)!r}), {LOADS} times, on the sentence "
        text += f"{SENTENCE!r}, with the donor's next-sentence head on top. The only message of transformers about it:"
        print_step(3, "The bug: each load initialises another random pooler", text)
        cosines, found = self.compare_loads(lambda: transformers.BertModel.from_pretrained(self.mlm_dir))
        print("   cosines between the loads:")
        for row in cosines:
            print("   " + "".join(f"{value:8.3f}" for value in row))
        print("   The head's accuracy on a random pooler can be above, at or below chance.")
        return cosines, found

    def rescue(self) -> int:
        """Runs `convert.py` as a command, and shows its output."""
        text = "convert.py grafts the donor's pooler into the checkpoint and changes nothing else."
        print_step(4, "The rescue", text)
        convert = CONVERT.relative_to(Path.cwd()) if CONVERT.is_relative_to(Path.cwd()) else CONVERT
        command = [str(convert)] if CONVERT.exists() else ["-m", "bert_pooled_mlm.convert"]
        command += [str(self.mlm_dir), "--pooler-from", str(self.donor_dir)]
        print("   $ " + shlex.join(["python", *command]))
        converted = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True)
        print(textwrap.indent(converted.stdout.rstrip(), "   | ", lambda line: True))
        if converted.returncode:
            print(f"rescue_minilm.py: error: convert.py exited with {converted.returncode}", file=sys.stderr)
        return converted.returncode

    def show_the_fix(self) -> tuple[torch.Tensor, dict]:
        text = f"AutoModel.from_pretrained({str(self.pooled_dir)!r}, trust_remote_code=True), {LOADS} times:"
        print_step(5, "The fix: each load has the original pooler", text)
        load = transformers.AutoModel.from_pretrained
        return self.compare_loads(partial(load, self.pooled_dir, trust_remote_code=True))

    def train_anchored(self) -> dict:
        # Imported late: the loads before this must work with the checkpoint's own code alone.
        from bert_pooled_mlm import AnchoredDataset, AnchoringCollator, BertPooledMLMForMaskedLM, anchor_rows

        args, size = self.args, math.ceil(self.args.batch_size / (1 - ANCHOR_SHARE))
        text = "The pooler is the donor's again, but training has changed the encoder below it. This run starts from "
        text += "the donor again, with the same texts and steps, but with BertPooledMLMForMaskedLM, which keeps the "
        text += (
            f"pooler. For every {1 / ANCHOR_SHARE - 1:.0f} masked texts there is one unmasked training pair, whose "
        )
        text += "pooled vector is trained towards the donor's (anchored training)."
        print_step(6, "Anchored training keeps the pooler useful", text)
        pairs = [(first, second) for first, second, _ in self.pairs[: args.mlm_steps * (size - args.batch_size)]]
        anchors = anchor_rows(self.donor, self.tokenizer, pairs, max_length=args.length)
        torch.manual_seed(args.seed)
        model = BertPooledMLMForMaskedLM.from_pretrained(self.donor_dir, sparse_prediction=True)
        data, collator = AnchoredDataset(self.texts, anchors, ANCHOR_SHARE), AnchoringCollator(self.mask)
        self.train(model, data, collator, args.mlm_steps, args.mlm_lr, self.anchored_dir, size)
        found = {"mlm_loss": self.mlm_loss(model), **self.evaluate(model, self.states(model))}
        print(f"   Saved: {self.anchored_dir}. Next-sentence accuracy {found['accuracy']:.2f}.")
        return found | {"pooler_equal": same_pooler(model, self.donor)}
