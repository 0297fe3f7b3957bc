# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's name names, as a folder, and its config.json, which has to be a BERT's."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterator

from . import hub
from .bert import LIMITS, SIZE_LIMIT, SIZES
from .errors import ConversionError, HubError
from .formats import MODEL_TYPE, MODULES
from .modules import repo_files
from .other_kinds import check_files, check_model_type
from .sources import (
    LICENCES,
    TOKENIZER_FILES,
    Folder,
    Source,
    checkpoint_files,
    config_file,
    is_count,
    local_path,
    read_json,
    weights_file,
)


def may_be_repo(name: str) -> bool:
    """Whether `name` has the form of a Hub id, and is not a path that exists."""
    return bool(re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name)) and not os.path.exists(local_path(name))


def open_source(name: str, revision: str | None = None) -> Source:
    """The folder, cached snapshot or Hub repo that `name` names.

    Raises:
        ConversionError: There is none, or the Hub did not answer.
    """
    path = local_path(name)
    if os.path.isdir(path):
        if revision is not None:
            raise ConversionError(name, f"a folder has no revision {revision!r}", "leave the revision out")
        return Folder(path)
    if os.path.exists(path):
        if re.search(r"\.(zip|tar|tgz|gz|bz2|xz|zst|7z|rar)$", path.name):
            raise ConversionError(name, "an archive", "unpack it, and pass the folder that was in it")
        raise ConversionError(name, "a file", f"pass the folder that holds it: {path.parent}")
    if not may_be_repo(name):
        raise ConversionError(name, "no such folder", _instead(name))
    with hub.hub_errors(name, "no such folder, and "):
        return hub.cached_snapshot(name, revision) or hub.HubRepo(name, revision)


def _instead(name: str) -> str:
    """What to pass instead of a name that is neither a path nor an id, as far as its form tells."""
    if re.match(r"\w+://|git@", name):
        return f"nor is it a page of {hub.endpoint()} (a mirror: HF_ENDPOINT); download it, and pass the folder"
    if found := re.fullmatch(r"([\w.-]+/[\w.-]+)[@:]([\w./-]+)", name):
        return f"of a repository on the Hub, pass {found[1]}, and {found[2]} after --revision or --pooler-revision"
    return ""


def open_checkpoint(name: str, revision: str | None, keep_modules: bool = False) -> Folder:
    """The folder that `name` names; a repo on the Hub is downloaded, or taken from the cache when offline.

    Args:
        name: A folder or Hub id.
        revision: On the Hub.
        keep_modules: Whether it may be a sentence-transformers model.

    Raises:
        ConversionError: There is none, or the Hub did not answer.
    """
    with _suggesting(name):
        return _download(name, revision, keep_modules) if may_be_repo(name) else open_source(name, revision)


@contextlib.contextmanager
def _suggesting(name: str) -> Iterator[None]:
    """Adds a folder with nearly the same name, where there is one, to the error about a name that does not exist."""
    try:
        yield
    except ConversionError as error:
        path = local_path(name)
        if not os.path.exists(path) and os.path.isdir(path.parent):
            near = difflib.get_close_matches(path.name, [it.name for it in path.parent.iterdir() if it.is_dir()], n=1)
            if near:
                remedy = "; ".join(filter(None, (error.remedy, f"did you mean {path.with_name(near[0])}?")))
                raise type(error)(error.subject, error.reason, remedy) from error
        raise


def _download(name: str, revision: str | None, keep_modules: bool) -> Folder:
    """A repo's checkpoint, whole; the cached one where the Hub does not answer.

    Raises:
        ConversionError: It is no checkpoint, or the Hub did not answer and nothing is cached.
    """
    try:
        with hub.hub_errors(name, "no such folder, and "):
            repo = hub.HubRepo(name, revision)
        config = read_config(repo, keep_modules)  # checked before anything large is downloaded
        others = repo.names().intersection({"README.md", *LICENCES, *TOKENIZER_FILES, *MODULES})
        others |= repo_files(repo.names()) if keep_modules or config.get("keep_modules") is True else set()
        return repo.fetch([*others, *checkpoint_files(repo)])
    except HubError:
        with hub.hub_errors(name):
            cached = hub.cached_snapshot(name, revision)
        if cached is None:
            raise
        return cached


def _without_config(source: Source) -> str:
    """What to do where there is no config.json."""
    others = ("tokenizer", "generation", "preprocessor", "sentence", "adapter")
    names = [it for it in source.names() if re.fullmatch(r"(?i).*config.*\.json", it)]
    if named := sorted(it for it in names if not any(other in it for other in others)):
        return f"if {named[0]} is the model's, rename it to that"
    if weights_file(source) is not None:
        return "copy the config.json of the model that the training started from into the folder"
    return "pass the folder that save_pretrained wrote"


def read_config(source: Source, any_modules: bool = False) -> dict:
    """A BERT's config.json, with `BertConfig`'s sizes filled in.

    Args:
        source: Where it is.
        any_modules: Whether sentence-transformers' modules next to it do not matter, or are kept.

    Raises:
        ConversionError: There is none, it is not a BERT's, or a size in it is not valid.
    """
    file = config_file(source)
    if file is None:
        check_files(source, any_modules)
        raise ConversionError(source.where(), "no config.json", _without_config(source))
    config, where = read_json(source, file), source.where(file)
    known = config.keys() & {"pooler_source", "keep_modules"} or config.get("model_type") == MODEL_TYPE
    check_files(source, any_modules or bool(known))
    if str(config.get("architectures", ["Bert"])).startswith("['Bert"):
        config.setdefault("model_type", "bert")  # the first PyTorch BERTs have neither field; their tensors tell
    config.setdefault("model_type", None)
    check_model_type(where, config)
    for field, default in SIZES.items():
        value = config.setdefault(field, default)
        if not is_count(value) or value == 0:
            raise ConversionError(where, f"{field} is {value!r:.100}; expected a positive whole number")
        if value > LIMITS.get(field, SIZE_LIMIT):
            raise ConversionError(where, f"{field} is {value}, above {LIMITS.get(field, SIZE_LIMIT)}")
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    if hidden % heads:
        raise ConversionError(where, f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
    if not isinstance(config.get("tie_word_embeddings", True), bool):
        raise ConversionError(where, f"tie_word_embeddings is {config['tie_word_embeddings']!r:.100}; expected a flag")
    return config
