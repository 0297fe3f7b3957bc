# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of token ids from a stream of texts, by several processes."""

import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

BATCH = 1 << 20  # characters that are tokenized at once
SHORTEST_BLOCK = 8  # tokens; what remains of a batch is dropped below it
SAMPLE = 2000  # texts that are kept as text
Sample = list[tuple[str, str | None]]  # texts, each with the text that follows it


@dataclasses.dataclass
class Tokenize:
    """Makes rows of texts: each text cut at `length`, or blocks of `length` tokens of the concatenated texts."""

    tokenizer: object
    length: int
    line_by_line: bool

    def __call__(self, texts: list[str]) -> list[np.ndarray]:
        if not texts:
            return []
        options = {"return_attention_mask": False, "return_token_type_ids": False}
        if self.line_by_line:
            rows = self.tokenizer(texts, truncation=True, max_length=self.length, **options)["input_ids"]
            return [np.array(row, np.int32) for row in rows]
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False, **options)["input_ids"]
        cls, sep = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        tokens = np.fromiter(itertools.chain.from_iterable((*ids, sep) for ids in encoded), np.int32)
        rows, size = [], self.length - 2
        for start in range(0, len(tokens), size):
            block = tokens[start : start + size]
            if start and len(block) < SHORTEST_BLOCK:
                break
            end = [] if block[-1] == sep else [sep]
            rows.append(np.concatenate([[cls], block, end], dtype=np.int32, casting="unsafe"))
        return rows


class Splitter:
    """Divides texts into those to train on and those held out, and keeps a random sample of the former."""

    def __init__(self, share: float, length: int):
        self.threshold = share * 2**32
        self.longest = 20 * length  # characters of a text in the sample
        self.kept: dict[int, tuple[str, str | None]] = {}
        self.texts = self.lines = self.bytes = 0

    def __call__(self, texts: list[str]) -> tuple[list[str], list[str]]:
        train, held_out, rank = [], [], None
        for text in map(str.strip, texts):
            data = text.encode("utf-8", "surrogatepass")
            self.texts += bool(data)
            self.lines += text.count("\n") + bool(data)
            self.bytes += len(data)
            value = zlib.crc32(data)
            if not data or value < self.threshold:
                held_out += [text] if data else []
                rank = None
                continue
            train.append(text)
            if rank in self.kept and self.kept[rank][1] is None:
                self.kept[rank] = (self.kept[rank][0], text[: self.longest])
            rank = self.keep(value, text)
        return train, held_out

    def keep(self, value: int, text: str) -> int:
        """Keeps the texts whose hashes, permuted, are the lowest: a uniform sample without duplicates."""
        rank = value * 2654435761 % 2**32
        self.kept.setdefault(rank, (text[: self.longest], None))
        if len(self.kept) == 2 * SAMPLE:
            self.kept = dict(sorted(self.kept.items())[:SAMPLE])
        return rank

    def sample(self) -> Sample:
        return [entry for _, entry in sorted(self.kept.items())[:SAMPLE]]


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of texts of about `BATCH` characters."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# Several processes.

_tokenize: Tokenize | None = None  # of a worker process


def start_worker(tokenize: Tokenize) -> None:
    global _tokenize
    _tokenize = tokenize
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for each core
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    # A parent that was killed cannot stop its workers.
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()


def arrow_rows(parts: tuple[list[str], ...]) -> list:
    """The rows of each list of texts, as an Arrow batch."""
    import pyarrow as pa

    made = []
    for rows in map(_tokenize, parts):
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
        tokens = np.concatenate([*rows, np.zeros(0, np.int32)])
        made.append(pa.record_batch([pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens))], ["input_ids"]))
    return made


def in_order(tasks: Iterable[tuple[list[str], ...]], tokenize: Tokenize, processes: int) -> Iterator[list]:
    """`arrow_rows` of each task, in order, by several processes; only a few tasks are in memory at a time."""
    waiting: deque = deque()
    with ProcessPoolExecutor(processes, initializer=start_worker, initargs=(tokenize,)) as pool:
        try:
            pool.submit(int).result()  # forks the processes before reading starts threads
            for task in tasks:
                waiting.append(pool.submit(arrow_rows, task))
                if len(waiting) > 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise OSError("a process that tokenizes was killed, perhaps for lack of memory") from error
        finally:
            pool.shutdown(cancel_futures=True)
