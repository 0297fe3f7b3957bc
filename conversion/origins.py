# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Which donors to try: those that a checkpoint names as its origin, else well-known BERTs of the same shape."""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .card import Card, read_card
from .errors import ConversionError
from .known_donors import KNOWN_DONORS, LEGACY_NAMES
from .provenance import donor_name
from .sources import Folder, config_file, local_path, read_json

NAMES_LIMIT = 8  # of a checkpoint's own: each costs a look at a folder or a request
NEIGHBOURS_LIMIT = 16  # of the table, in each direction: each costs a few megabytes


class FoundBy(enum.Enum):
    """How a donor was found; the values are for the report."""

    ARGUMENT = "--pooler-from"
    HEAD_ARGUMENT = "--head-from"
    POOLER_SOURCE = "config.json's pooler_source"
    NAME_OR_PATH = "config.json's _name_or_path"
    BASE_MODEL = "README.md's base_model"
    TABLE = "the table of well-known BERTs"


class Candidate(NamedTuple):
    """A donor to try."""

    name: str  # a folder or a Hub id
    found_by: FoundBy
    revision: str | None = None


def named_donors(folder: Folder, config: dict, card: Card) -> Iterator[list[Candidate]]:
    """The donors that a checkpoint names; then those that the folders among them name in turn."""
    seen = {os.path.realpath(folder.path)}
    while True:
        candidates = [it for it in _names_in(config, card) if os.path.realpath(it.name) not in seen][:NAMES_LIMIT]
        yield candidates
        seen |= {os.path.realpath(it.name) for it in candidates}
        paths = (local_path(it.name) for it in candidates)
        following = next((Folder(path) for path in paths if os.path.isfile(path / "config.json")), None)
        if following is None:
            return
        try:
            config, card = read_json(following, "config.json"), read_card(following)
        except ConversionError:  # it has been rejected as a candidate for the same reason
            return


def named_folders(name: str) -> list[Path]:
    """The folders among the donors that a checkpoint names; none for a damaged checkpoint."""
    try:
        folder = Folder(local_path(name))
        config = read_json(folder, config_file(folder) or "config.json")
        named = list(named_donors(folder, config, read_card(folder)))
    except (ConversionError, OSError):  # its conversion is going to report it
        return []
    return [path for candidates in named for it in candidates if os.path.isdir(path := local_path(it.name))]


def _names_in(config: dict, card: Card) -> Iterator[Candidate]:
    base = card.metadata.get("base_model")
    for name, found_by in (
        (donor_name(config.get("pooler_source")), FoundBy.POOLER_SOURCE),
        (config.get("_name_or_path"), FoundBy.NAME_OR_PATH),
        *((name, FoundBy.BASE_MODEL) for name in (base if isinstance(base, list) else [base])),
    ):
        if isinstance(name, str) and name:
            yield from (Candidate(donor, found_by) for donor in _as_donors(name))


def _as_donors(name: str) -> list[str]:
    """A folder that exists, a Hub id, or the id that follows from a path that no longer exists."""
    path = local_path(name)
    if os.path.isdir(path):
        return [name]
    if cached := re.search(r"(?:^|[/\\])models--([\w.-]+?)(?:--([\w.-]+))?[/\\]snapshots[/\\]", name):
        return ["/".join(filter(None, cached.groups()))]  # in the Hub's cache of another machine
    ids = [name] if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) or name in LEGACY_NAMES else []
    ids += [known.repo_id for known in KNOWN_DONORS if known.repo_id.split("/")[1] == path.name]
    return list(dict.fromkeys([*ids, *([path.name] if path.name in LEGACY_NAMES else [])]))


def known_donors(config: dict) -> Iterator[list[Candidate]]:
    """Known BERTs of the same shape: with this vocabulary; then those it may extend; then those that grew later."""
    shape, size = (config["hidden_size"], config["num_hidden_layers"]), config["vocab_size"]
    fitting = [known for known in KNOWN_DONORS if (known.hidden_size, known.num_hidden_layers) == shape]
    near = sorted(fitting, key=lambda known: abs(known.vocab_size - size))
    yield [Candidate(it.repo_id, FoundBy.TABLE) for it in fitting if it.vocab_size == size]
    yield [Candidate(it.repo_id, FoundBy.TABLE) for it in near if it.vocab_size < size][:NEIGHBOURS_LIMIT]
    yield [Candidate(it.repo_id, FoundBy.TABLE) for it in near if it.vocab_size > size][:NEIGHBOURS_LIMIT]
