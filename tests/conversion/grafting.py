"""Conversions, and the checkpoints that they get."""

import contextlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bert_pooled_mlm import ConversionError, ConversionReport, conversion, convert
from checkpoints import MODULES, POOLER, ROOT, bits, edit_json, randomize, save_weights, state, stored, todays
from programs import CHILDREN
from transformers import BertForSequenceClassification

WEIGHT, BIAS = POOLER
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
LINEAGE = "bert.encoder.layer.1.attention.output.dense.weight"  # of the fixtures' two layers
COMMIT = "c" * 40
WRITTEN = {"model.safetensors", "config.json", "README.md", *MODULES}


def graft(checkpoint: Path, donor=None, output: Path | None = None, **options) -> ConversionReport:
    """A conversion without the slow part, the verification; by default into `out` next to the checkpoint."""
    return convert(checkpoint, output or checkpoint.parent / "out", pooler_from=donor, verify=False, **options)


def graft_beside(checkpoint: Path, donor: Path | None, format: str = "pooled", **options) -> ConversionReport:
    """One of several of a checkpoint: into a folder next to it, named after the format."""
    output = checkpoint.with_name(f"{checkpoint.name}-{format}")
    return convert(checkpoint, output, pooler_from=donor, format=format, **{"verify": False, **options})


def expected_of(checkpoint: Path, donor: Path) -> dict[str, tuple]:
    """What a conversion has to give: the checkpoint's tensors and the donor's pooler, in today's spelling."""
    return bits(todays(checkpoint) | {name: todays(donor)[name] for name in POOLER})


def config_of(folder) -> dict:
    return json.loads(Path(folder, "config.json").read_text("utf-8"))


def rejected(place: Path, checkpoint: str = "checkpoint", output: str = "out", **options) -> ConversionError:
    """Converts, and checks what holds for every error: one line of bounded length, and nothing written or touched."""
    before = {name: found for name, found in state(place).items() if name != "."}
    options = {"pooler_from": place / "donor", "verify": False} | options
    with pytest.raises(ConversionError) as caught:
        convert(place / checkpoint, place / output, **options)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 5000
    assert {name: found for name, found in state(place).items() if name != "."} == before
    return caught.value


def refused(place: Path, match: str, *names: str, **options) -> str:
    """`rejected`, for an error whose text matches; returns the text."""
    text = str(rejected(place, *names, **options))
    assert re.search(match, text), text
    return text


TOKENIZER = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def without_tokenizer(folder: Path) -> Path:
    for name in TOKENIZER:
        (folder / name).unlink(missing_ok=True)
    return folder


# --- Checkpoints -----------------------------------------------------------------------------------------------------


def name_it(folder: Path, where: str, name) -> None:
    """Makes a checkpoint name its donor, in one of the three places that are read."""
    if where == "base_model":
        (folder / "README.md").write_text(f"---\nbase_model: {json.dumps(name)}\n---\n# Text\n", encoding="utf-8")
    elif where == "pooler_source":
        edit_json(folder / "config.json", pooler_source={"donor": name, "revision": None, "sha256": {}})
    else:
        edit_json(folder / "config.json", _name_or_path=name)


def moved(donor: Path, folder: Path, drift: float, seed: int, pooler: int | None = None) -> Path:
    """A relative of a donor: its encoder moved by `drift`, its pooler too, or replaced by that of seed `pooler`."""
    tensors = stored(donor)
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: t + drift * torch.randn(t.shape, generator=generator) for name, t in tensors.items()}
    if pooler is not None:
        other = torch.Generator().manual_seed(pooler)
        tensors |= {name: torch.randn(tensors[name].shape, generator=other) for name in POOLER}
    shutil.copytree(donor, folder)
    save_weights(folder, tensors)
    return folder


def without(*parts: str):
    return lambda tensors: {name: t for name, t in tensors.items() if not any(part in name for part in parts)}


def headless(donor: Path, folder: Path, bare: bool = False, own_pooler: bool = True) -> Path:
    """What fine-tuning leaves of a donor: a moved encoder without an MLM head; of a classifier or a `BertModel`."""
    shutil.copytree(donor, folder)
    model = BertForSequenceClassification.from_pretrained(donor)
    randomize(model, 3, 0.001)
    tensors = {name: it for name, it in model.state_dict().items() if own_pooler or "pooler" not in name}
    save_weights(folder, unprefixed(tensors) if bare else tensors)
    edit_json(folder / "config.json", "_name_or_path", architectures=["BertForSequenceClassification"])
    return folder


def prefixed(prefix: str):
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def unprefixed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As `BertModel` saves them."""
    return {name.removeprefix("bert."): t for name, t in tensors.items() if name.startswith("bert.")}


def tied_copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"].clone(),
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"].clone(),
    }


def sentences(count: int, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    return [
        " ".join(f"word{generator.randrange(123)}" for _ in range(generator.randrange(3, 20))) for _ in range(count)
    ]


# --- Safetensors files, byte by byte ---------------------------------------------------------------------------------


def split(data: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


class TooLong(BaseException):
    """Not an Exception: nothing on the way may take it for an ordinary failure."""


@contextlib.contextmanager
def in_time(seconds: float):
    """Stops what takes longer, by the wall clock."""

    def stop(*_):
        raise TooLong(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def write_sparse(folder: Path, config: dict, pooler: int | None, lineage: int, every: bool = True) -> int:
    """A checkpoint of zeros that takes no disk, but for two kinds of tensors, random by these seeds.

    Args:
        pooler: None for a checkpoint that lost it.
        every: Whether it holds all of a BERT's tensors, or the random ones alone.

    Returns:
        Its size in bytes.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    seeds = {conversion.bert.lineage_key(config): lineage} | ({} if pooler is None else dict.fromkeys(POOLER, pooler))
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for key, shape in conversion.bert.expected_shapes(config).items():
        if key in seeds or (every and key not in (*POOLER, *conversion.bert.TIED)):
            begin, end = end, end + 4 * math.prod(shape)
            header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    head = join(header, b"")
    with (folder / "model.safetensors").open("wb") as file:
        file.write(head)
        for key, seed in seeds.items():
            file.seek(len(head) + header[key]["data_offsets"][0])
            numbers = np.random.default_rng(seed)
            file.write(numbers.standard_normal(math.prod(header[key]["shape"]), np.float32).tobytes())
        file.truncate(len(head) + end)
    return end


# --- Conversions in processes ----------------------------------------------------------------------------------------


class Conversions:
    """Runs conversions from a plain checkout in forks of a process (tests/children/conversions.py)."""

    def __init__(self, **env: str):
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHONPATH"))}
        self.process = subprocess.Popen(
            [sys.executable, CHILDREN / "conversions.py", ROOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=variables | {"HF_HUB_OFFLINE": "1", "OPENBLAS_NUM_THREADS": "1"} | env,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        with self.process as process:
            process.stdin.close()
        assert process.returncode == 0

    def run(self, *argv, **order) -> dict:
        order |= {"argv": [*map(str, argv), "--no-verify"]}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())
