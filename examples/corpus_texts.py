# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the texts of files and datasets, a few at a time, through the `datasets` library."""

import argparse
import glob
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

KINDS = {".txt": "text", ".jsonl": "json", ".ndjson": "json", ".json": "json", ".parquet": "parquet"}
KINDS |= {".csv": "csv", ".tsv": "csv"}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
PARAGRAPH = 1 << 22  # characters; a longer paragraph means that the file has no blank lines


def kind_of(file: Path) -> str | None:
    """The builder of `datasets` for a file, by its suffix; None: not known."""
    name = file.with_suffix("") if file.suffix in COMPRESSIONS else file
    return KINDS.get(name.suffix.lower())


def expand(names: Iterable[str]) -> list[Path]:
    """The files that are meant by files, folders and glob patterns; of a folder, those of a known kind."""
    files = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found, problem = (
                filter(kind_of, path.rglob("*")),
                f": no files with one of the suffixes {', '.join(KINDS)}",
            )
        else:
            found, problem = [path] if path.is_file() else map(Path, glob.glob(name, recursive=True)), " is not a file"
        found = sorted(file for file in found if file.is_file())
        if not found:
            raise ValueError(name + problem)
        files += found
    return files


class Texts:
    """The texts of some files, or of one split of a dataset; each iteration reads them anew.

    Args:
        name: For error messages.
        column: Which column of a table holds the texts.
        tables: The tables: `datasets.Dataset` or `datasets.IterableDataset`; with the files that each is read from.
        line_by_line: For text files: whether each line is a text, or each paragraph.
    """

    def __init__(self, name: str, column: str, tables: list[tuple[object, list[Path]]], line_by_line: bool = True):
        self.name, self.column, self.tables, self.line_by_line = name, column, tables, line_by_line

    def shards(self) -> list["Texts"]:
        """The parts that can be read independently, such as files."""
        parts = [(it.shard(it.n_shards, n), files) for it, files in self.tables for n in range(it.n_shards)]
        return [Texts(self.name, self.column, [part], self.line_by_line) for part in parts]

    def __iter__(self) -> Iterator[str]:
        for table, files in self.tables:
            kind = kind_of(files[0]) or "text" if files else None
            column = "text" if kind == "text" else self.column
            try:
                texts = self.column_of(table, column)
                yield from texts if kind != "text" or self.line_by_line else self.paragraphs(texts)
            except UnicodeDecodeError as error:
                raise ValueError(f"{first_not_utf8(files)} is not UTF-8: {error.reason}") from error

    def column_of(self, table, column: str) -> Iterator[str]:
        for batch in table.with_format("arrow").iter(batch_size=1000):
            if column not in batch.column_names:
                names = ", ".join(batch.column_names)
                raise ValueError(f"{self.name} has no column {column!r}; choose one of {names} with --text-column")
            texts = batch.column(column).to_pylist()
            if any(not isinstance(text, str | None) for text in texts):
                raise ValueError(f"{self.name}: column {column!r} does not hold texts")
            yield from (text for text in texts if text is not None)

    def paragraphs(self, lines: Iterable[str]) -> Iterator[str]:
        """Consecutive lines that are not blank, as one text."""
        paragraph, size = [], 0
        for line in itertools.chain(lines, [""]):
            if line.strip():
                paragraph.append(line)
                size += len(line)
                if size > PARAGRAPH:
                    lines = f"a paragraph of {len(paragraph)} lines"
                    raise ValueError(f"{self.name}: {lines}; is each line a text? --line-by-line")
            elif paragraph:
                yield "\n".join(paragraph)
                paragraph, size = [], 0


def read_files(names: Iterable[str], args: argparse.Namespace) -> Texts:
    """The texts of files, which are read as a stream."""
    import datasets

    tables = []
    for (kind, suffix), group in itertools.groupby(expand(names), lambda file: (kind_of(file) or "text", file.suffix)):
        files = list(group)
        options = {"sep": "\t"} if ".tsv" in (suffix, files[0].with_suffix("").suffix) else {}
        paths = [glob.escape(str(file)) for file in files]
        tables.append((datasets.load_dataset(kind, data_files=paths, split="train", streaming=True, **options), files))
    return Texts(", ".join(names), args.text_column, tables, args.line_by_line)


def read_dataset(args: argparse.Namespace) -> tuple[Texts, Texts | None]:
    """The texts of the splits `train` and, if there is one, `validation` of a dataset on the Hub."""
    import datasets

    name, _, config = args.dataset_name.partition(":")
    splits = datasets.load_dataset(name, config or None, streaming=args.streaming)
    if "train" not in splits:
        raise ValueError(f"{args.dataset_name} has no split 'train': {', '.join(splits)}")
    texts = {split: Texts(args.dataset_name, args.text_column, [(table, [])]) for split, table in splits.items()}
    return texts["train"], texts.get("validation")


def first_not_utf8(files: list[Path]) -> Path | str:
    import fsspec

    for file in files:
        with fsspec.open(str(file), compression=COMPRESSIONS.get(file.suffix), encoding="utf-8", mode="rt") as text:
            try:
                while text.read(1 << 20):
                    pass
            except UnicodeDecodeError:
                return file
    return ", ".join(map(str, files))
