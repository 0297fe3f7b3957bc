# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Anchored training: keeps what a pooler means while continued pre-training moves the encoder under it.

    anchors = anchor_rows("google-bert/bert-base-uncased", tokenizer, texts)  # once: the donor reads some texts
    dataset = AnchoredDataset(rows, anchors)                                  # among the rows of MLM training
    collator = AnchoringCollator(DataCollatorForLanguageModeling(tokenizer))  # unmasked, beside those that are masked

`Trainer` does the rest: the model's pooled vectors of these texts are held to the donor's, in the same encoder pass as
the MLM loss (Learning without Forgetting: Li & Hoiem 2016, arXiv 1606.09282). Take texts of the kind that the pooler
is going to read: pairs for a head that reads pairs, single texts for one that reads those.
"""

import math
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.functional import pad
from tqdm import tqdm

if __package__:
    from .modeling_bert_pooled_mlm import BertPooledMLMModel
else:  # from a checkout's root
    from modeling_bert_pooled_mlm import BertPooledMLMModel

__all__ = ["AnchoredDataset", "AnchoringCollator", "anchor_rows"]

TARGETS = "pooler_targets"
# Where the attention mask is 0, any id does.
PADDING = {"input_ids": 0, "token_type_ids": 0, "attention_mask": 0, "labels": -100}
UNSAID = {"token_type_ids": 0, "attention_mask": 1, "labels": -100}  # what a model takes where a collator gives none
UNREAD = -100.0  # fills the targets of rows that have none


def anchor_rows(
    donor: str | os.PathLike | torch.nn.Module,
    tokenizer,
    texts: Sequence[str | tuple[str, str]],
    *,
    max_length: int = 128,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> list[dict]:
    """What the donor's pooler says of some texts, to train by. It reads each of them once.

    Args:
        donor: The BERT whose pooler is to keep its meaning: a folder, a Hub id or a model.
        tokenizer: The one that the model is trained with.
        texts: Single texts, or pairs.
        max_length: Tokens of a text at most, and no more than the donor reads.
        batch_size: Texts that are read at once.
        device: Where; a model is moved there. Default: where the model is; of a name, a GPU where there is one.
        progress: Show a bar on stderr.

    Returns:
        A row for each text: `input_ids`, `token_type_ids`, `attention_mask`, and `pooler_targets`, the donor's pooled
        vector: `(hidden_size,)`, float32.

    Raises:
        ValueError: There is no text, or the donor has no pooler, or it does not know the tokenizer's tokens.
    """
    if not len(texts):
        raise ValueError("anchor_rows() got no texts: what the pooler says of them is what would be kept")
    encoder = _encoder_of(donor, device)
    cut = {"truncation": True, "max_length": min(max_length, encoder.config.max_position_embeddings)}
    known, rows = encoder.config.vocab_size, []
    for text in texts:
        parts = (text,) if isinstance(text, str) else text
        encoded = tokenizer(*parts, **cut, return_token_type_ids=True)
        rows.append({name: list(encoded[name]) for name in ("input_ids", "token_type_ids", "attention_mask")})
        if max(rows[-1]["input_ids"]) >= known:
            raise ValueError(f"the donor has {known} tokens, the tokenizer more; pass the donor's tokenizer")
    by_length = sorted(rows, key=lambda row: len(row["input_ids"]), reverse=True)  # little padding
    was_training = encoder.training
    encoder.eval()
    try:
        for start in tqdm(range(0, len(rows), batch_size), desc="anchors", disable=not progress):
            batch = by_length[start : start + batch_size]
            inputs = {name: _padded(batch, name, len(batch[0]["input_ids"])).to(encoder.device) for name in batch[0]}
            with torch.no_grad():
                pooled = encoder(**inputs).pooler_output.float().cpu().numpy()
            for row, target in zip(batch, pooled, strict=True):
                row[TARGETS] = target
    finally:
        encoder.train(was_training)
    return rows


def _encoder_of(donor: str | os.PathLike | torch.nn.Module, device: str | torch.device | None) -> torch.nn.Module:
    """The donor's encoder, which ends in its pooler, where it is to read."""
    model = donor
    if not isinstance(donor, torch.nn.Module):
        model = BertPooledMLMModel.from_pretrained(donor)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device is not None:
        model.to(device)
    encoder = getattr(model, "bert", model)
    if getattr(encoder, "pooler", None) is None:
        raise ValueError(f"the donor, a {type(model).__name__}, has no pooler; load it with AutoModel")
    return encoder


def _padded(rows: Sequence[dict], name: str, length: int) -> torch.Tensor:
    """`(rows, length)`."""
    padded = torch.full((len(rows), length), PADDING[name])
    for line, row in zip(padded, rows, strict=True):
        values = torch.as_tensor(row.get(name, ()))  # anchor rows have no labels
        line[: len(values)] = values
    return padded


class AnchoredDataset(torch.utils.data.Dataset):
    """MLM rows and anchor rows, spread evenly, in the same order at each run (a sampler may shuffle them).

    Args:
        rows: Of the MLM training: a list, or any map-style data set.
        anchors: What `anchor_rows` gives. As many are taken as the share asks for, in turn; few are read again.
        share: That part of all rows are anchors. 0.2: four in a batch of 20.

    Raises:
        ValueError: There are no anchors, or the share is not between 0 and 1.
    """

    def __init__(self, rows: Sequence[dict], anchors: Sequence[dict], share: float = 0.2):
        if not 0 < share < 1:
            raise ValueError(f"share={share!r}: expected a number between 0 and 1")
        if not len(anchors):
            raise ValueError("AnchoredDataset got no anchors: make them with anchor_rows()")
        self.rows, self.anchors, self.share = rows, anchors, share

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / (1 - self.share))

    def __getitem__(self, index: int) -> dict:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        before = math.floor(index * self.share)  # anchors
        if math.floor((index + 1) * self.share) > before or index - before >= len(self.rows):
            return self.anchors[before % len(self.anchors)]
        return self.rows[index - before]


class AnchoringCollator:
    """Makes batches of both kinds of rows: MLM rows through the given collator, anchor rows unmasked beside them.

    A batch without anchor rows, as in evaluation, is what the given collator makes of it.

    Args:
        collator: Of MLM training, with any masking: `DataCollatorForLanguageModeling(tokenizer)`.
    """

    def __init__(self, collator: Callable[[list[dict]], dict]):
        self.collator = collator

    def __call__(self, rows: list[dict]) -> dict:
        """The batch.

        Raises:
            ValueError: The given collator makes something that anchor rows do not have.
        """
        anchors = [row for row in rows if TARGETS in row]
        others = [row for row in rows if TARGETS not in row]
        if not anchors:
            return self.collator(others)
        made = dict(self.collator(others)) if others else {"input_ids": torch.zeros(0, 0, dtype=torch.long)}
        unknown = sorted(made.keys() - PADDING.keys())
        if unknown:
            raise ValueError(f"AnchoringCollator: the MLM rows have {', '.join(unknown)}, which anchor rows have not")
        made = {name: torch.full(made["input_ids"].shape, value) for name, value in UNSAID.items()} | made
        multiple = getattr(self.collator, "pad_to_multiple_of", None) or 1
        longest = math.ceil(max(len(row["input_ids"]) for row in anchors) / multiple) * multiple
        length = max(made["input_ids"].shape[1], longest)
        batch = {}
        for name, padding in PADDING.items():
            ours = pad(made[name], (0, length - made[name].shape[1]), value=padding)
            batch[name] = torch.cat([ours, _padded(anchors, name, length)])
        targets = torch.from_numpy(np.stack([np.asarray(row[TARGETS], np.float32) for row in anchors]))
        batch[TARGETS] = torch.cat([torch.full((len(made["input_ids"]), targets.shape[1]), UNREAD), targets])
        return batch
