# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Which tokenizer a folder has, told from its files alone; none of its code is run."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from .errors import ConversionError, first_line
from .sources import TOKENIZER_FILES, Folder, read_json

VOCABULARIES = {"tokenizer.json", "vocab.txt"}  # without one of them there is no tokenizer


def completed_config(folder: Folder) -> dict | None:
    """tokenizer_config.json with the class that so far only the model's type told, and without pointers to code.

    None where the folder's own says all of that already, or where there is no tokenizer.
    """
    names = folder.names()
    config = read_json(folder, "tokenizer_config.json") if "tokenizer_config.json" in names else {}
    completed = {"tokenizer_class": "BertTokenizer", **config}
    completed.pop("auto_map", None)
    return completed if completed != config and names & {"tokenizer_config.json", "vocab.txt"} else None


def load_tokenizer(folder: Folder):
    """The folder's tokenizer, read from copies of its files; None where there is none.

    Raises:
        ConversionError: Its files can't be read.
    """
    if not folder.names() & VOCABULARIES:
        return None
    from transformers import AutoTokenizer

    completed = completed_config(folder)
    with tempfile.TemporaryDirectory() as copies:
        for name in folder.names().intersection(TOKENIZER_FILES):
            shutil.copyfile(folder.local(name), Path(copies, name))
        if completed is not None:
            Path(copies, "tokenizer_config.json").write_text(json.dumps(completed), encoding="utf-8")
        try:
            return AutoTokenizer.from_pretrained(copies)
        except Exception as error:  # the tokenizers library raises nothing more particular
            raise ConversionError(f"{folder.where()}: its tokenizer can't be read: {first_line(error)}") from error
