# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Turns a corpus of any size into rows of token ids, with memory that does not grow with the corpus.

Texts are read as a stream by the `datasets` library, tokenized by several processes, and written once to an Arrow file
in a cache, from which training reads through a memory map. Whether a text is held out for evaluation depends on its
hash alone, and so do the texts that are kept as a sample for anchors and calibration. With `--streaming` nothing is
written: texts are tokenized while the model trains.
"""

import argparse
import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from corpus_rows import Sample, Splitter, Tokenize, batches, in_order
from corpus_texts import COMPRESSIONS, Texts, kind_of
from tqdm import tqdm

SAMPLE_BATCHES = 8  # of a stream, from which the sample is drawn
SHUFFLE_BUFFER = 10_000  # rows of a stream
FORMAT = 1  # of the cache
NAMES = ("train", "held_out")  # of its files


@dataclasses.dataclass
class Corpus:
    train: object  # datasets.Dataset or datasets.IterableDataset, of rows with input_ids
    held_out: object  # datasets.Dataset
    sample: Sample  # of the texts that are trained on


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
    return Corpus(*(Dataset.from_file(str(folder / f"{name}.arrow")) for name in NAMES), sample)


def write(folder: Path, texts: Texts, held_out: Texts | None, tokenizer, args: argparse.Namespace) -> None:
    """Writes the rows into a folder next to `folder`, which is renamed when it is complete."""
    import pyarrow as pa

    incomplete = folder.with_suffix(".incomplete")
    shutil.rmtree(incomplete, ignore_errors=True)  # of a process that was killed
    incomplete.mkdir()
    splitter = Splitter(0 if held_out else args.eval_share, args.length)
    tokenize = Tokenize(tokenizer, args.length, args.line_by_line)
    schema, paths = pa.schema([("input_ids", pa.list_(pa.int32()))]), [incomplete / f"{name}.arrow" for name in NAMES]
    try:
        with contextlib.ExitStack() as stack:
            files, counts = [stack.enter_context(pa.ipc.new_stream(str(path), schema)) for path in paths], [0, 0]
            for rows in in_order(tasks(texts, held_out, splitter), tokenize, args.num_proc):
                for number, (file, batch) in enumerate(zip(files, rows, strict=True)):
                    file.write_batch(batch)
                    counts[number] += len(batch)
        if not all(counts):
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
