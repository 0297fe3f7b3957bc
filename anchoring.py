# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Anchored training: keeps what a pooler means while continued pre-training moves the encoder under it.

    anchors = anchor_rows("google-bert/bert-base-uncased", tokenizer, texts)  # once: the donor reads some texts
    dataset = AnchoredDataset(rows, anchors)                                  # among the rows of MLM training
    collator = AnchoringCollator(DataCollatorForLanguageModeling(tokenizer))  # unmasked, beside those that are masked

It is feature distillation with precomputed teacher outputs: in the encoder pass of the MLM loss, the model's pooled
vectors of these texts are trained towards the donor's (Learning without Forgetting: Li & Hoiem, arXiv 1606.09282).
Take texts of the kind that the pooler is going to read: pairs for a head that reads pairs, single texts otherwise.
"""

import copy
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch.nn.functional import pad
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from tqdm import tqdm
from transformers import AutoTokenizer
from transformers.utils import cached_file, logging

if __package__:
    from .modeling_bert_pooled_mlm import BertPooledMLMModel
else:  # from a checkout's root
    from modeling_bert_pooled_mlm import BertPooledMLMModel

__all__ = ["AnchoredDataset", "AnchoringCollator", "anchor_rows"]

TARGETS, VARIANCE = "pooler_targets", "pooler_target_variance"
INPUTS = ("input_ids", "token_type_ids", "attention_mask")
# Where the attention mask is 0, any id does.
PADDING = {**dict.fromkeys(INPUTS, 0), "labels": -100}
DEFAULTS = {"token_type_ids": 0, "attention_mask": 1, "labels": -100}  # what a model takes where a collator gives none
NO_TARGET = -100.0  # fills the targets of rows that have none
logger = logging.get_logger(__name__)
LEAST_VARIANCE = 0.01  # of the mean squared length: bounds the weight of distances where vectors hardly differ


class _AnchorRows(list):
    """Rows of one set of columns: `Dataset.from_list(rows + anchors)` takes the columns of the first row alone."""

    def __radd__(self, rows: list[dict]) -> list[dict]:
        return [{TARGETS: None, VARIANCE: None, **row} for row in rows] + list(self)


def anchor_rows(
    donor: str | os.PathLike | torch.nn.Module,
    tokenizer,
    texts: Sequence[str | tuple[str, str]],
    *,
    donor_tokenizer=None,
    max_length: int = 128,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> list[dict]:
    """The donor's pooled vectors of some texts, as rows to train with. The donor reads each text once, in float32.

    Args:
        donor: The BERT whose pooler is to keep its meaning: a folder, a Hub id or a model.
        tokenizer: The one that the model is trained with. Its vocabulary need not be the donor's.
        texts: Single texts, or pairs.
        donor_tokenizer: The one that the donor reads with. Default: the one beside the donor, or where a model was
            loaded from; without any `tokenizer`, if it has as many tokens as the donor.
        max_length: Tokens of a text at most, and no more than the donor reads.
        batch_size: Texts that are read at once.
        device: Where the donor reads; a model is moved there. Default: where the model is; of a name, a GPU if there
            is one.
        progress: Show a bar on stderr.

    Returns:
        A row for each text: `input_ids`, `token_type_ids`, `attention_mask`, `pooler_targets`, the donor's pooled
        vector (`(hidden_size,)`, float32), and `pooler_target_variance`, the mean squared distance of all these
        vectors to their mean: the unit of squared distances in the loss. A direction that all vectors share does not
        make distances look small by it. It is at least a hundredth of the mean squared length.

    Raises:
        ValueError: No text, the donor has no pooler or is split by ZeRO-3, or no tokenizer that fits it is known.
    """
    if not len(texts):
        raise ValueError("anchor_rows() got no texts: the donor's pooled vectors of them are what training keeps")
    encoder = _encoder_of(donor, device)
    known = encoder.config.vocab_size
    reader = donor_tokenizer or _tokenizer_of(donor, tokenizer, known)
    cut = {"truncation": True, "max_length": min(max_length, encoder.config.max_position_embeddings)}
    rows, read = _AnchorRows(), []
    for text in texts:
        parts = (text,) if isinstance(text, str) else text
        for made, reads in ((rows, tokenizer), (read, reader)):
            encoded = reads(*parts, **cut, return_token_type_ids=True)
            made.append({name: list(encoded[name]) for name in INPUTS})
        if max(read[-1]["input_ids"]) >= known:
            raise ValueError(f"the donor has {known} tokens, its tokenizer more: pass its own as donor_tokenizer")
    by_length = sorted(range(len(read)), key=lambda number: -len(read[number]["input_ids"]))  # little padding
    targets, was_training = np.zeros((len(rows), encoder.config.hidden_size), np.float32), encoder.training
    encoder.eval()
    try:
        for start in tqdm(range(0, len(rows), batch_size), desc="anchors", disable=not progress):
            chosen = by_length[start : start + batch_size]
            batch = [read[number] for number in chosen]
            inputs = {name: _padded(batch, name, len(batch[0]["input_ids"])).to(encoder.device) for name in INPUTS}
            with torch.no_grad():
                targets[chosen] = encoder(**inputs).pooler_output.cpu().numpy()
    finally:
        encoder.train(was_training)
    variance = max(targets.var(0, dtype=float).sum(), LEAST_VARIANCE * np.square(targets).sum(1).mean())
    for row, target in zip(rows, targets, strict=True):
        row |= {TARGETS: target, VARIANCE: float(variance)}
    return rows


def _encoder_of(donor: str | os.PathLike | torch.nn.Module, device: str | torch.device | None) -> torch.nn.Module:
    """The donor's encoder with its pooler, on the device where it is to read, in float32."""
    model = donor
    if not isinstance(donor, torch.nn.Module):
        model = BertPooledMLMModel.from_pretrained(donor)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device is not None:
        model.to(device)
    encoder = getattr(model, "bert", model)
    if getattr(encoder, "pooler", None) is None:
        raise ValueError(f"the donor, a {type(model).__name__}, has no pooler; load it with AutoModel")
    if hasattr(encoder.pooler.dense.weight, "ds_id"):  # and the processes' collectives would not match in training
        raise ValueError("anchored training does not run under DeepSpeed ZeRO-3; use stage 2 or FSDP2")
    if encoder.dtype in (torch.float16, torch.bfloat16):
        encoder = copy.deepcopy(encoder).float()  # the given model stays as it is
    return encoder


def _tokenizer_of(donor: str | os.PathLike | torch.nn.Module, tokenizer, known: int):
    """The donor's own tokenizer, or the given one where none is known and it could be the donor's."""
    name = getattr(donor, "name_or_path", "") if isinstance(donor, torch.nn.Module) else str(donor)
    for file in ("tokenizer.json", "vocab.txt") if name else ():
        try:
            cached_file(name, file)
        except OSError:  # not there, or the Hub cannot be asked
            continue
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    if len(tokenizer) != known:
        found = f"the donor has {known} tokens, the tokenizer {len(tokenizer)}, and none was found beside the donor"
        raise ValueError(f"{found}: pass its own as donor_tokenizer")
    return tokenizer


def _padded(rows: Sequence[dict], name: str, length: int) -> torch.Tensor:
    """`(rows, length)`."""
    padded = torch.full((len(rows), length), PADDING[name])
    for line, row in zip(padded, rows, strict=True):
        values = torch.as_tensor(row.get(name, ()))  # anchor rows have no labels
        line[: len(values)] = values
    return padded


class AnchoredDataset(Dataset):
    """MLM rows and anchor rows, spread evenly, in the same order at each run (a sampler may shuffle them).

    It is map-style where `rows` is, and an `IterableDataset` where `rows` is one (of torch, or of `datasets`). Such a
    stream is split over workers as `rows` splits itself; `state_dict` and `load_state_dict` resume it where `rows` is.

    Args:
        rows: Of the MLM training: a list, or any map-style or iterable dataset.
        anchors: What `anchor_rows` gives, taken in turn, as many as the share asks for. Few anchors are read again.
        share: The fraction of rows that are anchors. 0.2: four in a batch of 20.

    Raises:
        ValueError: There are no anchors or no targets in them, or the share is not between 0 and 1.
    """

    def __new__(cls, rows=(), *args, **kwargs):  # no rows: a copy is made, whose state follows
        is_stream = isinstance(rows, IterableDataset) or not hasattr(rows, "__getitem__")
        return super().__new__(_AnchoredStream if is_stream else cls)

    def __init__(self, rows: Sequence[dict] | Iterable[dict], anchors: Sequence[dict], share: float = 0.2):
        if not 0 < share < 1:
            raise ValueError(f"share={share!r}: expected a number between 0 and 1")
        if not len(anchors) or anchors[0].get(TARGETS) is None:
            raise ValueError(f"AnchoredDataset got no anchors, rows with {TARGETS}: make them with anchor_rows()")
        self.rows, self.anchors, self.share = rows, anchors, share

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / (1 - self.share))

    def __getitem__(self, index: int) -> dict:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        before = self._anchors_before(index)
        if self._anchors_before(index + 1) > before or index - before >= len(self.rows):
            return self.anchors[before % len(self.anchors)]
        return self.rows[index - before]

    def _anchors_before(self, index: int) -> int:
        return math.floor(index * self.share)


class _AnchoredStream(AnchoredDataset, IterableDataset):
    """`AnchoredDataset` of rows that can only be read in turn."""

    index = 0  # of the next row, anchors included
    start = (0, 0)  # of the next iteration: its index, and rows to pass over if `rows` cannot be told where to go on

    def __iter__(self) -> Iterator[dict]:
        (self.index, skipped), self.start = self.start, (0, 0)
        rows = itertools.islice(self.rows, skipped, None)
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)  # each worker takes other anchors
        while True:
            before = self._anchors_before(self.index)
            if self._anchors_before(self.index + 1) > before:
                row = self.anchors[(first + before * step) % len(self.anchors)]
            elif (row := next(rows, None)) is None:
                return
            self.index += 1
            yield row

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer at the start of an epoch: `rows` may shuffle anew."""
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)

    def state_dict(self) -> dict:
        """The position in the stream, before the row that comes next."""
        return {"index": self.index, "rows": self.rows.state_dict() if hasattr(self.rows, "state_dict") else None}

    def load_state_dict(self, state: dict) -> None:
        """Makes the next iteration start at that position."""
        self.index = state["index"]
        self.start = (self.index, self.index - self._anchors_before(self.index))
        if state["rows"] is not None:
            self.start = (self.index, 0)
            self.rows.load_state_dict(state["rows"])


class _AnchoredBatch(dict):
    """A batch with anchors. Trainer takes the labels out of it to compute a loss that leaves the anchors' term out."""

    def pop(self, name, *default):
        if name == "labels":
            raise ValueError(
                "label_smoothing_factor and compute_loss_func replace the model's loss, and with it the anchors' term "
                "in it: train without them, or without anchors"
            )
        return super().pop(name, *default)


class AnchoringCollator:
    """Makes batches of both kinds of rows: MLM rows through the given collator, anchor rows unmasked beside them.

    A batch without anchor rows, as in evaluation, is what the given collator makes of it. Columns that are None, as of
    datasets that were concatenated, are left out of a row. All else that the given collator offers (`tokenizer`, which
    Trainer saves, `pad_to_multiple_of`) is offered here too.

    Args:
        collator: Of MLM training, with any masking: `DataCollatorForLanguageModeling(tokenizer)`.
    """

    def __init__(self, collator: Callable[[list[dict]], dict]):
        self.collator, self.unanchored = collator, 0  # batches before the first that has an anchor

    def __getattr__(self, name: str):
        if name == "collator" or name.startswith("__"):  # asked for while a copy is made
            raise AttributeError(name)
        return getattr(self.collator, name)

    def __call__(self, rows: list[dict]) -> dict:
        """The batch; a ValueError where the given collator makes something that anchor rows do not have."""
        rows = [{name: value for name, value in row.items() if value is not None} for row in rows]
        anchors = [row for row in rows if TARGETS in row]
        others = [row for row in rows if TARGETS not in row]
        self.unanchored = -math.inf if anchors else self.unanchored + 1  # once there was one, it stays negative
        if self.unanchored == 100 and not get_worker_info():  # those of an evaluation begin anew
            logger.warning(
                "AnchoringCollator: no anchor in 100 batches. If this is training, the targets have been lost: "
                "Dataset.from_list and from_generator drop what the first row lacks; concatenate_datasets does not."
            )
        if not anchors:
            return self.collator(others)
        made = dict(self.collator(others)) if others else {"input_ids": torch.zeros(0, 0, dtype=torch.long)}
        unknown = sorted(made.keys() - PADDING.keys())
        if unknown:
            raise ValueError(f"AnchoringCollator: the MLM rows have {', '.join(unknown)}, which anchor rows have not")
        made = {name: torch.full(made["input_ids"].shape, value) for name, value in DEFAULTS.items()} | made
        multiple = getattr(self.collator, "pad_to_multiple_of", None) or 1
        longest = math.ceil(max(len(row["input_ids"]) for row in anchors) / multiple) * multiple
        length = max(made["input_ids"].shape[1], longest)
        batch = _AnchoredBatch()
        for name, padding in PADDING.items():
            mlm = pad(made[name], (0, length - made[name].shape[1]), value=padding)
            batch[name] = torch.cat([mlm, _padded(anchors, name, length)])
        targets = torch.from_numpy(np.stack([np.asarray(row[TARGETS], np.float32) for row in anchors]))
        batch[TARGETS] = torch.cat([torch.full((len(made["input_ids"]), targets.shape[1]), NO_TARGET), targets])
        if all(VARIANCE in row for row in anchors):  # it is not in rows of earlier versions
            batch[VARIANCE] = torch.tensor([1.0] * len(made["input_ids"]) + [row[VARIANCE] for row in anchors])
        return batch
