# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The modules of a sentence-transformers model, which an output keeps in the place of ours."""

from __future__ import annotations

import io
import re

from .errors import ConversionError
from .formats import MODEL_TYPE, MODULE_LIST
from .other_kinds import is_splade
from .pickles import read_pickle
from .sources import Folder, config_file, parse_json, read_bytes, read_json, to_json
from .weights import read_header, write_safetensors

TRANSFORMER = "sentence_bert_config.json"  # the settings of the first module
SETTINGS = "config_sentence_transformers.json"
BELOW = "0_Transformer"
TYPE = r"sentence_transformers(?:\.\w+)*\.(Transformer|Pooling|Normalize|Dense|LayerNorm)"
FILES = {"Pooling": 1, "Normalize": 0, "Dense": 2, "LayerNorm": 2}  # that a module of the kind has at least
SIZE_LIMIT = 1 << 27  # bytes of one file; a Dense layer of bert-large has 4 MB


def has_own_modules(root: Folder, config: dict) -> bool:
    """Whether the modules in a folder are not those that this program, and the classes, write."""
    ours = config.get("model_type") == MODEL_TYPE or "pooler_source" in config
    own = config.get("keep_modules") is True or not ours
    return own and MODULE_LIST in root.names() and not is_splade(root)


def model_folder(root: Folder) -> Folder:
    """The folder of the model itself: until version 2, sentence-transformers saved it as the first module."""
    is_below = MODULE_LIST in root.names() and config_file(root) is None
    return root.below(BELOW) if is_below and (root.path / BELOW / "config.json").is_file() else root


def own_modules(root: Folder, model: Folder, with_code: bool) -> tuple[dict[str, bytes], dict[str, str]]:
    """The files to write, by their paths in the output, and what is left out of them, with the reason.

    Args:
        root: The sentence-transformers model.
        model: The folder of the BERT in it.
        with_code: Whether our classes load the output: sentence-transformers then tells them to skip the MLM head.

    Raises:
        ConversionError: A module is code of its own, or of an unknown kind; or a file is damaged.
    """
    where, listed = root.where(MODULE_LIST), read_bytes(root, MODULE_LIST)
    modules = parse_json(b'{"modules":' + listed + b"}", where)["modules"]  # it is a list
    files: dict[str, bytes] = {}
    for number, module in enumerate(modules if isinstance(modules, list) else [None]):
        match module:
            case {"type": str(name), "path": str(path)} if (kind := re.fullmatch(TYPE, name)) and (
                (kind[1] == "Transformer" and path == ("" if model is root else BELOW))
                if number == 0
                else re.fullmatch(r"[\w-]+", path)
            ):
                files |= _module(root, path, kind[1]) if number else {}
            case _:
                raise ConversionError(
                    where,
                    f"module {number} is {module!r:.200}; kept are a Transformer, then Pooling, Normalize, Dense and "
                    "LayerNorm of sentence-transformers",
                    "load the model with SentenceTransformer, remove what does not have to stay, and save it",
                )
    if model is not root:  # in the output the model is at the top
        listed = to_json([module | ({"path": ""} if not number else {}) for number, module in enumerate(modules)])
    files[MODULE_LIST] = listed
    if SETTINGS in root.names():
        files[SETTINGS] = read_bytes(root, SETTINGS)
    settings = read_json(model, TRANSFORMER) if TRANSFORMER in model.names() else {}
    own = {"return_logits": False}
    arguments = {name: settings.pop(name) for name in [*settings] if name.endswith(("_args", "_kwargs"))}
    if arguments or with_code:  # arguments of loads can name code
        files[TRANSFORMER] = to_json(settings | ({"model_args": own} if with_code else {}))
    elif settings:
        files[TRANSFORMER] = read_bytes(model, TRANSFORMER)
    dropped = [name for name, value in arguments.items() if value and value != own]
    return files, {f"{TRANSFORMER}'s {name}": "arguments of a load" for name in dropped}


def _module(root: Folder, path: str, kind: str) -> dict[str, bytes]:
    """The files of one module; weights in a pickle become safetensors."""
    folder = root.below(path)
    names = {it.name for it in folder.path.iterdir()} if folder.path.is_dir() else set()  # Normalize needs no file
    files = {}
    if "config.json" in names:
        config = read_json(folder, "config.json")
        activation = config.get("activation_function", "torch.")
        if not isinstance(activation, str) or not activation.startswith("torch."):
            raise ConversionError(
                folder.where("config.json"), f"activation_function is {activation!r:.100}, not torch's"
            )
        files["config.json"] = read_bytes(folder, "config.json")
    if "model.safetensors" in names:
        read_header(folder, "model.safetensors")
        files["model.safetensors"] = read_bytes(folder, "model.safetensors", SIZE_LIMIT)
    elif "pytorch_model.bin" in names:
        buffer = io.BytesIO()
        write_safetensors(buffer, read_pickle(folder, "pytorch_model.bin"))
        files["model.safetensors"] = buffer.getvalue()
    if len(files) < FILES[kind]:
        found = ", ".join(files) or "nothing"
        raise ConversionError(
            folder.where(), f"a {kind} of sentence-transformers has config and weights; found {found}"
        )
    return {f"{path}/{name}": data for name, data in files.items()}


def repo_files(names: set[str]) -> set[str]:
    """The files of modules in a repository's listing."""
    kept = r"\d+_\w+/(config\.json|model\.safetensors|pytorch_model\.bin)"
    return {name for name in names if re.fullmatch(kept, name)} | (names & {MODULE_LIST, SETTINGS, TRANSFORMER})
