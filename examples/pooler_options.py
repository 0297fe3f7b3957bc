# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of continue_pretraining.py that use the donor of the pooler: loading, anchors, calibration."""

import argparse
import itertools
import random
from pathlib import Path

from common import need_length
from corpora import Sample
from transformers import AutoTokenizer, PretrainedConfig, TrainerCallback

POOLER = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
CALIBRATION_TEXTS, FEWEST_TEXTS = 2000, 100  # the minimum is that of calibrate_pooler
ANCHOR_TEXTS = 2000  # maximum


def load_model(args: argparse.Namespace, name: str):
    """A stock or pooled model with its pooler, frozen, in float32; code in its folder is not run."""
    from bert_pooled_mlm import BertPooledMLMForMaskedLM

    fields = PretrainedConfig.get_config_dict(name)[0]
    if fields.get("model_type") not in ("bert", "bert_pooled_mlm"):
        raise ValueError(f"{name} is not a BERT: its model_type is {fields.get('model_type')!r}")
    need_length(args.length, name, fields.get("max_position_embeddings", 512))
    options = {"pooler_loss_weight": args.anchor_weight} if args.anchor else {}
    # transformers 5 keeps the dtype of the checkpoint, and AdamW loses small updates in float16 and bfloat16.
    return BertPooledMLMForMaskedLM.from_pretrained(name, **options).float()


def load_tokenizer(name: str):
    tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.mask_token_id is None or len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(f"{name} has no usable tokenizer: {len(tokenizer)} tokens, mask {tokenizer.mask_token!r}")
    return tokenizer


def pooler_texts(args: argparse.Namespace, sample: Sample) -> tuple[list, list]:
    """The texts of the anchors, and the texts to calibrate on: different ones, if there are enough."""
    singles = [text for text, _ in sample]
    if not args.anchor:
        return [], singles
    if args.anchor_texts:
        from bert_pooled_mlm.conversion.texts import read_texts

        chosen = read_texts(args.anchor_texts, ANCHOR_TEXTS + CALIBRATION_TEXTS)
    else:  # single texts and pairs alternate
        pairs = [pair for pair in sample if pair[1]]
        chosen = [text for both in itertools.zip_longest(singles, pairs) for text in both if text]
    enough = (texts for texts in (chosen[ANCHOR_TEXTS:], chosen) if len(texts) >= FEWEST_TEXTS)
    return chosen[:ANCHOR_TEXTS], next(enough, singles)


def donor_of(args: argparse.Namespace, model) -> str:
    """The donor of the anchors' targets. The pooled outputs of a pooled checkpoint differ from its donor's already."""
    if args.anchor_donor or not model.config.pooler_source:
        return args.anchor_donor or args.model
    name = str(model.config.pooler_source.get("donor"))
    sibling = Path(args.model).absolute().parent / name
    if "/" not in name and not sibling.is_dir():
        raise ValueError(
            f"{args.model}: the donor of its pooler, {name}, is not in the same folder; pass --anchor-donor "
            f"(--anchor-donor {args.model} keeps the outputs that the checkpoint has now)"
        )
    return name if "/" in name else str(sibling)


class CalibratePooler(TrainerCallback):
    """Refits the pooler at the end of the training, so that its outputs are close to those before the training.

    Needs no labels. The targets are the outputs of the model that the training started from or, in anchored training,
    of the anchors' donor. The first process does it, since it saves the model. `result` is that of `calibrate_pooler`.
    """

    def __init__(self, args: argparse.Namespace, texts: list[str | tuple[str, str]], tokenizer):
        different = list(dict.fromkeys(texts))
        if len(different) < FEWEST_TEXTS:
            raise ValueError(f"--calibrate: {len(different)} different texts; at least {FEWEST_TEXTS} are needed")
        self.texts = random.Random(args.seed).sample(different, min(len(different), CALIBRATION_TEXTS))
        self.args, self.tokenizer, self.result = args, tokenizer, None

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if not state.is_world_process_zero:
            return
        from bert_pooled_mlm import calibrate_pooler

        donor = donor_of(self.args, model) if self.args.anchor else self.args.model
        start = load_model(self.args, donor).to(model.device)
        sizes = {"max_length": self.args.length, "batch_size": self.args.batch_size}
        self.result = calibrate_pooler(model, start, self.tokenizer, self.texts, **sizes, progress=True)
