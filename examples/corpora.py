# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Turns a corpus of any size into rows of token ids, with memory that does not grow with the corpus.

Texts are read as a stream by the `datasets` library, tokenized by several processes, and written once to an Arrow file
in a cache, from which training reads through a memory map. Whether a text is held out for evaluation depends on its
hash alone, and so do the texts that are kept as a sample for anchors and calibration. With `--streaming` nothing is
written: texts are tokenized while the model trains.
"""

import argparse
import dataclasses
import errno
import hashlib
import heapq
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from corpus_texts import COMPRESSIONS, Texts, kind_of
from tqdm import tqdm

BATCH = 1 << 20  # characters that are tokenized at once
SHORTEST_BLOCK = 8  # tokens; what remains of a batch is dropped below it
SAMPLE = 2000  # texts that are kept as text
SAMPLE_BATCHES = 8  # of a stream, from which the sample is drawn
SHUFFLE_BUFFER = 10_000  # rows of a stream
FORMAT = 1  # of the cache
Sample = list[tuple[str, str | None]]  # texts, each with the text that follows it


@dataclasses.dataclass
class Corpus:
    train: object  # datasets.Dataset or datasets.IterableDataset, of rows with input_ids
    held_out: object  # datasets.Dataset
    sample: Sample  # of the texts that are trained on


# Rows of token ids.


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
        self.heap: list[int] = []
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
        if rank not in self.kept and (len(self.heap) < SAMPLE or rank < -self.heap[0]):
            self.kept[rank] = (text[: self.longest], None)
            if len(self.heap) < SAMPLE:
                heapq.heappush(self.heap, -rank)
            else:
                del self.kept[-heapq.heappushpop(self.heap, -rank)]
        return rank

    def sample(self) -> Sample:
        return [self.kept[rank] for rank in sorted(self.kept)]


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


def flat_rows(parts: tuple[list[str], ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each list of texts: the tokens of all rows, and the length of each row."""
    found = []
    for texts in parts:
        rows = _tokenize(texts)
        found.append((np.concatenate([*rows, np.zeros(0, np.int32)]), np.array([len(row) for row in rows], np.int32)))
    return found


def in_order(tasks: Iterable[tuple[list[str], ...]], tokenize: Tokenize, processes: int) -> Iterator[list[tuple]]:
    """`flat_rows` of each task, in order, by several processes; only a few tasks are in memory at a time."""
    waiting: deque = deque()
    with ProcessPoolExecutor(processes, initializer=start_worker, initargs=(tokenize,)) as pool:
        try:
            pool.submit(int).result()  # forks the processes before reading starts threads
            for task in tasks:
                waiting.append(pool.submit(flat_rows, task))
                if len(waiting) > 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise OSError("a process that tokenizes was killed, perhaps for lack of memory") from error
        finally:
            pool.shutdown(cancel_futures=True)


class RowFile:
    """An Arrow file of rows, as `datasets.Dataset.from_file` maps it into memory."""

    def __init__(self, path: Path):
        import pyarrow as pa

        self.path, self.rows = path, 0
        self.file = pa.OSFile(str(path), "wb")
        self.writer = pa.ipc.new_stream(self.file, pa.schema([("input_ids", pa.list_(pa.int32()))]))

    def add(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        import pyarrow as pa

        if len(lengths):
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            rows = pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens))
            self.writer.write_batch(pa.record_batch([rows], names=["input_ids"]))
            self.rows += len(lengths)

    def close(self) -> None:
        self.writer.close()
        self.file.close()
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())


# The cache.


def content_digest(files: list[Path], cache: Path) -> str:
    """The SHA-256 of the contents of files; remembered for the paths, sizes and times of the files."""
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    remembered = cache / f"{hashlib.sha256(repr(stats).encode()).hexdigest()[:32]}.digest"
    if remembered.exists():
        return remembered.read_text()
    total = hashlib.sha256()
    for file in files:
        digest = hashlib.sha256()
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
        total.update(digest.digest() + str(kind_of(file)).encode())
    new = remembered.with_suffix(f".{os.getpid()}")
    new.write_text(total.hexdigest())
    new.replace(remembered)
    return total.hexdigest()


def tokenizer_digest(tokenizer) -> str:
    """Changes with whatever changes the tokens of a text."""
    state = {"class": type(tokenizer).__name__, "special": tokenizer.special_tokens_map}
    if tokenizer.is_fast:
        state |= json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    else:
        options = {name: value for name, value in tokenizer.init_kwargs.items() if "path" not in name}
        state |= {"vocabulary": tokenizer.get_vocab(), "options": repr(sorted(options.items()))}
    return hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode()).hexdigest()


def digest_of(texts: Texts | None, cache: Path) -> str | None:
    if texts is None:
        return None
    files = [file for _, files in texts.tables for file in files]
    if files:
        return content_digest(files, cache)
    # The names of the files of a downloaded dataset contain its revision and configuration.
    return repr([sorted(file["filename"] for file in table.cache_files) for table, _ in texts.tables])


def prepare(texts: Texts, held_out: Texts | None, tokenizer, args: argparse.Namespace) -> Corpus:
    """Rows from the cache, which are made first where they are not there. One process makes them, others wait."""
    from datasets import Dataset, config
    from filelock import FileLock

    cache = args.cache_dir or Path(config.HF_DATASETS_CACHE) / "continue_pretraining"
    cache.mkdir(parents=True, exist_ok=True)
    settings = (args.line_by_line, args.length, args.eval_share, args.text_column, tokenizer_digest(tokenizer), FORMAT)
    key = repr((settings, digest_of(texts, cache), digest_of(held_out, cache)))
    folder = cache / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not folder.exists():
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                write(folder, texts, held_out, tokenizer, args)
    sample = [tuple(entry) for entry in json.loads((folder / "sample.json").read_text("utf-8"))]
    return Corpus(*(Dataset.from_file(str(folder / f"{name}.arrow")) for name in ("train", "held_out")), sample)


def write(folder: Path, texts: Texts, held_out: Texts | None, tokenizer, args: argparse.Namespace) -> None:
    """Writes the rows into a folder next to `folder`, which is renamed when it is complete."""
    incomplete = folder.with_suffix(".incomplete")
    shutil.rmtree(incomplete, ignore_errors=True)  # of a process that was killed
    incomplete.mkdir()
    splitter = Splitter(0 if held_out else args.eval_share, args.length)
    tokenize = Tokenize(tokenizer, args.length, args.line_by_line)
    try:
        files = [RowFile(incomplete / f"{name}.arrow") for name in ("train", "held_out")]
        for rows in in_order(tasks(texts, held_out, splitter), tokenize, args.num_proc):
            for file, (tokens, lengths) in zip(files, rows, strict=True):
                file.add(tokens, lengths)
        for file in files:
            file.close()
        if not all(file.rows for file in files):
            raise ValueError(too_little(texts.name, splitter, args))
        (incomplete / "sample.json").write_text(json.dumps(splitter.sample()), "utf-8")
        incomplete.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason = f"{os.strerror(error.errno)}; the incomplete output was removed; choose another --cache-dir"
            raise OSError(f"{folder.parent}: {reason}") from error
        raise
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)


def tasks(texts: Texts, held_out: Texts | None, splitter: Splitter) -> Iterator[tuple[list[str], list[str]]]:
    """Texts to train on and held-out texts, a batch at a time, with a progress bar."""
    files = [file for _, files in texts.tables for file in files]
    plain = all(kind_of(file) in ("text", None) and file.suffix not in COMPRESSIONS for file in files)
    total = sum(file.stat().st_size for file in files) if files and plain else None
    with tqdm(total=total, desc="tokenizing", unit="B", unit_scale=True) as bar:
        for batch in batches(texts):
            yield splitter(batch)
            bar.update(splitter.bytes - bar.n)
        for batch in batches(held_out or ()):
            yield [], [text.strip() for text in batch if text.strip()]


def too_little(name: str, splitter: Splitter, args: argparse.Namespace) -> str:
    found = f"{splitter.texts} text{'s' * (splitter.texts != 1)}"
    if splitter.lines > splitter.texts:
        return f"{name}: {found} in {splitter.lines} lines; is each line a text? --line-by-line"
    return f"{name}: too little text: {found}; choose a larger --eval-share, or pass --eval FILE"


# Streaming.


def stream(texts: Texts, held_out: Texts | None, tokenizer, args: argparse.Namespace) -> Corpus:
    """Rows that are made while they are read. Only the first `--eval-rows` held-out rows are kept."""
    from datasets import IterableDataset

    tokenize = Tokenize(tokenizer, args.length, args.line_by_line)
    splitter = Splitter(0 if held_out else args.eval_share, args.length)
    rows = []
    for number, batch in enumerate(batches(texts)):
        rows += tokenize(splitter(batch)[1])
        if number >= SAMPLE_BATCHES and (held_out or len(rows) >= args.eval_rows):
            break
    for batch in batches(held_out or ()):
        if len(rows) >= args.eval_rows:
            break
        rows += tokenize(batch)
    sample = splitter.sample()
    if not rows or not sample:
        raise ValueError(too_little(texts.name, splitter, args))
    options = {"shards": texts.shards(), "tokenize": tokenize, "share": 0 if held_out else args.eval_share}
    train = IterableDataset.from_generator(rows_of, gen_kwargs=options)
    train = train.shuffle(seed=args.seed, buffer_size=SHUFFLE_BUFFER)
    return Corpus(train, [{"input_ids": row} for row in rows[: args.eval_rows]], sample)


def rows_of(shards: list[Texts], tokenize: Tokenize, share: float) -> Iterator[dict]:
    splitter = Splitter(share, tokenize.length)
    for texts in shards:
        for batch in batches(texts):
            for row in tokenize(splitter(batch)[0]):
                yield {"input_ids": row}
