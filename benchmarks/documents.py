# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Tables in Markdown, and the marked blocks of documents that quote the record of a program.

A block begins with a line `<!-- PROGRAM: NAME -->` and ends with `<!-- end -->`.
"""

import re
from collections.abc import Iterable
from pathlib import Path


def markdown_table(heads: list[str], lines: Iterable[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *lines))


def filled(document: str, program: str, blocks: dict[str, str]) -> str:
    """The document with each block of `program` replaced by the one of that name."""
    marked = re.compile(rf"(<!-- {re.escape(program)}: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return marked.sub(lambda match: match[1] + blocks[match[2]] + "\n" + match[3], document)


def update(path: Path, program: str, blocks: dict[str, str]) -> None:
    path.write_text(filled(path.read_text(encoding="utf-8"), program, blocks), encoding="utf-8")
