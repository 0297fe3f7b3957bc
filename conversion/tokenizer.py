# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Which tokenizer a folder has, as its files tell, and which of them are copied; none of the folder's code is run."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from pathlib import Path

from .errors import ConversionError, first_line
from .sources import TOKENIZER_FILES, Source, parse_json, read_bytes, read_json, to_json

CONFIG = "tokenizer_config.json"
STOCK = "BertTokenizer"  # the class that follows from the model's type, where no file names another
# The class for a folder without a tokenizer: it fails to load, where transformers 5 makes a BertTokenizer of 5 tokens.
NONE = "PreTrainedTokenizerFast"
SAVED_BY_5 = {"TokenizersBackend": "PreTrainedTokenizerFast"}  # one class, whose older name every version reads
VOCABULARIES = {
    "tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
}  # fmt: skip
WITHOUT_VOCABULARY = {"ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer"}  # they read bytes or code points
SIZE_LIMIT = 64 << 20  # bytes; a tokenizer.json of 250,000 tokens has 17 MB
# These fields, and all other absolute paths, belong to the machine that saved the tokenizer, and are not copied.
PATH_FIELDS = {"name_or_path", "tokenizer_file", "special_tokens_map_file", "cache_dir", "vocab_file"}
PATH = re.compile(r"(/[^/\s]+/|[A-Za-z]:[\\/]|\\\\|~[\w-]*[\\/]|file:)")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer as its files describe it, or the reason why there is none."""

    source: Source | None  # where its files are; None: there is none
    class_name: str = NONE
    files: tuple[str, ...] = ()
    contents: dict[str, bytes] = dataclasses.field(default_factory=dict)  # what is written, by file
    own_config: dict | None = None  # tokenizer_config.json, without code and paths
    model_class: str | None = None  # config.json's tokenizer_class
    vocabulary: dict[str, int] = dataclasses.field(default_factory=dict)  # as far as its files tell
    reason: str = ""  # why there is none, and what to do
    needs_code: bool = False  # whether there is one that only the folder's own code reads
    from_donor: bool = False

    @property
    def tokens(self) -> int | None:
        """How many embeddings its ids need: the largest one, plus one."""
        return max(self.vocabulary.values()) + 1 if self.vocabulary else None

    def __str__(self) -> str:
        if self.source is None:
            return f"none: {self.reason}"
        count = f", {self.tokens} tokens" if self.tokens else ""
        donor = ": the donor's, since the checkpoint has none; both models have as many embeddings"
        return f"{self.class_name}{count}{donor if self.from_donor else ''}"

    def copy_to(self, folder: Path) -> None:
        """Copies its files into a folder, from which `AutoTokenizer` reads the same tokenizer without any code."""
        folder.mkdir()
        for name, data in self.contents.items():
            (folder / name).write_bytes(data)
        if self.own_config is not None:
            (folder / CONFIG).write_text(json.dumps(self.own_config), encoding="utf-8")
        else:
            (folder / CONFIG).unlink(missing_ok=True)
        stated = {"tokenizer_class": self.model_class} if self.model_class else {}
        (folder / "config.json").write_text(json.dumps({"model_type": "bert", **stated}), encoding="utf-8")

    def load(self):
        """The tokenizer itself; None where there is none.

        Raises:
            ConversionError: Its files can't be read.
        """
        if self.source is None:
            return None
        from transformers import AutoTokenizer

        with tempfile.TemporaryDirectory() as place:
            copies = Path(place, "tokenizer")
            self.copy_to(copies)
            try:
                return AutoTokenizer.from_pretrained(copies)
            except Exception as error:  # the tokenizers library raises nothing more specific
                reason = f"its tokenizer can't be read: {first_line(error)}"
                raise ConversionError(self.source.where(), reason) from error


def read_tokenizer(source: Source, model_config: dict) -> Tokenizer:
    """The tokenizer of a checkpoint; its class comes from where transformers takes it.

    Args:
        source: Where the files are; of a repo, those of the tokenizer are downloaded, which are small.
        model_config: config.json.

    Raises:
        ConversionError: A file of it is damaged.
    """
    files = sorted(source.names().intersection(TOKENIZER_FILES))
    config = read_json(source, CONFIG) if CONFIG in files else {}
    stated = {where: _class_name(source, where, it) for where, it in ((CONFIG, config), ("config.json", model_config))}
    name = stated[CONFIG] or stated["config.json"] or STOCK
    code = _own_code(config) or (None if stated[CONFIG] else _own_code(model_config))
    if code is not None:
        return Tokenizer(
            None,
            reason=f"the checkpoint's is code of its own ({code}), which is neither copied nor run; load it from "
            f"{source.where()} if you trust that code, or remove auto_map from its {CONFIG} if {name} will do",
            needs_code=True,
        )
    if not VOCABULARIES.intersection(files) and name not in WITHOUT_VOCABULARY:
        return Tokenizer(
            None,
            reason="the checkpoint has no tokenizer files; add those that it was trained with to the output: "
            "AutoTokenizer.from_pretrained(FOLDER_OR_HUB_ID).save_pretrained(OUTPUT)",
        )
    source = source.fetch(files)
    contents = {file: read_bytes(source, file, SIZE_LIMIT) for file in files}
    own = _without_paths({key: value for key, value in config.items() if key != "auto_map"})
    completed, name = dict(own), SAVED_BY_5.get(name, name)
    # With a tokenizer.json, transformers 5.0 takes a class from this file for another kind of tokenizer than one from
    # config.json, so it stays where it is; otherwise it is moved to this file, where 4.x reads it without remote code.
    if stated[CONFIG] or "tokenizer.json" not in files:
        completed["tokenizer_class"] = name
    vocabulary = _vocabulary(source, contents, config)
    if completed != config:
        contents[CONFIG] = to_json(completed)
    own_config = own if CONFIG in files else None
    return Tokenizer(source, name, tuple(files), contents, own_config, stated["config.json"], vocabulary)


def _class_name(source: Source, file: str, config: dict) -> str | None:
    name = config.get("tokenizer_class")
    if name is not None and not (isinstance(name, str) and re.fullmatch(r"(?!\d)\w*Token\w*", name)):
        raise ConversionError(source.where(file), f"tokenizer_class is {name!r:.100}; expected a tokenizer's class")
    return name


def _own_code(config: dict) -> str | None:
    """What `auto_map` names for a tokenizer."""
    named = config.get("auto_map")
    named = named.get("AutoTokenizer") if isinstance(named, dict) else named
    names = named if isinstance(named, list) else [named]
    return next((name for name in names if isinstance(name, str)), None)


def _without_paths(config: dict) -> dict:
    """`config` without the paths of the machine that saved it; added tokens may look like paths."""
    kept = {}
    for key, value in config.items():
        if isinstance(value, dict) and key != "added_tokens_decoder":
            value = _without_paths(value)
        if not isinstance(value, str) or not (key in PATH_FIELDS or PATH.match(value)):
            kept[key] = value
    return kept


def _vocabulary(source: Source, contents: dict[str, bytes], config: dict) -> dict[str, int]:
    """The tokens and their ids, as far as the files tell."""
    found: dict = {}
    if "vocab.txt" in contents:
        lines = contents["vocab.txt"].rstrip().split(b"\n")
        found = {line.rstrip(b"\r").decode(errors="replace"): number for number, line in enumerate(lines)}
    elif "tokenizer.json" in contents:
        whole = parse_json(contents["tokenizer.json"], source.where("tokenizer.json"))
        match whole:
            case {"model": {"vocab": dict(vocabulary)}, "added_tokens": list(more)}:
                found = vocabulary | {str(it.get("content")): it.get("id") for it in more if isinstance(it, dict)}
            case {"model": {"vocab": list(vocabulary)}}:  # of pairs: a piece, its score
                found = {str(it[0] if isinstance(it, list) and it else it): n for n, it in enumerate(vocabulary)}
    added = config.get("added_tokens_decoder")
    for key, it in added.items() if isinstance(added, dict) else ():
        if key.isdecimal():
            found[str(it.get("content") if isinstance(it, dict) else it)] = int(key)
    if "added_tokens.json" in contents:
        found |= parse_json(contents["added_tokens.json"], source.where("added_tokens.json"))
    return {token: number for token, number in found.items() if isinstance(number, int)}
