# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Whom to ask for the pooler: what a checkpoint says that it was started from, else what its shape suggests."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from .card import read_card
from .checkpoint import Checkpoint
from .errors import ConversionError
from .known_donors import KNOWN_DONORS, LEGACY_NAMES
from .sources import Folder, local_path, read_json

NAMES_LIMIT = 8  # of a checkpoint's own: each costs a look at a folder or a request
GUESSED = "the table of well-known BERTs"


def named_donors(checkpoint: Checkpoint) -> Iterator[list[tuple[str, str]]]:
    """What the checkpoint itself says that it was started from; then what the folders among that say in turn."""
    folder, config, seen = checkpoint.source, checkpoint.config, {os.path.realpath(checkpoint.source.path)}
    while folder is not None:
        names = [(name, by) for name, by in _names_in(folder, config) if os.path.realpath(name) not in seen]
        names = names[:NAMES_LIMIT]
        yield names
        seen |= {os.path.realpath(name) for name, _ in names}
        paths = (local_path(name) for name, _ in names)
        folder = next((Folder(path) for path in paths if os.path.isfile(path / "config.json")), None)
        if folder is not None:
            try:
                config = read_json(folder, "config.json")
            except ConversionError:  # `examine` has refused it for that already
                return


def named_folders(name: str) -> list[Path]:
    """The folders that a checkpoint says it was started from, as `named_donors` finds them; none of a damaged one."""
    try:
        folder = Folder(local_path(name))
        named = list(named_donors(Checkpoint(folder, read_json(folder, "config.json"), {})))
    except (ConversionError, OSError):  # its conversion is going to say so
        return []
    return [path for donors in named for it, _ in donors if os.path.isdir(path := local_path(it))]


def _names_in(folder: Folder, config: dict) -> Iterator[tuple[str, str]]:
    source, base = config.get("pooler_source"), read_card(folder)[0].get("base_model")
    for name, found_by in (
        (source.get("donor") if isinstance(source, dict) else None, "config.json's pooler_source"),
        (config.get("_name_or_path"), "config.json's _name_or_path"),
        *((name, "README.md's base_model") for name in (base if isinstance(base, list) else [base])),
    ):
        if isinstance(name, str) and name:
            yield from ((donor, found_by) for donor in _as_donors(name))


def _as_donors(name: str) -> list[str]:
    """A folder that exists, a Hub id, or the one that a path tells which is gone."""
    path = local_path(name)
    if os.path.isdir(path):
        return [name]
    if cached := re.search(r"(?:^|[/\\])models--([\w.-]+?)(?:--([\w.-]+))?[/\\]snapshots[/\\]", name):
        return ["/".join(filter(None, cached.groups()))]  # in the Hub's cache of another machine
    ids = [name] if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) or name in LEGACY_NAMES else []
    ids += [known.repo_id for known in KNOWN_DONORS if known.repo_id.split("/")[1] == path.name]
    return list(dict.fromkeys([*ids, *([path.name] if path.name in LEGACY_NAMES else [])]))


def known_donors(config: dict) -> Iterator[list[tuple[str, str]]]:
    """Guesses of the same shape, best first: those with this vocabulary, then those whose vocabulary it may extend."""
    shape = (config["hidden_size"], config["num_hidden_layers"])
    fitting = [known for known in KNOWN_DONORS if (known.hidden_size, known.num_hidden_layers) == shape]
    yield [(known.repo_id, GUESSED) for known in fitting if known.vocab_size == config["vocab_size"]]
    yield [(known.repo_id, GUESSED) for known in fitting if known.vocab_size < config["vocab_size"]]
