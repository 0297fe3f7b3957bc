# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Grafts the original pooler into a BERT checkpoint that lost it in masked-language-model (MLM) training.

    python convert.py CHECKPOINT [CHECKPOINT ...]

Four steps, each a function: `read_checkpoint` (config and headers, no weights), `plan_conversion` (the donor, its
lineage, every check; nothing is written yet), `write_output` (into a temporary sibling of the destination) and
`verify_output` (reopen what was written, byte by byte and through `AutoModel`). Only then is the folder renamed into
place. Bytes of safetensors move from file to file; only `pytorch_model.bin`, `--calibrate` (which refits the pooler
between plan and write: calibration.py) and the verification import torch.

Nothing of the input is executed: pickles load with `weights_only=True`, its `auto_map` is dropped, no `.py` is copied.
The file format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import glob
import hashlib
import importlib
import importlib.util
import json
import math
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import yaml
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, metadata_load, try_to_load_from_cache
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    disable_progress_bars,
    yaml_dump,
)
from huggingface_hub.utils.logging import set_verbosity_error
from tqdm import tqdm

__all__ = ["ConversionError", "ConversionReport", "convert", "main"]

# --- What is known beforehand: data ----------------------------------------------------------------------------------

MODEL_TYPE = "bert_pooled_mlm"
CODE_FILES = ("configuration_bert_pooled_mlm.py", "modeling_bert_pooled_mlm.py")
# The configuration's AUTO_MAP again, since this file imports neither of the two; a test holds them together.
AUTO_MAP = {
    "AutoConfig": "configuration_bert_pooled_mlm.BertPooledMLMConfig",
    "AutoModel": "modeling_bert_pooled_mlm.BertPooledMLMModel",
    "AutoModelForMaskedLM": "modeling_bert_pooled_mlm.BertPooledMLMForMaskedLM",
    "AutoModelForPreTraining": "modeling_bert_pooled_mlm.BertPooledMLMForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_bert_pooled_mlm.BertPooledMLMForSequenceClassification",
}
ARCHITECTURE = {"pooled": "BertPooledMLMForMaskedLM", "bert": "BertForMaskedLM"}

POOLER = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
WORD_EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
MLM_BIAS = "cls.predictions.bias"
# Stored beside what they are tied to by some versions of transformers, and instead of it by others.
TIED = {"cls.predictions.decoder.weight": WORD_EMBEDDINGS, "cls.predictions.decoder.bias": MLM_BIAS}
DROPPED = {
    "bert.embeddings.position_ids": "a constant, stored by transformers before 4.31",
    "cls.seq_relationship.weight": "the next-sentence head",
    "cls.seq_relationship.bias": "the next-sentence head",
}
WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
OLD_SUFFIXES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

DTYPE_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
COPIED = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "added_tokens.json",
    "spiece.model", "sentencepiece.bpe.model", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt",
)  # fmt: skip
# What a folder without weights of its own may be instead, told by a file in it, and what to run first.
OTHER_KINDS = (
    ("adapter_config.json", "a PEFT adapter, not a model",
     "merge it first: PeftModel.from_pretrained(BertForMaskedLM.from_pretrained(BASE), FOLDER).merge_and_unload()"
     ".save_pretrained(MERGED)"),
    ("modules.json", "a sentence-transformers model, trained with a pooling of its own and without an MLM head",
     "load it with SentenceTransformer(FOLDER), or convert the MLM checkpoint that it was made from"),
    ("zero_to_fp32.py", "a DeepSpeed checkpoint whose weights are split over ranks",
     "merge them first: python zero_to_fp32.py . OUT, in that folder"),
    ("pytorch_model_fsdp_0", "an FSDP checkpoint whose weights are split over ranks",
     "merge them first: accelerate merge-weights FOLDER/pytorch_model_fsdp_0 OUT"),
    (".metadata", "a distributed (DCP) checkpoint whose weights are split over ranks",
     "merge them first: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER OUT"),
    ("tf_model.h5", "a TensorFlow checkpoint",
     "with transformers 4.x: BertForMaskedLM.from_pretrained(FOLDER, from_tf=True).save_pretrained(OUT)"),
    ("model.ckpt.index", "a TensorFlow 1 checkpoint",
     "with transformers 4.x: transformers-cli convert --model_type bert"),
    ("flax_model.msgpack", "a Flax checkpoint",
     "with transformers 4.x: BertForMaskedLM.from_pretrained(FOLDER, from_flax=True).save_pretrained(OUT)"),
)  # fmt: skip

HEADER_LIMIT = 8 << 20  # bytes; a BERT of 24 layers needs 0.05 MB
JSON_LIMIT = 8 << 20  # bytes
LAYER_LIMIT = 1024
CHUNK = 1 << 20  # bytes
MESSAGE_LIMIT = 4000  # characters
# Measured (docs/lineage.md): continued pre-training keeps the cosine above 0.98, strangers stay below 0.02.
LINEAGE_THRESHOLD = 0.5
# Two donors whose distances (1 - cosine; below the floor, rounding) are within the factor can't be told apart.
TIE_FACTOR, DISTANCE_FLOOR = 2, 5e-6


class KnownDonor(NamedTuple):
    """A published BERT that has a pooler, as a guess for checkpoints that do not say where they come from."""

    repo_id: str
    vocab_size: int
    hidden_size: int = 768
    num_hidden_layers: int = 12
    checked: bool = False  # against the Hub itself; what is not checked is from published configs


KNOWN_DONORS = (
    KnownDonor("google-bert/bert-base-uncased", 30522),
    KnownDonor("google-bert/bert-base-cased", 28996),
    KnownDonor("google-bert/bert-large-uncased", 30522, 1024, 24),
    KnownDonor("google-bert/bert-large-cased", 28996, 1024, 24),
    KnownDonor("google-bert/bert-large-uncased-whole-word-masking", 30522, 1024, 24),
    KnownDonor("google-bert/bert-large-cased-whole-word-masking", 28996, 1024, 24),
    KnownDonor("google-bert/bert-base-multilingual-uncased", 105879),
    KnownDonor("google-bert/bert-base-multilingual-cased", 119547),
    KnownDonor("google-bert/bert-base-chinese", 21128),
    KnownDonor("google-bert/bert-base-german-cased", 30000),
    KnownDonor("hfl/chinese-bert-wwm", 21128),
    KnownDonor("hfl/chinese-bert-wwm-ext", 21128),
    KnownDonor("hfl/chinese-roberta-wwm-ext", 21128),
    KnownDonor("hfl/chinese-roberta-wwm-ext-large", 21128, 1024, 24),
    KnownDonor("hfl/chinese-macbert-base", 21128),
    KnownDonor("hfl/chinese-macbert-large", 21128, 1024, 24),
    KnownDonor("hfl/rbt3", 21128, 768, 3),
    KnownDonor("hfl/rbtl3", 21128, 1024, 3),
    KnownDonor("allenai/scibert_scivocab_uncased", 31090),
    KnownDonor("allenai/scibert_scivocab_cased", 31116),
    KnownDonor("dmis-lab/biobert-base-cased-v1.2", 28996),
    KnownDonor("emilyalsentzer/Bio_ClinicalBERT", 28996),
    KnownDonor("microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract", 30522),
    KnownDonor("nlpaueb/legal-bert-base-uncased", 30522),
)


class ConversionError(Exception):
    """A refusal, in one line: what is wrong, where, what was expected and found, and what to do.

    Names out of the checkpoint's files stand in it, so what is not printable is escaped, and the length is bounded.
    """

    def __init__(self, message: str):
        if len(message) > MESSAGE_LIMIT:
            message = f"{message[: MESSAGE_LIMIT // 2]} [...] {message[-MESSAGE_LIMIT // 2 :]}"
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


# --- Where files lie: a folder, or a repo on the Hub -----------------------------------------------------------------


class Folder:
    """A local folder, or a repo's snapshot in the Hub's cache. Files are opened inside it only."""

    def __init__(self, path: Path, label: str | None = None, commit: str | None = None):
        self.path = path
        self.label = label or os.path.basename(os.path.abspath(path))
        self.commit = commit
        # A snapshot in the Hub's cache holds links into the blobs/ of its repo, and nowhere else.
        real = Path(os.path.realpath(path))
        blobs = real.parent.parent / "blobs"
        self.roots = [real, blobs] if real.parent.name == "snapshots" else [real]

    def where(self, name: str) -> str:
        return f"{self.label}/{name} (in the Hub's cache)" if self.commit else str(self.path / name)

    def names(self) -> set[str]:
        return {entry.name for entry in self.path.iterdir()}

    def local(self, name: str) -> Path:
        """The file's path, once it is certain that it is a plain file inside the folder."""
        path = self.path / name
        target = Path(os.path.realpath(path))  # Path.resolve raises at a circle of links
        if not any(target.is_relative_to(root) for root in self.roots):
            raise ConversionError(f"{path}: a link that leads out of the folder, to {target}; copy the file in")
        if not path.is_file():
            raise ConversionError(f"{path}: expected a file, found something else or a dead link; remove it")
        return path

    def size(self, name: str) -> int:
        return self.local(name).stat().st_size

    def open(self, name: str) -> BinaryIO:
        return self.local(name).open("rb")


class HubRepo:
    """A repo on the Hub, read by byte range: what is not asked for does not come over the wire."""

    def __init__(self, repo_id: str, revision: str | None):
        info = HfApi().model_info(repo_id, revision=revision)
        self.label = info.id  # the canonical one, where `repo_id` is an older name
        self.commit = info.sha
        self._revision = revision
        self._names = {sibling.rfilename for sibling in info.siblings}
        self._files = HfFileSystem()

    def where(self, name: str) -> str:
        return f"{self.label}/{name} (on the Hub)"

    def names(self) -> set[str]:
        return self._names

    def size(self, name: str) -> int:
        return self._files.info(f"{self.label}/{name}", revision=self.commit)["size"]

    def open(self, name: str) -> BinaryIO:
        # Without a cache, exactly the bytes that are read are fetched (huggingface_hub 0.36 to 2.4).
        return self._files.open(f"{self.label}/{name}", revision=self.commit, cache_type="none")

    def download(self, names: list[str]) -> Folder:
        """Fetches whole files into the Hub's cache, with huggingface_hub's own progress bars.

        Raises:
            ConversionError: The branch moved on while it was read.
        """
        for name in names:  # by branch, so that the cache knows what it points to, also offline
            path = Path(hf_hub_download(self.label, name, revision=self._revision))
        folder = Folder(path.parent, self.label, self.commit)
        if path.parent.name != self.commit:
            raise ConversionError(f"{self.label}: changed on the Hub while it was read; run it again")
        return folder


Place = Folder | HubRepo


@contextlib.contextmanager
def hub_errors(repo_id: str, otherwise: str = "no such folder, and ") -> Iterator[None]:
    """Turns each way in which the Hub fails into one line; `otherwise` says what `repo_id` is not either."""
    try:
        yield
    except GatedRepoError as error:
        raise HubError(
            f"{repo_id}: gated on the Hub; accept its terms on its page, then set HF_TOKEN or run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ConversionError(
            f"{repo_id}: {otherwise}no such repository on the Hub (a private one needs HF_TOKEN or `hf auth login`)"
        ) from error
    except RevisionNotFoundError as error:
        raise ConversionError(f"{repo_id}: the repository on the Hub has no such revision") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise HubError(
            f"{repo_id}: {otherwise}not in the local cache, and the Hub is not asked (HF_HUB_OFFLINE is set, or "
            f"it can't be reached); go online, or run `hf download {repo_id}` elsewhere and pass the folder"
        ) from error
    except EntryNotFoundError as error:
        raise ConversionError(f"{repo_id}: a file is missing on the Hub: {_first_line(error)}") from error
    except HFValidationError as error:
        raise ConversionError(f"{repo_id}: {otherwise}not a repository id of the Hub") from error
    except (OSError, *HfHubHTTPError.__bases__) as error:  # the second: requests', httpx's or httpx2's own base class
        raise HubError(f"{repo_id}: {otherwise}the Hub failed ({_first_line(error)}); try again") from error


class HubError(ConversionError):
    """The Hub has, or may have, the thing, but did not give it."""


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def reading(place: Place) -> contextlib.AbstractContextManager:
    """The context for reading from `place`: what goes wrong with the Hub becomes a `ConversionError`."""
    return hub_errors(place.label, "") if isinstance(place, HubRepo) else contextlib.nullcontext()


def local_path(name: str | os.PathLike) -> Path:
    """`name` as a path that has a last part; unlike `Path.expanduser` and `resolve`, this never raises."""
    path = Path(os.path.expanduser(name))
    return path if path.name not in ("", "..") else Path(os.path.abspath(path))


def open_place(name: str, revision: str | None = None) -> Place:
    """The folder, cached snapshot or Hub repo that `name` stands for.

    Raises:
        ConversionError: There is none, or the Hub did not answer.
    """
    path = local_path(name)
    if os.path.isdir(path):
        if revision is not None:
            raise ConversionError(f"{name}: a folder has no revision {revision!r}; leave the revision out")
        return Folder(path)
    if os.path.exists(path):
        raise ConversionError(f"{name}: expected a checkpoint's folder, found a file; pass the folder that holds it")
    if not _may_be_repo(name):
        raise ConversionError(f"{name}: no such folder")
    with hub_errors(name):
        return _cached_snapshot(name, revision) or HubRepo(name, revision)


def _cached_snapshot(repo_id: str, revision: str | None) -> Folder | None:
    """The repo's snapshot in the Hub's cache, if its config and weights are all there."""
    config = try_to_load_from_cache(repo_id, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Folder(Path(config).parent, repo_id, Path(config).parent.name)
    found = weight_files(folder)
    return folder if len(found) > 1 and folder.names().issuperset(found) else None


def fetch(name: str, revision: str | None) -> Folder:
    """The folder that `name` stands for; a repo on the Hub is downloaded, or taken from the cache when offline.

    Raises:
        ConversionError: There is none, or the Hub did not answer.
    """
    if not os.path.isdir(local_path(name)) and _may_be_repo(name):
        try:
            with hub_errors(name):
                repo = HubRepo(name, revision)
                read_config(repo)  # refuses what is no checkpoint before anything large is fetched
                return repo.download([*repo.names().intersection({"README.md", *COPIED}), *weight_files(repo)])
        except HubError:
            with hub_errors(name):
                cached = _cached_snapshot(name, revision)
            if cached is not None:
                return cached
            raise
    return open_place(name, revision)


def _may_be_repo(name: str) -> bool:
    return bool(re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name)) and not os.path.exists(name)


def read_json(place: Place, name: str) -> dict:
    """Reads a JSON object of bounded size.

    Raises:
        ConversionError: It is too large, not JSON, nested too deeply, or not an object.
    """
    size = place.size(name)
    if size > JSON_LIMIT:
        raise ConversionError(f"{place.where(name)}: {size} bytes; expected at most {JSON_LIMIT} of such a file")
    with place.open(name) as file:
        return parse_json(file.read(size), place.where(name))


def parse_json(text: bytes, where: str) -> dict:
    def without_duplicates(pairs):
        found: dict = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key {key!r} stands there twice")
            found[key] = value
        return found

    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{where}: not valid JSON ({_first_line(error)}); the file is damaged") from error
    if not isinstance(found, dict):
        raise ConversionError(f"{where}: expected a JSON object, found {type(found).__name__}; the file is damaged")
    return found


# --- Tensors without torch -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that has not been read: where its bytes lie."""

    place: Place
    file: str
    dtype: str  # safetensors' code
    shape: tuple[int, ...]
    start: int  # in the file, bytes
    data: memoryview | None = None  # in memory already: out of a pickle, or cast

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    def chunks(self) -> Iterator[memoryview]:
        """The bytes, a bounded piece at a time, each valid until the next one."""
        if self.data is not None:
            yield self.data
            return
        left = self.nbytes
        buffer = memoryview(bytearray(min(left, CHUNK)))  # one for all pieces: new ones cost more than the copying
        with self.place.open(self.file) as file:
            file.seek(self.start)
            while left:
                if isinstance(self.place, HubRepo):  # fsspec's readinto does not check what the server sends
                    piece = memoryview(file.read(min(left, CHUNK)))
                else:
                    piece = buffer[: file.readinto(buffer[: min(left, CHUNK)])]
                if not 0 < len(piece) <= left:
                    raise ConversionError(f"{self.place.where(self.file)}: ended {left} bytes early; was it changed?")
                left -= len(piece)
                yield piece

    def read(self) -> bytes:
        return b"".join(map(bytes, self.chunks()))

    def values(self) -> np.ndarray:
        """The values, float64, flat."""
        raw = self.read()
        with np.errstate(invalid="ignore"):  # a signalling NaN
            if self.dtype == "BF16":  # the upper half of a float32
                return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
            return np.frombuffer(raw, NUMPY[self.dtype]).astype(np.float64)

    def cast(self, dtype: str) -> Tensor:
        """In memory, in another floating dtype; the bits as they are where it is the same.

        Raises:
            ConversionError: A value is not finite, or too large for `dtype`.
        """
        values = self.values()
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = values if dtype == "F64" else values.astype("<f4")  # as torch does, also on the way to float16
            narrow = narrow if dtype == "BF16" else narrow.astype(NUMPY[dtype])
        if dtype == "BF16":  # round to nearest, ties to even, as torch does
            bits = narrow.view("<u4")
            rounded = ((bits.astype("<u8") + ((bits >> 16) & 1) + 0x7FFF) >> 16).astype("<u2")
            narrow, finite = rounded, (rounded & 0x7F80) != 0x7F80
        else:
            finite = np.isfinite(narrow)
        if not (finite.all() and np.isfinite(values).all()):
            raise ConversionError(f"{self.place.where(self.file)}: its pooler is not finite as {FLOATS[dtype]}")
        raw = self.read() if dtype == self.dtype else narrow.tobytes()
        return dataclasses.replace(self, dtype=dtype, data=memoryview(raw))

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for piece in self.chunks():
            digest.update(piece)
        return digest.hexdigest()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def read_header(place: Place, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, from its header.

    Raises:
        ConversionError: The header is damaged, lies about dtypes, shapes or offsets, or is larger than any BERT's.
    """
    where = place.where(name)
    size = place.size(name)
    with place.open(name) as file:
        length = int.from_bytes(file.read(8), "little") if size >= 8 else size
        if size < 8 or 8 + length > size:
            raise ConversionError(
                f"{where}: a header of {length} bytes in a file of {size}: truncated, or not safetensors"
            )
        if length > HEADER_LIMIT:
            raise ConversionError(f"{where}: a header of {length} bytes; expected at most {HEADER_LIMIT} of a BERT")
        header = parse_json(file.read(length), where)
    header.pop("__metadata__", None)
    tensors = {}
    for key, entry in header.items():
        match entry:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]} if len(entry) == 3:
                pass
            case _:
                raise ConversionError(f"{where}: the header's entry of {key!r} is not one of a tensor; it is damaged")
        if dtype not in DTYPE_BYTES:
            raise ConversionError(f"{where}: {key} has the unknown dtype {dtype!r}; expected {', '.join(FLOATS)}")
        if len(shape) > 8 or not all(map(_is_count, [*shape, begin, end])):
            raise ConversionError(
                f"{where}: {key} has the shape {str(shape)[:80]} at {begin} to {end}; expected a few whole numbers"
            )
        tensors[key] = Tensor(place, name, dtype, tuple(shape), 8 + length + begin)
        if end - begin != tensors[key].nbytes:
            raise ConversionError(
                f"{where}: {key} ({dtype} {shape}) has {tensors[key].nbytes} bytes; the header says {end - begin}"
            )
    end = 8 + length
    for key, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if tensor.start != end:
            raise ConversionError(f"{where}: {key} starts at byte {tensor.start}, expected {end}: overlap or gap")
        end += tensor.nbytes
    if end != size:
        raise ConversionError(f"{where}: the header describes {end} bytes, the file has {size}: truncated or damaged")
    return tensors


def read_pickle(place: Folder, name: str) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, mapped where the format allows it; nothing else in it is unpickled.

    Raises:
        ConversionError: It holds more than tensors, or is damaged.
    """
    import torch

    codes = {getattr(torch, long): short for short, long in FLOATS.items()} | {torch.int64: "I64"}
    path = place.local(name)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except Exception as error:  # torch raises whatever a damaged pickle runs into
        raise ConversionError(
            f"{path}: torch.load(weights_only=True) refused it ({_first_line(error)}). It is damaged, or holds more "
            "than tensors, and unpickling that could run code. If you trust it, load it in the program that wrote it "
            "and save it anew: model.save_pretrained(folder)"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConversionError(
            f"{path}: expected a dict of tensors; found something else (a training checkpoint?); save the model with "
            "model.save_pretrained(folder)"
        )
    tensors = {}
    for key, value in state.items():
        if value.dtype not in codes or value.layout != torch.strided or value.device.type != "cpu":
            found = f"{value.dtype}, {value.layout}, on {value.device}"
            raise ConversionError(f"{path}: {key} is {found}; expected values of {', '.join(FLOATS.values())}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ConversionError(f"{path}: {key} is an expanded view, of more values than are stored; save it anew")
        raw = value.resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy()
        tensors[str(key)] = Tensor(place, name, codes[value.dtype], tuple(value.shape), 0, memoryview(raw))
    return tensors


def read_tensors(place: Place) -> dict[str, Tensor]:
    """All tensors of a checkpoint, under the names that it stores.

    Raises:
        ConversionError: No weights, or an index that does not fit its shards.
    """
    names = place.names()
    found = next((name for name in WEIGHT_FILES if name in names), None)
    if found is None:
        raise ConversionError(f"{place.where('')}: no weights; expected one of {', '.join(WEIGHT_FILES)}")
    read = read_pickle if ".bin" in found else read_header
    if not found.endswith(".index.json"):
        return read(place, found)
    index = read_json(place, found).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(shard, str) for shard in index.values()):
        raise ConversionError(f"{place.where(found)}: no weight_map of tensors to files; it is damaged")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(index.values())):
        if shard != Path(shard).name or "\\" in shard or not shard.endswith((".safetensors", ".bin")):
            raise ConversionError(
                f"{place.where(found)}: names the shard {shard!r}; expected a file in the same folder"
            )
        if shard not in names:
            raise ConversionError(f"{place.where(found)}: names the shard {shard}, which is missing; copy it there")
        stored = read(place, shard)
        listed = {key for key, file in index.items() if file == shard}
        if stored.keys() != listed:
            raise ConversionError(
                f"{place.where(shard)}: its tensors are not those that {found} lists: "
                f"{_some(sorted(stored.keys() ^ listed))}; the index belongs to other shards"
            )
        tensors.update(stored)
    return tensors


def weight_files(place: Place) -> list[str]:
    """The files that hold a checkpoint's config and weights, as its index names them; config.json last."""
    weights = next((name for name in WEIGHT_FILES if name in place.names()), None)
    shards: set[str] = set()
    if weights is not None and weights.endswith(".index.json"):
        listed = read_json(place, weights).get("weight_map")
        shards = {str(shard) for shard in listed.values()} if isinstance(listed, dict) else set()
        if isinstance(place, HubRepo):  # what the index names and the repo lacks is refused when it is read
            shards &= place.names()
    return [*sorted(shards), *([weights] if weights else []), "config.json"]


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# --- Step 1: read ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Checkpoint:
    """A BERT checkpoint's config and tensors, under today's names, none of them read yet."""

    place: Place
    config: dict
    tensors: dict[str, Tensor]
    dropped: dict[str, str]  # stored name -> reason

    @property
    def lineage(self) -> Tensor:
        return self.tensors[lineage_key(self.config)]

    @property
    def dtype(self) -> str:
        return self.lineage.dtype

    @property
    def has_pooler(self) -> bool:
        return all(key in self.tensors for key in POOLER)

    @property
    def is_converted(self) -> bool:
        """Whether its pooler is one that this program or the pooled classes stored, not a later, random one."""
        if not self.has_pooler or self.config["model_type"] == MODEL_TYPE:
            return self.has_pooler
        source = self.config.get("pooler_source")
        return _is_source(source) and source["sha256"] == {key: self.tensors[key].sha256() for key in POOLER}


def lineage_key(config: dict) -> str:
    """The encoder tensor close to the pooler that depends on neither vocabulary nor length."""
    return f"bert.encoder.layer.{config['num_hidden_layers'] - 1}.attention.output.dense.weight"


BERT_DEFAULTS = {
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 2,
}  # fmt: skip


BERT_OPTIONS = (
    "hidden_act",
    "layer_norm_eps",
    "pad_token_id",
    "position_embedding_type",
    "is_decoder",
)  # may be given


def read_config(place: Place) -> dict:
    """A BERT's config.json, with `BertConfig`'s defaults filled in.

    Raises:
        ConversionError: There is none, it is not a BERT's, or a size in it is none.
    """
    names = place.names()
    for marker, kind, advice in OTHER_KINDS[:1] if "config.json" in names else OTHER_KINDS:
        if marker in names:
            raise ConversionError(f"{place.where('')}: {kind}; {advice}")
    if "config.json" not in names:
        raise ConversionError(f"{place.where('')}: no config.json; pass the folder that save_pretrained wrote")
    config, where = read_json(place, "config.json"), place.where("config.json")
    architectures = config.get("architectures")
    if "model_type" not in config and str(architectures).startswith("['Bert"):
        config["model_type"] = "bert"  # as in the earliest checkpoints
    if config.get("model_type") not in ("bert", MODEL_TYPE):
        raise ConversionError(
            f"{where}: model_type is {config.get('model_type')!r}; only BERT ('bert') has this pooler"
        )
    for field, default in BERT_DEFAULTS.items():
        value = config.setdefault(field, default)
        if not _is_count(value) or value == 0:
            raise ConversionError(f"{where}: {field} is {value!r}; expected a positive whole number")
    if config["num_hidden_layers"] > LAYER_LIMIT:
        raise ConversionError(f"{where}: num_hidden_layers is {config['num_hidden_layers']}, above {LAYER_LIMIT}")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise ConversionError(
            f"{where}: hidden_size {config['hidden_size']} is not a multiple of num_attention_heads "
            f"{config['num_attention_heads']}"
        )
    if not isinstance(config.get("tie_word_embeddings", True), bool):
        raise ConversionError(
            f"{where}: tie_word_embeddings is {config['tie_word_embeddings']!r}; expected true or false"
        )
    return config


def expected_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """The tensors of `BertForMaskedLM` with this config, pooler and tied ones included: name to shape."""
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]

    def dense(name: str, inputs: int, outputs: int) -> dict:
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    def norm(name: str) -> dict:
        return {f"{name}.weight": (hidden,), f"{name}.bias": (hidden,)}

    shapes = {
        WORD_EMBEDDINGS: (vocabulary, hidden),
        "bert.embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "bert.embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        **norm("bert.embeddings.LayerNorm"),
    }
    for number in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{number}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= dense(f"{layer}.attention.{part}", hidden, hidden)
        shapes |= norm(f"{layer}.attention.output.LayerNorm")
        shapes |= dense(f"{layer}.intermediate.dense", hidden, inner)
        shapes |= dense(f"{layer}.output.dense", inner, hidden)
        shapes |= norm(f"{layer}.output.LayerNorm")
    return {
        **shapes,
        **dense("bert.pooler.dense", hidden, hidden),
        **dense("cls.predictions.transform.dense", hidden, hidden),
        **norm("cls.predictions.transform.LayerNorm"),
        MLM_BIAS: (vocabulary,),
        "cls.predictions.decoder.weight": (vocabulary, hidden),
        "cls.predictions.decoder.bias": (vocabulary,),
    }


def todays_names(place: Place, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names that transformers gives them now."""
    renamed: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        name = key
        while name.startswith(WRAPPER_PREFIXES):
            name = name.removeprefix(WRAPPER_PREFIXES[0]).removeprefix(WRAPPER_PREFIXES[1])
        for old, new in OLD_SUFFIXES.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        if name in renamed:
            raise ConversionError(f"{place.where('')}: {name} is stored twice, once as {key}; delete one of them")
        renamed[name] = tensor
    return renamed


def read_checkpoint(place: Place) -> Checkpoint:
    """Reads config and headers of an MLM checkpoint, and holds every tensor against what its config promises.

    Raises:
        ConversionError: It is not a whole BERT with an MLM head; all offenders are listed.
    """
    config = read_config(place)
    names = place.names()
    for marker, kind, advice in OTHER_KINDS:
        if marker in names and (
            not names.intersection(WEIGHT_FILES) or (marker == "modules.json" and "pooler_source" not in config)
        ):
            raise ConversionError(f"{place.where('')}: {kind}; {advice}")
    stored = todays_names(place, read_tensors(place))
    dropped = {name: reason for name, reason in DROPPED.items() if stored.pop(name, None)}
    if not any(name.startswith("cls.predictions.") for name in stored):
        with_pooler = any("pooler.dense." in name for name in stored)
        raise ConversionError(
            f"{place.where('')}: no MLM head (cls.predictions.*)"
            + (", but a pooler: nothing was lost; load it with BertModel" if with_pooler else
               "; it was not saved from BertForMaskedLM, or is the checkpoint of another task")
        )  # fmt: skip
    _settle_tied(place, config, stored, dropped)
    shapes = expected_shapes(config)
    unknown = sorted(stored.keys() - shapes.keys())
    missing = sorted(shapes.keys() - stored.keys() - {*POOLER, *TIED})
    if config.get("tie_word_embeddings", True) is False and "cls.predictions.decoder.weight" not in stored:
        missing.append("cls.predictions.decoder.weight (config.json says tie_word_embeddings: false)")
    wrong = [
        f"{name} is {tensor.dtype} {list(tensor.shape)}, expected a floating {list(shapes[name])}"
        for name, tensor in sorted(stored.items())
        if name in shapes and (tensor.shape != shapes[name] or tensor.dtype not in FLOATS)
    ]
    for problem, what in ((unknown, "unknown tensors"), (missing, "missing tensors"), (wrong, "wrong tensors")):
        if problem:
            raise ConversionError(
                f"{place.where('')}: {what}, for a BERT with this config.json: {_some(problem)}; is the config of "
                "another checkpoint, or the model not a plain BertForMaskedLM?"
            )
    return Checkpoint(place, config, stored, dropped)


def _settle_tied(place: Place, config: dict, stored: dict[str, Tensor], dropped: dict[str, str]) -> None:
    """Leaves one copy of each tied pair, under the name that every version of transformers reads."""
    for copy, original in TIED.items():
        if copy not in stored or config.get("tie_word_embeddings", True) is False:
            continue
        if original not in stored:
            stored[original] = stored.pop(copy)
        elif stored[copy].dtype == stored[original].dtype and same_bytes(stored[copy], stored[original]):
            del stored[copy]
            dropped[copy] = f"tied to {original}"
        else:
            raise ConversionError(
                f"{place.where('')}: {copy} differs from {original}, which config.json ties it to; a load would lose "
                "it. If the model was trained untied, set tie_word_embeddings to false in config.json"
            )


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and bits."""
    return one.shape == other.shape and one.sha256() == other.sha256()


# --- Step 2: plan ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Candidate:
    """A checkpoint whose pooler may be taken: config and headers, and the tensors that were asked for, read once."""

    place: Place
    config: dict
    tensors: dict[str, Tensor]

    def tensor(self, key: str) -> Tensor | None:
        """By its full name; checkpoints saved from `BertModel` leave `bert.` out."""
        return self.tensors.get(key) or self.tensors.get(key.removeprefix("bert."))

    def load(self, key: str) -> Tensor:
        """The tensor, in memory from now on."""
        tensor = self.tensor(key)
        if tensor.data is None:
            with reading(self.place):
                tensor = dataclasses.replace(tensor, data=memoryview(tensor.read()))
            self.tensors[key] = tensor
        return tensor


@dataclasses.dataclass
class Donor:
    """A candidate held against a checkpoint."""

    candidate: Candidate
    found_by: str
    cosine: float  # of the lineage tensors
    dtype: str  # that its pooler is going to have
    objections: list[str]  # why its pooler must not be taken

    @property
    def place(self) -> Place:
        return self.candidate.place

    @property
    def distance(self) -> float:
        return max(1 - self.cosine, DISTANCE_FLOOR)

    @functools.cached_property
    def pooler(self) -> dict[str, Tensor]:
        return {key: self.candidate.load(key).cast(self.dtype) for key in POOLER}

    def __str__(self) -> str:
        return self.place.label + (f" @ {self.place.commit[:7]}" if self.place.commit else "")


@dataclasses.dataclass
class Plan:
    """All that is to be written, decided before the first byte is."""

    checkpoint: Checkpoint
    donor: Donor | None  # None: the checkpoint keeps its own pooler
    format: str
    output: Path
    shards: dict[str, dict[str, Tensor]]
    config: dict
    copied: list[str]
    left_behind: list[str]
    notes: list[str]
    tokenizer_config: dict | None  # where the input's has to be completed
    name: str  # that the model card loads it by
    card: str = ""
    calibration: dict | None = None  # what the fit is recorded by, once it has been made

    @property
    def pooler(self) -> dict[str, Tensor]:
        return {key: shard[key] for key in POOLER for shard in self.shards.values() if key in shard}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for shard in self.shards.values() for tensor in shard.values())


class Donors:
    """Finds donors; several checkpoints of one call read each donor once."""

    def __init__(self):
        self._opened: dict[tuple[str, str | None], Candidate] = {}

    def examine(self, checkpoint: Checkpoint, name: str, revision: str | None, found_by: str) -> Donor:
        """Compares a candidate with the checkpoint; of one on the Hub, its config, header and lineage tensor are read.

        Raises:
            ConversionError: It can't be read, is not a BERT, or has no pooler of the right shape.
        """
        if (name, revision) not in self._opened:
            self._opened[name, revision] = self._open(name, revision, found_by)
        candidate = self._opened[name, revision]
        hidden, expected = candidate.config["hidden_size"], checkpoint.config["hidden_size"]
        if hidden != expected:
            raise ConversionError(f"{name}: hidden_size is {hidden}, the checkpoint's is {expected}")
        key = lineage_key(candidate.config)
        similarity = cosine(checkpoint.lineage.values(), candidate.load(key).values())
        donor = Donor(candidate, found_by, similarity, checkpoint.dtype, [])
        if similarity < LINEAGE_THRESHOLD:
            donor.objections.append(
                f"its encoder is not related to the checkpoint's (cosine {similarity:.3f} of {key}, expected at least "
                f"{LINEAGE_THRESHOLD}): read through this encoder, its pooler is noise"
            )
        if not candidate.load(POOLER[1]).values().any():
            donor.objections.append(
                "its pooler was never trained (the bias is exactly zero, and any training step moves it): take [CLS] "
                "or the mean of the last hidden states instead of pooler_output"
            )
        return donor

    def _open(self, name: str, revision: str | None, found_by: str) -> Candidate:
        place = open_place(name, revision)
        for known in self._opened.values():
            if place.commit is not None and (known.place.label, known.place.commit) == (place.label, place.commit):
                return known  # under an older name of the same repo
        with reading(place):
            config = read_config(place)
            weights = next((file for file in WEIGHT_FILES if file in place.names()), None)
            if isinstance(place, HubRepo) and weights is not None and ".bin" in weights:
                if found_by is GUESSED:
                    raise ConversionError(
                        f"{name}: has only {weights}, which a guess does not download; if it is the donor: "
                        f"--pooler-from {place.label}"
                    )
                place = place.download(weight_files(place))
            candidate = Candidate(place, config, todays_names(place, read_tensors(place)))
        hidden = config["hidden_size"]
        for key, shape in {
            POOLER[0]: (hidden, hidden),
            POOLER[1]: (hidden,),
            lineage_key(config): (hidden, hidden),
        }.items():
            tensor = candidate.tensor(key)
            if tensor is None:
                what = "no pooler: it lost its own; name the model before it" if key in POOLER else "no such layer"
                raise ConversionError(f"{name}: has no {key} ({what})")
            if tensor.shape != shape or tensor.dtype not in FLOATS:
                found = f"{tensor.dtype} {list(tensor.shape)}"
                raise ConversionError(f"{name}: {key} is {found}, expected a floating {list(shape)}")
        return candidate

    def find(
        self, checkpoint: Checkpoint, pooler_from: str | None, revision: str | None, force: bool
    ) -> tuple[Donor, list[str]]:
        """The closest donor that nothing speaks against, and notes on those that were not taken.

        Raises:
            ConversionError: None, or several that can't be told apart.
        """
        if pooler_from is not None:
            donor = self.examine(checkpoint, pooler_from, revision, "--pooler-from")
            if donor.objections and not force:
                raise ConversionError(
                    f"{donor}: {'; and '.join(donor.objections)}. To take it all the same: --force-donor"
                )
            return donor, []
        refused: dict[str, list[str]] = {}  # reason -> names
        for candidates in (*named_donors(checkpoint), *known_donors(checkpoint.config)):
            fitting: list[Donor] = []
            unread = None
            for name, found_by in candidates:
                try:
                    donor = self.examine(checkpoint, name, None, found_by)
                    reasons = donor.objections
                    if not reasons and all(donor.candidate is not other.candidate for other in fitting):
                        fitting.append(donor)
                except ConversionError as error:
                    reasons = [str(error).removeprefix(f"{name}: ")]
                    if isinstance(error, HubError) and found_by is not GUESSED:
                        unread = ConversionError(f"{error} (named by {found_by}; to take another: --pooler-from)")
                for reason in reasons:
                    refused.setdefault(reason, []).append(name)
            notes = [f"{', '.join(names)}: {reason}" for reason, names in refused.items()]
            if fitting:
                return closest(checkpoint, fitting), notes
            if unread is not None:  # it may well be the right one: no guessing then
                raise unread
        raise ConversionError(
            f"{checkpoint.place.where('')}: no donor found for its pooler; name the model that its training started "
            f"from with --pooler-from FOLDER_OR_HUB_ID. Not taken: {' | '.join(notes) or 'nothing to try'}"
        )


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Of two flat float64 arrays; 0 where one of them has no direction."""
    if one.shape != other.shape:
        return 0.0
    with np.errstate(all="ignore"):
        product = float(one @ other / np.sqrt((one @ one) * (other @ other)))
    return product if math.isfinite(product) else 0.0


def closest(checkpoint: Checkpoint, donors: list[Donor]) -> Donor:
    """The donor at the smallest distance.

    Raises:
        ConversionError: Another one with a different pooler is as close.
    """
    best, *others = sorted(donors, key=lambda donor: donor.distance)
    ties = [
        donor
        for donor in others
        if donor.distance <= TIE_FACTOR * best.distance
        and any(donor.pooler[key].sha256() != best.pooler[key].sha256() for key in POOLER)
    ]
    if ties:
        raise ConversionError(
            f"{checkpoint.place.where('')}: several donors with different poolers are equally close: "
            + ", ".join(f"{donor} ({donor.cosine:.6f})" for donor in (best, *ties))
            + ". Name the one that its training started from: --pooler-from"
        )
    return best


GUESSED = "the table of well-known BERTs"
LEGACY_NAMES = {known.repo_id.split("/")[1] for known in KNOWN_DONORS if known.repo_id.startswith("google-bert/")}


def named_donors(checkpoint: Checkpoint) -> Iterator[list[tuple[str, str]]]:
    """What the checkpoint itself says that it was started from; then what the folders among that say in turn."""
    place, config, seen = checkpoint.place, checkpoint.config, {os.path.realpath(checkpoint.place.path)}
    while place is not None:
        names = [(name, found_by) for name, found_by in _names_in(place, config) if os.path.realpath(name) not in seen]
        yield names
        seen |= {os.path.realpath(name) for name, _ in names}
        folders = (local_path(name) for name, _ in names)
        place = next((Folder(path) for path in folders if os.path.isfile(path / "config.json")), None)
        if place is not None:
            try:
                config = read_json(place, "config.json")
            except ConversionError:  # said already, when it was examined
                return


def _names_in(place: Folder, config: dict) -> Iterator[tuple[str, str]]:
    source, base = config.get("pooler_source"), read_card_metadata(place).get("base_model")
    for name, found_by in (
        (source.get("donor") if isinstance(source, dict) else None, "config.json's pooler_source"),
        (config.get("_name_or_path"), "config.json's _name_or_path"),
        *((name, "README.md's base_model") for name in (base if isinstance(base, list) else [base])),
    ):
        if isinstance(name, str) and name:
            yield from ((donor, found_by) for donor in _as_donors(name))


def _as_donors(name: str) -> list[str]:
    """A folder that exists, a Hub id, or the well-known model at the end of a path that is gone."""
    path = local_path(name)
    if os.path.isdir(path):
        return [name]
    ids = [name] if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) else []
    ids += [known.repo_id for known in KNOWN_DONORS if known.repo_id.split("/")[1] == path.name]
    return list(dict.fromkeys([*ids, *([path.name] if path.name in LEGACY_NAMES else [])]))


def read_card_metadata(place: Folder) -> dict:
    """The metadata at the head of README.md, if there is one.

    Raises:
        ConversionError: It is not valid YAML.
    """
    if "README.md" not in place.names():
        return {}
    if place.size("README.md") > JSON_LIMIT:
        raise ConversionError(f"{place.where('README.md')}: more than {JSON_LIMIT} bytes; move it away")
    try:
        data = metadata_load(place.local("README.md")) or {}
        yaml_dump(data)  # what can be read can be too deep to be written
        return data
    # The last four: what PyYAML's own constructors run into.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ConversionError(
            f"{place.where('README.md')}: its metadata is not valid YAML ({_first_line(error)}); mend or remove it"
        ) from error


def known_donors(config: dict) -> Iterator[list[tuple[str, str]]]:
    """Guesses of the same shape, best first: those with this vocabulary, then those whose vocabulary it may extend."""
    shape = (config["hidden_size"], config["num_hidden_layers"])
    fitting = [known for known in KNOWN_DONORS if (known.hidden_size, known.num_hidden_layers) == shape]
    yield [(known.repo_id, GUESSED) for known in fitting if known.vocab_size == config["vocab_size"]]
    yield [(known.repo_id, GUESSED) for known in fitting if known.vocab_size < config["vocab_size"]]


def plan_conversion(
    checkpoint: Checkpoint,
    output: Path,
    donors: Donors,
    *,
    pooler_from: str | None = None,
    pooler_revision: str | None = None,
    format: str = "pooled",
    replace_pooler: bool = False,
    force_donor: bool = False,
    overwrite: bool = False,
    name: str | None = None,
    calibrate: bool = False,
) -> Plan:
    """Decides everything that is going to be written, save what `calibrate` fits anew.

    Raises:
        ConversionError: Something speaks against it; nothing has been written.
    """
    place = checkpoint.place
    if checkpoint.has_pooler and not replace_pooler and not checkpoint.is_converted:
        raise ConversionError(
            f"{place.where('')}: has a pooler already (bert.pooler.dense.*), and loads without a random one. If that "
            "one was random when it was saved, graft the original over it: --replace-pooler"
        )
    check_output(checkpoint, output, overwrite)
    donor, notes = None, []
    tensors = {key: tensor for key, tensor in checkpoint.tensors.items() if key not in POOLER or not replace_pooler}
    dropped = "replaced (--replace-pooler)"
    checkpoint.dropped.update(dict.fromkeys(sorted(checkpoint.tensors.keys() - tensors.keys()), dropped))
    if calibrate or not all(key in tensors for key in POOLER):
        donor, notes = donors.find(checkpoint, pooler_from, pooler_revision, force_donor)
        if isinstance(donor.place, Folder):
            check_apart(output, donor.place, "the donor")
        check_replaceable(checkpoint, donor, tensors)
        tensors |= donor.pooler
    names = place.names()
    copied = sorted(names.intersection(COPIED))
    for file in copied:
        place.local(file)
    handled = {"config.json", "README.md", *copied, *(tensor.file for tensor in checkpoint.tensors.values())}
    plan = Plan(
        checkpoint=checkpoint,
        donor=donor,
        format=format,
        output=output,
        shards=_shards(checkpoint, tensors),
        config={},
        copied=copied,
        left_behind=sorted(names - handled - set(WEIGHT_FILES)),
        notes=notes,
        tokenizer_config=completed_tokenizer(place),
        name=name or output.name,
    )
    plan.config = output_config(plan)
    plan.card = model_card(plan)
    disk = next(parent for parent in Path(os.path.abspath(output)).parents if parent.exists())
    if plan.nbytes > shutil.disk_usage(disk).free:
        free = shutil.disk_usage(disk).free
        raise ConversionError(f"{disk}: {plan.nbytes} bytes to write, {free} free; make room or choose another -o")
    return plan


def check_replaceable(checkpoint: Checkpoint, donor: Donor, kept: dict[str, Tensor]) -> None:
    """Refuses to replace a pooler that holds training of its own."""
    source = checkpoint.config.get("pooler_source")
    digests = {key: kept[key].sha256() for key in POOLER if key in kept}
    originals = [{key: tensor.sha256() for key, tensor in donor.pooler.items()}]
    if digests and digests not in originals + ([source["sha256"]] if _is_source(source) else []):
        raise ConversionError(
            f"{checkpoint.place.where('')}: its pooler is not that of {donor}: it has been trained, or came from "
            "another model. A fit starts from the donor's, and would replace it: --replace-pooler"
        )


def check_apart(output: Path, folder: Folder, what: str) -> None:
    target, source = Path(os.path.realpath(output)), Path(os.path.realpath(folder.path))
    if target.is_relative_to(source) or source.is_relative_to(target):
        raise ConversionError(
            f"{output}: inside {what} {folder.path}, or around it; choose a folder beside it with -o"
        )


def check_output(checkpoint: Checkpoint, output: Path, overwrite: bool) -> None:
    """Refuses a destination that could cost the user anything."""
    check_apart(output, checkpoint.place, "the checkpoint")
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise ConversionError(f"{output}: exists already; choose another with -o, or replace it with --overwrite")
    names = {entry.name for entry in output.iterdir()} if output.is_dir() and not output.is_symlink() else None
    if names is None or (names and not ("config.json" in names and names.intersection(WEIGHT_FILES))):
        raise ConversionError(
            f"{output}: does not look like a checkpoint, so --overwrite leaves it alone; remove it yourself"
        )


def _shards(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Output file names to tensors: single stays single, shards stay shards, the pooler goes beside its layer."""
    files: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        own = checkpoint.tensors.get(key)
        home = own if tensor is own else checkpoint.lineage
        files.setdefault(home.file, {})[key] = tensor
    if len(files) == 1:
        return {"model.safetensors": next(iter(files.values()))}
    return {
        f"model-{number:05d}-of-{len(files):05d}.safetensors": files[file]
        for number, file in enumerate(sorted(files), start=1)
    }


def completed_tokenizer(place: Folder) -> dict | None:
    """tokenizer_config.json with the class that so far only the model's type told, and without pointers to code."""
    names = place.names()
    config = read_json(place, "tokenizer_config.json") if "tokenizer_config.json" in names else {}
    completed = {"tokenizer_class": "BertTokenizer", **config}
    completed.pop("auto_map", None)
    return completed if completed != config and names & {"tokenizer_config.json", "vocab.txt"} else None


def output_config(plan: Plan) -> dict:
    """The input's config.json, made that of the output; nothing of its own code is followed."""
    config = {key: value for key, value in plan.checkpoint.config.items() if key not in ("auto_map", "_name_or_path")}
    digests = {key: tensor.sha256() for key, tensor in plan.pooler.items()}
    if not (_is_source(config.get("pooler_source")) and config["pooler_source"]["sha256"] == digests):
        config.pop("pooler_source", None)  # of another program, or the pooler has been trained since
    config["architectures"] = [ARCHITECTURE[plan.format]]
    if plan.format == "pooled":
        config = {"sparse_prediction": False, "return_logits": True, "tokenizer_class": "BertTokenizer", **config}
        config |= {"model_type": MODEL_TYPE, "auto_map": AUTO_MAP}
    else:
        config = {key: value for key, value in config.items() if key not in ("sparse_prediction", "return_logits")}
        config["model_type"] = "bert"
    if plan.donor is not None:
        config["pooler_source"] = {
            "donor": plan.donor.place.label,
            "revision": plan.donor.place.commit,
            "sha256": digests,
            "lineage_cosine": round(plan.donor.cosine, 6),
            **({"forced": plan.donor.objections} if plan.donor.objections else {}),
            **({"calibration": plan.calibration} if plan.calibration else {}),
        }
    return config


def _is_source(source: object) -> bool:
    """Whether `pooler_source` is what this program writes; it comes from the input, and goes into the model card."""
    match source:
        case {
            "donor": str(donor),
            "revision": str() | None,
            "sha256": dict(digests),
            "lineage_cosine": float() | int(),
        }:
            forced, fit = source.get("forced", []), source.get("calibration")
            text = [donor, source["revision"] or "", *digests, *digests.values()]
            return (
                isinstance(forced, list)
                and all(isinstance(it, str) and it.isprintable() for it in [*text, *forced])
                and (fit is None or _is_fit(fit))
            )
    return False


def _is_fit(fit: object) -> bool:
    match fit:
        case {
            "texts": int(),
            "held_out": int(),
            "sha256": str(digest),
            "penalty": float(),
            "cosine_before": float(),
            "cosine_after": float(),
        }:
            return len(fit) == 6 and digest.isalnum()
    return False


# --- Between plan and write, where it is asked for: calibrate --------------------------------------------------------


@dataclasses.dataclass
class Fitting:
    """A fit of the pooler that can begin: everything has been read and checked but the donor's whole encoder."""

    texts: list
    tokenizers: tuple  # the checkpoint's, the donor's
    length: int
    batch_size: int
    device: str


def calibration_module():
    """The sibling file; this one stands alone as long as nobody calibrates."""
    if __package__:
        return importlib.import_module(".calibration", __package__)
    return importlib.import_module("calibration")


def prepare_fit(plan: Plan, source: str, samples: int, length: int, batch_size: int, device: str | None) -> Fitting:
    """Reads the texts, and checks that both encoders can read them.

    Raises:
        ConversionError: They can't, or the donor's own pooler was not trained for its encoder.
    """
    import torch

    donor, place = plan.donor, plan.donor.place
    origin = donor.candidate.config.get("pooler_source")
    if _is_source(origin) and not origin.get("calibration"):
        raise ConversionError(
            f"{donor}: its own pooler was grafted, from {origin['donor']}, and was not trained with its encoder; "
            f"name the model that it was trained with: --pooler-from {origin['donor']}"
        )
    for config, label in ((plan.config, plan.checkpoint.place.label), (donor.candidate.config, place.label)):
        if length > config["max_position_embeddings"]:
            raise ConversionError(
                f"{label}: reads {config['max_position_embeddings']} tokens; --calibrate-length is {length}"
            )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the second: PyTorch was built without it
        raise ConversionError(f"--device {device}: {_first_line(error)}") from error
    if isinstance(place, HubRepo):
        with reading(place):
            files = sorted(place.names().intersection(COPIED))
            place = place.download(files) if files else place
    tokenizers = [load_tokenizer(folder) for folder in (plan.checkpoint.place, place)]
    if tokenizers == [None, None] or (
        None in tokenizers and plan.config["vocab_size"] != donor.candidate.config["vocab_size"]
    ):
        without = plan.checkpoint.place if tokenizers[0] is None else place
        raise ConversionError(f"{without.label}: has no tokenizer to read texts with; copy its files into the folder")
    ours, theirs = (tokenizer or tokenizers[1 - number] for number, tokenizer in enumerate(tokenizers))
    module = calibration_module()
    try:
        texts = module.read_texts(source, samples)
        module.check_texts(texts)
        module.check_tokenizers(ours, theirs, texts)
    except ValueError as error:
        raise ConversionError(f"--calibrate {source}: {_first_line(error)}") from error
    return Fitting(texts, (ours, theirs), length, batch_size, device)


def load_tokenizer(place: Place):
    """The tokenizer in a folder, without its pointers to code; None where there is none."""
    names = place.names().intersection(COPIED)
    if isinstance(place, HubRepo) or not names.intersection({"tokenizer.json", "vocab.txt"}):
        return None
    from transformers import AutoTokenizer

    completed = completed_tokenizer(place)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            shutil.copyfile(place.local(name), Path(folder, name))
        if completed is not None:
            Path(folder, "tokenizer_config.json").write_text(json.dumps(completed), encoding="utf-8")
        try:
            return AutoTokenizer.from_pretrained(folder)
        except Exception as error:  # the tokenizers library raises nothing more particular
            raise ConversionError(f"{place.where('')}: its tokenizer can't be read: {_first_line(error)}") from error


def load_encoder(config: dict, tensor_of: Callable[[str], Tensor | None], label: str):
    """A `BertModel` in float32, of tensors that have not been read yet.

    Raises:
        ConversionError: A tensor is missing, or config.json describes another model.
    """
    import torch
    from transformers import BertConfig, BertModel

    fields = {name: config[name] for name in (*BERT_DEFAULTS, *BERT_OPTIONS) if name in config}
    try:
        model = BertModel(BertConfig(**fields)).eval()
        tensors = {name: tensor_of(f"bert.{name}") for name in model.state_dict()}
        if absent := [name for name, tensor in tensors.items() if tensor is None]:
            raise ConversionError(f"{label}: has no {_some(absent)}; its encoder is not a whole one")
        model.load_state_dict(
            {
                name: torch.from_numpy(tensor.values().astype(np.float32)).reshape(tensor.shape)
                for name, tensor in tensors.items()
            }
        )
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ConversionError(f"{label}: config.json and weights make no BertModel: {_first_line(error)}") from error
    return model


def fit_pooler(plan: Plan, fitting: Fitting, progress: bool):
    """Refits the pooler of `plan` to the checkpoint's encoder, and returns what the fit found.

    Raises:
        ConversionError: The donor could not be read whole.
    """
    donor, checkpoint = plan.donor, plan.checkpoint
    candidate = donor.candidate
    if isinstance(candidate.place, HubRepo):
        with reading(candidate.place):
            place = candidate.place.download(weight_files(candidate.place))
        candidate = Candidate(place, candidate.config, todays_names(place, read_tensors(place)))
    adapted, original = (
        load_encoder(config, tensor_of, place.label).to(fitting.device)
        for config, tensor_of, place in (
            (checkpoint.config, {**checkpoint.tensors, **plan.pooler}.get, checkpoint.place),
            (candidate.config, candidate.tensor, candidate.place),
        )
    )
    try:
        found = calibration_module().calibrate_pooler(
            adapted,
            original,
            fitting.tokenizers[0],
            fitting.texts,
            donor_tokenizer=fitting.tokenizers[1],
            max_length=fitting.length,
            batch_size=fitting.batch_size,
            progress=progress,
        )
    except ValueError as error:
        raise ConversionError(f"{checkpoint.place.where('')}: the pooler can't be calibrated: {error}") from error
    if found.improved:
        values = [adapted.pooler.dense.weight, adapted.pooler.dense.bias]
        for key, value in zip(POOLER, values, strict=True):
            array = value.detach().cpu().numpy()
            fitted = Tensor(
                checkpoint.place, "the calibrated pooler", "F32", array.shape, 0, memoryview(array.tobytes())
            )
            shard = next(shard for shard in plan.shards.values() if key in shard)
            shard[key] = fitted.cast(donor.dtype)
        fields = ("texts", "held_out", "sha256", "penalty", "cosine_before", "cosine_after")
        plan.calibration = {name: getattr(found, name) for name in fields}
        plan.config = output_config(plan)
        plan.card = model_card(plan)
    return found


# --- Step 3: write ---------------------------------------------------------------------------------------------------


def write_output(plan: Plan, folder: Path, progress: tqdm) -> None:
    """Writes every file of the output into `folder`, which exists and is empty, and flushes them to disk."""
    for name, tensors in plan.shards.items():
        write_safetensors(folder / name, tensors, progress)
    if len(plan.shards) > 1:
        index = {
            "metadata": {"total_size": plan.nbytes},
            "weight_map": {key: name for name, shard in plan.shards.items() for key in sorted(shard)},
        }
        write_json(folder / "model.safetensors.index.json", index)
    write_json(folder / "config.json", plan.config)
    write_sentence_transformers(plan, folder)
    for name in plan.copied:
        if name == "tokenizer_config.json" and plan.tokenizer_config is not None:
            continue
        with plan.checkpoint.place.open(name) as source, flushed(folder / name) as target:
            shutil.copyfileobj(source, target)
    if plan.tokenizer_config is not None:
        write_json(folder / "tokenizer_config.json", plan.tokenizer_config)
    if plan.format == "pooled":
        for name in CODE_FILES:
            source = Path(__file__).resolve().parent / name
            with source.open("rb") as code, flushed(folder / name) as target:
                shutil.copyfileobj(code, target)
    with flushed(folder / "README.md") as file:
        file.write(plan.card.encode(errors="replace"))
    for part in (folder / "1_Pooling", folder / "2_Dense", folder):
        _sync_folder(part)


def write_safetensors(path: Path, tensors: dict[str, Tensor], progress: tqdm | None = None) -> None:
    """Writes tensors in safetensors' own order (widest dtype first, then by name), a bounded piece at a time."""
    order = sorted(tensors, key=lambda key: (-DTYPE_BYTES[tensors[key].dtype], key))
    header: dict = {"__metadata__": {"format": "pt"}}  # transformers 4.x refuses files without it
    end = 0
    for key in order:
        tensor = tensors[key]
        begin, end = end, end + tensor.nbytes
        header[key] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with flushed(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key in order:
            for piece in tensors[key].chunks():
                file.write(piece)
                if progress is not None:
                    progress.update(len(piece))


def write_json(path: Path, value: object) -> None:
    with flushed(path) as file:
        file.write((json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


@contextlib.contextmanager
def flushed(path: Path) -> Iterator[BinaryIO]:
    """A new file, on disk when the block ends."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder can't be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_sentence_transformers(plan: Plan, folder: Path) -> None:
    """Transformer, [CLS] pooling, and the pooler as a Dense layer with tanh: `SentenceTransformer(folder)` just works.

    In the spelling that sentence-transformers 2.x to 6.2 and text-embeddings-inference all read.
    """
    modules = "sentence_transformers.models"
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"))
    write_json(
        folder / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": f"{modules}.{kind}"}
            for number, (path, kind) in enumerate(kinds)
        ],
    )
    hidden, length = plan.config["hidden_size"], plan.config["max_position_embeddings"]
    without_logits = {"config_args": {"return_logits": False}} if plan.format == "pooled" else {}
    write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False, **without_logits}
    )
    (folder / "1_Pooling").mkdir()
    modes = ("max_tokens", "mean_sqrt_len_tokens", "mean_tokens")
    write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": hidden, "pooling_mode_cls_token": True}
        | {f"pooling_mode_{mode}": False for mode in modes},
    )
    (folder / "2_Dense").mkdir()
    write_json(
        folder / "2_Dense" / "config.json",
        {
            "in_features": hidden,
            "out_features": hidden,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        },
    )
    weight, bias = (plan.pooler[key] for key in POOLER)
    write_safetensors(folder / "2_Dense" / "model.safetensors", {"linear.weight": weight, "linear.bias": bias})


CARD_BEGIN, CARD_END = "<!-- bert-pooled-mlm: begin -->", "<!-- bert-pooled-mlm: end -->"


def model_card(plan: Plan) -> str:
    """The input's README with its metadata merged and our section added once; a new one where there is none."""
    place, donor = plan.checkpoint.place, plan.donor
    data = read_card_metadata(place)
    body = f"# {plan.name}\n"
    if "README.md" in place.names():
        body = REGEX_YAML_BLOCK.sub(
            "", place.local("README.md").read_bytes().decode("utf-8-sig", errors="replace"), count=1
        )
        body = re.sub(f"\n*{CARD_BEGIN}.*?{CARD_END}\n*", "\n", body, flags=re.DOTALL)
    tags = [tag for tag in data["tags"] if isinstance(tag, str)] if isinstance(data.get("tags"), list) else []
    data = {"library_name": "transformers", "pipeline_tag": "feature-extraction", **data}
    data["tags"] = [*tags, *(tag for tag in ("bert", "bert-pooled-mlm", "sentence-transformers") if tag not in tags)]
    if donor is not None and "/" in donor.place.label and not data.get("base_model"):
        data |= {"base_model": donor.place.label, "base_model_relation": "finetune"}
    head = yaml_dump(data).strip()
    return f"---\n{head}\n---\n\n{body.strip()}\n\n{CARD_BEGIN}\n{card_section(plan)}\n{CARD_END}\n"


def card_section(plan: Plan) -> str:
    source, lines = plan.config.get("pooler_source"), ["## The pooler", ""]
    if source is None:
        lines += ["This checkpoint was trained with masked-language modelling, and keeps a pooler of its own:"]
    else:
        revision = f" at commit `{source['revision']}`" if source["revision"] else ""
        lines += [
            "This checkpoint lost its pooler in masked-language-model training; the original was grafted back with",
            "bert-pooled-mlm:",
            "",
            f"- donor: `{source['donor']}`{revision}",
            *(f"- sha256 of `{key}`: `{source['sha256'][key]}`" for key in POOLER),
            f"- lineage: cosine {source['lineage_cosine']} between the last layers of donor and checkpoint",
            *(f"- taken by --force-donor although {reason}" for reason in source.get("forced", [])),
            *_fit_lines(source.get("calibration")),
            "",
        ]
    lines += ["`pooler_output` is the same at every load."]
    fitted = source is not None and "calibration" in source
    remote = ", trust_remote_code=True" if plan.format == "pooled" else ""
    without_code = [
        "",
        f'Without remote code, transformers\' own `BertModel.from_pretrained("{plan.name}")` gives the same',
        "`pooler_output`: it passes over the MLM head (`cls.*`), and over nothing else.",
    ]
    return "\n".join(
        [
            *lines,
            "",
            "```python",
            "from transformers import AutoModel, AutoTokenizer",
            "",
            f'tokenizer = AutoTokenizer.from_pretrained("{plan.name}"{remote})',
            f'model = AutoModel.from_pretrained("{plan.name}"{remote})',
            'vector = model(**tokenizer("A sentence.", return_tensors="pt")).pooler_output',
            "```",
            *(without_code if plan.format == "pooled" else []),
            "",
            f'`SentenceTransformer("{plan.name}"{remote})` gives the same vectors. The pooler was '
            + ("refitted to" if fitted else "trained for"),
            "the adapted encoder: it says what the original said, as far as the encoder still knows it."
            if fitted
            else "the encoder before it was adapted: the further training moved the encoder, the less the two fit.",
        ]
    )


def _fit_lines(fit: dict | None) -> list[str]:
    if fit is None:
        return []
    return [
        f"- calibrated: refitted to this encoder by ridge regression (penalty {fit['penalty']:.2g}) on {fit['texts']}",
        f"  unlabelled texts (sha256 `{fit['sha256']}`); cosine to the donor's `pooler_output` on the "
        f"{fit['held_out']} of them",
        f"  that were held out: {fit['cosine_before']:.4f} before, {fit['cosine_after']:.4f} after",
    ]


# --- Step 4: verify --------------------------------------------------------------------------------------------------


def verify_output(plan: Plan, folder: Path) -> str:
    """Reopens what was written: every tensor's bits, then two loads through `AutoModel` in a fresh process.

    Raises:
        ConversionError: Something differs, is missing, or is random.
    """
    written = read_tensors(Folder(folder))
    planned = {key: tensor for shard in plan.shards.values() for key, tensor in shard.items()}
    differing = sorted(written.keys() ^ planned.keys()) or [
        key
        for key, tensor in planned.items()
        if tensor.dtype != written[key].dtype or not same_bytes(tensor, written[key])
    ]
    if differing:
        raise ConversionError(
            f"{folder}: what was written differs from what was read: {_some(differing)}; is the disk sound?"
        )
    with tempfile.TemporaryDirectory() as modules:  # the copied code would stay in the user's cache
        silent = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_MODULES_CACHE": modules}
        loads = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), "--load-twice", str(folder)],
            env={**os.environ, **silent},
            capture_output=True,
            text=True,
        )
    if loads.returncode:
        reason = (loads.stderr.strip() or "no message").splitlines()[-1]
        raise ConversionError(f"{plan.output}: could not be loaded as it was written: {reason}")
    found = json.loads(loads.stdout.splitlines()[-1])
    if found != {"missing": [], "mismatched": [], "pooler_equal": True, "loads_equal": True}:
        raise ConversionError(f"{plan.output}: two loads through AutoModel are not what they should be: {found}")
    return f"all {len(planned)} tensors bit for bit; two loads through AutoModel identical"


def load_twice(folder: str) -> dict:
    """Loads `folder` through the user's own door, twice; run in a process of its own."""
    import torch
    from safetensors import safe_open
    from transformers import AutoModel

    loads = []
    for _ in range(2):
        model, info = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
        ids = torch.arange(min(model.config.vocab_size, model.config.max_position_embeddings, 16))[None]
        with torch.no_grad():
            output = model.eval()(ids, attention_mask=torch.ones_like(ids))
        loads.append((output.last_hidden_state, output.pooler_output))
    pooler = getattr(model, "bert", model).pooler.dense
    with safe_open(Path(folder, "2_Dense", "model.safetensors"), "pt") as stored:
        pairs = ((pooler.weight, stored.get_tensor("linear.weight")), (pooler.bias, stored.get_tensor("linear.bias")))
        equal = all(torch.equal(loaded, tensor.to(loaded.dtype)) for loaded, tensor in pairs)
    return {
        "missing": sorted(info["missing_keys"]),
        "mismatched": sorted(key for key, *_ in info["mismatched_keys"]),
        "pooler_equal": equal,
        "loads_equal": all(torch.equal(one, other) for one, other in zip(*loads, strict=True)),
    }


# --- Everything together ---------------------------------------------------------------------------------------------


@dataclasses.dataclass
class ConversionReport:
    """What was done, or would be (`--dry-run`); `--json` prints these fields."""

    status: str  # "converted", "planned" (--dry-run) or "already pooled"
    checkpoint: str
    checkpoint_commit: str | None
    shape: str
    dtype: str
    format: str
    missing: list[str]  # what a load of the input would start at random
    donor: str | None = None
    donor_commit: str | None = None
    found_by: str | None = None
    lineage_cosine: float | None = None
    forced: list[str] = dataclasses.field(default_factory=list)
    grafted: dict[str, str] = dataclasses.field(default_factory=dict)  # tensor -> sha256
    cast: str | None = None
    calibration: dict | None = None  # the fields of calibration.Calibration; of a dry run, those known beforehand
    kept_tensors: int = 0
    kept_bytes: int = 0
    dropped: dict[str, str] = dataclasses.field(default_factory=dict)  # tensor -> reason
    copied: list[str] = dataclasses.field(default_factory=list)
    left_behind: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    verified: str | None = None
    output: str | None = None
    pushed: str | None = None

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """A table for people, and the lines that load the result."""
        rows = [("status", self.status), ("checkpoint", f"{self.checkpoint} ({self.shape}, {FLOATS[self.dtype]})")]
        if self.missing:
            rows.append(("missing", f"{', '.join(self.missing)}: random at each load of the input"))
        if self.donor:
            rows.append(("donor", f"{self.donor}{f' @ {self.donor_commit[:7]}' if self.donor_commit else ''}"))
            rows += [("found by", self.found_by), ("lineage", f"cosine {self.lineage_cosine:.6f} of the last layer")]
            rows += [("forced", reason) for reason in self.forced]
        rows += [("grafted", f"{key}, sha256 {digest[:16]}") for key, digest in self.grafted.items()]
        if self.cast:
            rows.append(("cast", self.cast))
        if self.calibration:
            rows += [("calibrated", line) for line in _fit_rows(self.calibration)]
        if self.kept_tensors:
            rows.append(("kept", f"{self.kept_tensors} tensors, {self.kept_bytes / 1e6:.1f} MB, bit for bit"))
        rows += [("dropped", f"{key}: {reason}") for key, reason in self.dropped.items()]
        for name, files in (("copied", self.copied), ("left behind", self.left_behind)):
            if files:
                rows.append((name, ", ".join(files)))
        rows += [("not taken", note) for note in self.notes]
        for name, value in (("verified", self.verified), ("output", self.output), ("pushed", self.pushed)):
            if value:
                rows.append((name, value))
        text = "\n".join(f"{name:<12} {value}" for name, value in rows)
        if self.status != "converted":
            return text
        remote = ", trust_remote_code=True" if self.format == "pooled" else ""
        return (
            f"{text}\n\nLoad it:\n"
            "    from transformers import AutoModel, AutoTokenizer\n"
            f'    tokenizer = AutoTokenizer.from_pretrained("{self.output}"{remote})\n'
            f'    model = AutoModel.from_pretrained("{self.output}"{remote})'
        )


def _fit_rows(fit: dict) -> list[str]:
    texts = f"{fit['texts']} texts, sha256 {fit['sha256'][:16]}"
    if "penalty" not in fit:
        return [f"not yet: would be fitted on {texts}"]
    change = f"cosine to the donor's pooler_output {fit['cosine_before']:.4f} -> {fit['cosine_after']:.4f}"
    kept = "" if fit["improved"] else ": no better, so the original pooler was kept"
    return [
        f"on {texts}, penalty {fit['penalty']:.2g}",
        f"{change} on {fit['held_out']} held out{kept}",
        *fit["notes"],
    ]


def convert(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike | None = None,
    *,
    pooler_from: str | os.PathLike | None = None,
    revision: str | None = None,
    pooler_revision: str | None = None,
    format: str = "pooled",
    push_to_hub: str | None = None,
    private: bool = False,
    calibrate: str | os.PathLike | None = None,
    calibrate_samples: int = 2000,
    calibrate_length: int = 128,
    calibrate_batch_size: int = 32,
    device: str | None = None,
    replace_pooler: bool = False,
    force_donor: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    verify: bool = True,
    progress: bool = False,
    donors: Donors | None = None,
) -> ConversionReport:
    """Grafts the original pooler into an MLM checkpoint that lost it.

        report = convert("old_ckpt")  # finds the donor, checks it, writes and verifies old_ckpt-pooled
        print(report)  # what was grafted from where, and the lines that load the result

    Args:
        checkpoint: A folder or Hub id, saved from `BertForMaskedLM`.
        output_dir: Where the result goes; default: `<checkpoint>-pooled` beside it (of a Hub id: in this folder).
        pooler_from: The donor, a folder or Hub id; default: found and verified.
        revision: The checkpoint's branch, tag or commit on the Hub.
        pooler_revision: The donor's.
        format: "pooled": this package's classes, their code included. "bert": stock BERT, which needs no remote code.
        push_to_hub: The repo to upload the result to.
        private: Create that repo private.
        calibrate: Unlabelled texts, to refit the pooler to the encoder that it now sits on: a file with one text a
            line, a `.tsv` or `.jsonl` with `text` (and `text_pair`), or a data set's id or folder (`calibration.py`).
        calibrate_samples: Texts at most.
        calibrate_length: Tokens of a text at most.
        calibrate_batch_size: Texts that are encoded at once.
        device: Where they are encoded, such as "cuda:1"; default: a GPU where there is one.
        replace_pooler: Graft over a pooler that the checkpoint has.
        force_donor: Take the pooler of `pooler_from` although a check failed.
        overwrite: Replace `output_dir`, if it looks like a checkpoint, once the result is complete.
        dry_run: Check and report everything, write nothing.
        verify: Reopen and load what was written before it gets its name. Needs torch and transformers.
        progress: Show a bar on stderr.
        donors: What an earlier call has read of donors, to be used again.

    Returns:
        What was done. A checkpoint that is pooled already is left alone: `status` is "already pooled".

    Raises:
        ConversionError: A refusal, with one clear line; neither input nor destination has been touched.
        ValueError: An unknown `format`.
    """
    if format not in ARCHITECTURE:
        raise ValueError(f"format={format!r}: expected {' or '.join(map(repr, ARCHITECTURE))}")
    if force_donor and pooler_from is None:
        raise ValueError("force_donor needs pooler_from: a guess is not forced")
    checkpoint = os.fspath(checkpoint)
    output = local_path(output_dir if output_dir is not None else default_output(checkpoint))
    try:
        if push_to_hub is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", push_to_hub):
            raise ConversionError(f"{push_to_hub}: not a repository id of the Hub; expected user/name or name")
        absent = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
        if absent and calibrate is not None:
            raise ConversionError(f"{checkpoint}: --calibrate needs {' and '.join(absent)}; install them")
        if absent and verify and not dry_run:
            raise ConversionError(
                f"{checkpoint}: the result can't be verified without {' and '.join(absent)}; install them, or pass "
                "--no-verify"
            )
        place = fetch(checkpoint, revision)
        read = read_checkpoint(place)
        report = ConversionReport(
            status="planned",
            checkpoint=checkpoint,
            checkpoint_commit=place.commit,
            shape=f"{read.config['num_hidden_layers']} layers, hidden size {read.config['hidden_size']}, "
            f"vocabulary {read.config['vocab_size']}",
            dtype=read.dtype,
            format=format,
            missing=[key for key in POOLER if key not in read.tensors],
        )
        written_as = "pooled" if read.config["model_type"] == MODEL_TYPE else "bert"
        if read.is_converted and written_as == format and not replace_pooler and calibrate is None:
            if push_to_hub is not None:
                raise ConversionError(
                    f"{checkpoint}: pooled already, nothing was pushed; to publish it as it is: "
                    f"hf upload {push_to_hub} {place.path} ."
                )
            report.status = "already pooled"
            return report
        if not dry_run:
            restore(output)
        plan = plan_conversion(
            read,
            output,
            donors or Donors(),
            pooler_from=None if pooler_from is None else os.fspath(pooler_from),
            pooler_revision=pooler_revision,
            format=format,
            replace_pooler=replace_pooler,
            force_donor=force_donor,
            overwrite=overwrite,
            name=push_to_hub,
            calibrate=calibrate is not None,
        )
        if calibrate is not None:
            lengths = (calibrate_samples, calibrate_length, calibrate_batch_size)
            fitting = prepare_fit(plan, os.fspath(calibrate), *lengths, device)
            report.calibration = {"texts": len(fitting.texts), "sha256": calibration_module().digest(fitting.texts)}
            if not dry_run:
                report.calibration = dataclasses.asdict(fit_pooler(plan, fitting, progress))
        _describe(plan, report)
        if dry_run:
            return report
        with building(output) as folder:
            with tqdm(
                total=plan.nbytes,
                unit="B",
                unit_scale=True,
                desc=output.name,
                delay=1,
                disable=None if progress else True,
            ) as bar:
                write_output(plan, folder, bar)
            if verify:
                report.verified = verify_output(plan, folder)
            put_in_place(folder, output, overwrite)
        report.status = "converted"
    except OSError as error:
        where = f"{checkpoint} -> {output}" if error.filename is None else error.filename
        raise ConversionError(f"{where}: {error.strerror or _first_line(error)}; nothing was written") from error
    if push_to_hub is not None:
        report.pushed = push(output, push_to_hub, private, plan)
    return report


def _describe(plan: Plan, report: ConversionReport) -> None:
    report.output = str(plan.output)
    report.kept_tensors = sum(
        key not in POOLER or plan.donor is None for shard in plan.shards.values() for key in shard
    )
    report.kept_bytes = plan.nbytes - (sum(tensor.nbytes for tensor in plan.pooler.values()) if plan.donor else 0)
    report.dropped, report.copied, report.left_behind = plan.checkpoint.dropped, plan.copied, plan.left_behind
    report.notes = plan.notes
    if plan.donor is not None:
        report.donor, report.donor_commit = plan.donor.place.label, plan.donor.place.commit
        report.found_by, report.lineage_cosine = plan.donor.found_by, round(plan.donor.cosine, 6)
        report.forced = plan.donor.objections
        report.grafted = plan.config["pooler_source"]["sha256"]
        stored = plan.donor.candidate.tensor(POOLER[0]).dtype
        if stored != report.dtype:
            report.cast = f"the pooler from {FLOATS[stored]} to the checkpoint's {FLOATS[report.dtype]}"


def default_output(checkpoint: str) -> Path:
    path = local_path(checkpoint)
    return path.with_name(f"{path.name}-pooled") if path.name and os.path.isdir(path) else Path(f"{path.name}-pooled")


@contextlib.contextmanager
def building(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output`, on the same file system, which is gone when the block ends.

    Its name tells which process builds it: what a killed one left is removed by the next run.
    """
    prefix = f".{output.name}.tmp-{re.sub(r'[^a-zA-Z0-9]', '_', socket.gethostname())}-"
    created = [parent for parent in output.parents if not parent.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    for stale in output.parent.glob(f"{glob.escape(prefix)}*"):
        if stale not in BUILDING and not _is_running(stale.name.removeprefix(prefix).partition("-")[0]):
            shutil.rmtree(stale, ignore_errors=True)  # another run may be clearing it away as well
    folder = output.with_name(f"{prefix}{os.getpid()}-{secrets.token_hex(4)}")
    BUILDING.add(folder)
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        BUILDING.discard(folder)
        for parent in created:
            with contextlib.suppress(OSError):  # not empty: it holds the output
                parent.rmdir()


BUILDING: set[Path] = set()  # by this process


def _is_running(pid: str) -> bool:
    if pid == str(os.getpid()):  # an earlier process, whose number we got: likely in a container
        return False
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _replaced(output: Path) -> Path:
    return output.with_name(f".{output.name}.replaced")


def put_in_place(folder: Path, output: Path, overwrite: bool) -> None:
    """Renames the complete folder to its name; one that stands there goes only once the new one can take its place."""
    if overwrite and output.exists():
        output.rename(_replaced(output))
        try:
            folder.rename(output)
        except BaseException:  # an interrupt, too
            if not output.exists():
                _replaced(output).rename(output)
            raise
        shutil.rmtree(_replaced(output), ignore_errors=True)
    else:
        folder.rename(output)
    _sync_folder(output.parent)


def restore(output: Path) -> None:
    """Undoes what a run left that was killed between the two renames of `put_in_place`."""
    if _replaced(output).exists():
        if output.exists():
            shutil.rmtree(_replaced(output), ignore_errors=True)
        else:
            _replaced(output).rename(output)


def push(folder: Path, repo_id: str, private: bool, plan: Plan) -> str:
    """Uploads the folder in one commit, and returns the commit's URL.

    Raises:
        ConversionError: The upload failed; the local folder is whole, and the message says how to try again.
    """
    source = plan.donor.place.label if plan.donor else "its own"
    try:
        with hub_errors(repo_id, ""):
            repo_id = HfApi().create_repo(repo_id, private=private or None, exist_ok=True).repo_id
            message = f"BERT with its pooler ({source}), in the {plan.format} format of bert-pooled-mlm"
            return HfApi().upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message).commit_url
    except (ConversionError, RuntimeError, ValueError) as error:  # the last two: what a refused file upload raises
        raise ConversionError(
            f"{_first_line(error)}. {folder} is complete; to try the upload again: hf upload {repo_id} {folder} ."
        ) from error


# --- The command line ------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convert.py",
        description="Grafts the original pooler into BERT checkpoints that lost it in MLM training, so that "
        "pooler_output is the same at every load.",
        epilog="Exit codes: 0 done, or pooled already; 1 refused, for the reason on stderr; 2 usage.",
    )
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CHECKPOINT", help="a folder or Hub id, saved from BertForMaskedLM"
    )
    parser.add_argument(
        "-o", "--output-dir", metavar="DIR", help="default: CHECKPOINT-pooled beside it; of several inputs: DIR/<name>"
    )
    parser.add_argument("--pooler-from", metavar="DONOR", help="a folder or Hub id; default: found and verified")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of CHECKPOINT on the Hub")
    parser.add_argument("--pooler-revision", metavar="REV", help="branch, tag or commit of DONOR on the Hub")
    parser.add_argument(
        "--format", choices=tuple(ARCHITECTURE), default="pooled",
        help="pooled (default): this package's classes, code included; bert: stock BERT, needs no remote code",
    )  # fmt: skip
    parser.add_argument(
        "--push-to-hub", metavar="REPO_ID", help="upload the result; token from HF_TOKEN or `hf auth login`"
    )
    parser.add_argument("--private", action="store_true", help="create that repo private")
    parser.add_argument(
        "--calibrate", metavar="TEXTS",
        help="refit the pooler to the encoder as it is now, on unlabelled texts: one a line, .tsv, .jsonl, a data set",
    )  # fmt: skip
    parser.add_argument(
        "--calibrate-samples", type=_count, default=2000, metavar="N", help="texts at most; default: %(default)s"
    )
    parser.add_argument(
        "--calibrate-length",
        type=_count,
        default=128,
        metavar="N",
        help="tokens of a text at most; default: %(default)s",
    )
    parser.add_argument(
        "--calibrate-batch-size",
        type=_count,
        default=32,
        metavar="N",
        help="texts encoded at once; default: %(default)s",
    )
    parser.add_argument("--device", help="where they are encoded; default: a GPU where there is one")
    parser.add_argument("--replace-pooler", action="store_true", help="graft over a pooler that the checkpoint has")
    parser.add_argument("--force-donor", action="store_true", help="take DONOR's pooler although a check failed")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that looks like a checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="check and report everything, write nothing")
    parser.add_argument("--no-verify", action="store_true", help="do not load the result before it gets its name")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, found {text!r}")
    return int(text)


def _say(text: object) -> None:
    try:
        print(str(text).encode(errors="backslashreplace").decode(), flush=True)  # file names need not be Unicode
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--load-twice"]:  # verify_output's fresh process
        print(json.dumps(load_twice(argv[1])))
        return 0
    arguments = parser().parse_args(argv)
    several = len(arguments.checkpoints) > 1
    if several and arguments.push_to_hub:
        parser().error("--push-to-hub takes one CHECKPOINT")
    if arguments.force_donor and not arguments.pooler_from:
        parser().error("--force-donor needs --pooler-from DONOR: a guess is not forced")
    if arguments.pooler_revision and not arguments.pooler_from:
        parser().error("--pooler-revision needs --pooler-from DONOR")
    if arguments.private and not arguments.push_to_hub:
        parser().error("--private needs --push-to-hub REPO_ID")
    for name in ("calibrate_samples", "calibrate_length", "calibrate_batch_size", "device"):
        if getattr(arguments, name) != parser().get_default(name) and arguments.calibrate is None:
            parser().error(f"--{name.replace('_', '-')} needs --calibrate TEXTS")
    options = {
        name: getattr(arguments, name)
        for name in (
            "pooler_from", "revision", "pooler_revision", "format", "push_to_hub", "private", "calibrate",
            "calibrate_samples", "calibrate_length", "calibrate_batch_size", "device", "replace_pooler", "force_donor",
            "overwrite", "dry_run",
        )
    }  # fmt: skip
    set_verbosity_error()  # huggingface_hub logs each retry, and would bury the one clear line
    if arguments.quiet or not sys.stderr.isatty():
        disable_progress_bars()
    donors, results, written = Donors(), [], set()
    for checkpoint in arguments.checkpoints:
        output = arguments.output_dir
        if several and output is not None:
            output = Path(output, local_path(checkpoint).name)
        try:
            if output is not None and output in written:
                raise ConversionError(
                    f"{output}: an earlier checkpoint of this call has the same name; convert it alone"
                )
            written.add(output)
            report = convert(
                checkpoint,
                output,
                **options,
                verify=not arguments.no_verify,
                progress=not arguments.quiet,
                donors=donors,
            )
        except KeyboardInterrupt:
            print(f"error: {checkpoint}: interrupted; what has not got its name yet is gone", file=sys.stderr)
            return 130
        except ConversionError as error:
            print(f"error: {error}", file=sys.stderr)
            results.append({"status": "refused", "checkpoint": checkpoint, "error": str(error)})
            continue
        results.append(report.to_dict())
        if not arguments.quiet and not arguments.json:
            _say(f"{report}\n" if several else report)
    refused = sum(result["status"] == "refused" for result in results)
    if arguments.json:
        _say(json.dumps({"results": results} if several else results[0], indent=2))
    elif several and not arguments.quiet:
        for result in results:
            outcome = result.get("output") or result.get("error") or ""
            _say(f"{result['status']:<15} {result['checkpoint']}  {outcome}")
        _say(f"{len(results) - refused} done, {refused} refused")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
