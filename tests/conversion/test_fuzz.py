"""A damaged folder gives a correct output, or an error of one line.

Hypothesis edits a file of the checkpoint or of the donor; `--fuzz-cases N` sets the number of edited folders in all.
"""

import io
import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import huggingface_hub
import pytest
import torch
from bert_pooled_mlm import BertPooledMLMForMaskedLM, ConversionError, convert
from checkpoints import LAYER_NORM, POOLER, bits, renamed, save_donor, save_lost, save_weights, snapshot, stored
from edits import DROPPED, FOREIGN, TIED, edited_files
from grafting import in_time, join, split
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load

TINY = dict.fromkeys(("hidden_size", "intermediate_size", "max_position_embeddings"), 8)
TINY |= {"num_hidden_layers": 1, "num_attention_heads": 2}
CARD = b"---\nlicense: mit\ntags:\n- x\nbase_model: gone/away\n---\n\n# A model\n"
SECONDS = 20  # of one conversion of 10 kB, thousands of times what it takes
LINE = 4500  # characters of an error


# One conversion, and what has to be true of it.


def lay_out(folder: Path, files: dict[str, bytes | str]) -> None:
    folder.mkdir()
    for name, held in files.items():
        if held == "directory":
            (folder / name).mkdir()
        elif held == "link":
            (folder / name).symlink_to("/nowhere")
        else:
            (folder / name).write_bytes(held)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def tensors_of(files: dict[str, bytes]) -> dict[str, torch.Tensor]:
    """The weights of a folder as torch and safetensors read them, the latter without the metadata that it rejects."""
    found = {}
    for name, blob in files.items():
        if name.endswith(".bin"):
            found |= torch.load(io.BytesIO(blob), weights_only=True)
        elif name.endswith(".safetensors"):
            header, body = split(blob)
            found |= load(join({key: entry for key, entry in header.items() if key != "__metadata__"}, body))
    return found


def todays(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {}
    for key, tensor in tensors.items():
        while key.startswith(("module.", "_orig_mod.")):
            key = key.split(".", 1)[1]
        found[key] = tensor
    return renamed(found, LAYER_NORM)


def check_output(output: Path, checkpoint: dict[str, bytes], donor: dict[str, bytes], base: set[str]) -> None:
    """Every tensor of the checkpoint bit for bit, the donor's pooler, and files that their readers accept."""
    expected = {key: it for key, it in todays(tensors_of(checkpoint)).items() if key not in DROPPED}
    if json.loads(checkpoint["config.json"]).get("tie_word_embeddings", True) is not False:
        for copy, original in TIED.items():
            if copy in expected:
                expected.setdefault(original, expected.pop(copy))
    if not expected.keys() >= {*POOLER}:
        given = todays(tensors_of(donor))
        expected |= {key: given[key if key in given else key.removeprefix("bert.")] for key in POOLER}
    written = files_of(output)
    tensors = tensors_of(written)
    assert bits(tensors) == bits(expected)
    assert base <= tensors.keys() <= base | TIED.keys()
    for name in written:
        if name.endswith(".json"):
            assert isinstance(json.loads(written[name].decode("utf-8")), list if name == "modules.json" else dict)
    assert not {*FOREIGN}.intersection(json.loads(written["config.json"]))
    assert b"evil" not in written["config.json"]
    assert b"<b>" not in written["README.md"].partition(b"begin -->")[2]
    if "model.safetensors.index.json" in written:
        index = json.loads(written["model.safetensors.index.json"])
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
        assert index["weight_map"] == {key: name for name in written for key in tensors_of({name: written[name]})}
    assert isinstance(huggingface_hub.metadata_load(output / "README.md"), dict)


def attempt(place: Path, base: set[str], checkpoint: dict, donor: dict, named: bool, format: str) -> str:
    """Converts, checks the outcome, and returns which it was; `named`: the donor by config.json, not by the call."""
    with tempfile.TemporaryDirectory(dir=place) as work:
        work = Path(work)
        if named:
            config = json.loads(checkpoint["config.json"]) | {"_name_or_path": str(work / "donor")}
            checkpoint = checkpoint | {"config.json": json.dumps(config).encode()}
        lay_out(work / "checkpoint", checkpoint)
        lay_out(work / "donor", donor)
        before = snapshot(work)
        options = {} if named else {"pooler_from": work / "donor"}
        try:
            with in_time(SECONDS):
                report = convert(work / "checkpoint", work / "out", format=format, verify=False, **options)
        except ConversionError as error:
            line = str(error)
            assert line.isprintable(), "not one line"
            assert len(line) <= LINE
            assert snapshot(work) == before
            return "error"
        after = snapshot(work)
        assert {name: held for name, held in after.items() if name.split("/")[0] != "out"} == before
        if report.status == "already pooled":
            assert after == before
        else:
            check_output(work / "out", checkpoint, donor, base)
        return report.status


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """Folders to start from, as bytes."""
    place = tmp_path_factory.mktemp("fuzz")
    save_donor(place / "donor", **TINY)
    state = stored(save_lost(place / "single", place / "donor"))
    for kind, layout in (("sharded", (3, "safetensors")), ("bin", (1, "bin"))):
        save_weights(Path(shutil.copytree(place / "single", place / kind)), state, *layout)
    shutil.copytree(place / "donor", place / "pooled")
    BertPooledMLMForMaskedLM.from_pretrained(place / "donor").save_pretrained(place / "pooled")
    return {folder.name: files_of(folder) | {"README.md": CARD} for folder in place.iterdir()}


TARGETS = {
    "header": ("single", (".safetensors",)),
    "shards": ("sharded", (".safetensors", "index.json")),
    "config": ("single", ("/config.json",)),
    "pooled config": ("pooled", ("/config.json",)),
    "tokenizer and card": ("single", ("tokenizer_config.json", "README.md")),
    "pickle": ("bin", (".bin",)),
    "donor": ("donor", (".safetensors", "/config.json")),
}


@pytest.mark.parametrize("target", TARGETS)
def test_an_edited_folder_gives_a_correct_output_or_an_error(target, folders, tmp_path, request, monkeypatch):
    kind, endings = TARGETS[target]
    names = [name for name in sorted(folders[kind]) if f"/{name}".endswith(endings)]
    original = folders["single" if kind == "donor" else kind]
    cases = max(1, request.config.getoption("--fuzz-cases") // len(TARGETS))
    outcomes, base = Counter(), {*load(folders["single"]["model.safetensors"]), *POOLER}
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # flushing to disk is most of a tiny conversion's time

    @settings(
        max_examples=cases,
        derandomize=True,
        database=None,
        deadline=None,  # `in_time` also ends an endless loop
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(edited_files(folders[kind], names), st.booleans(), st.sampled_from(("pooled", "bert")))
    def run(edited, named, format):
        checkpoint, donor = (original, edited) if kind == "donor" else (edited, folders["donor"])
        named &= checkpoint["config.json"] == original["config.json"]
        outcomes[attempt(tmp_path, base, checkpoint, donor, named, format)] += 1

    run()
    if cases >= 20:
        assert outcomes["converted"]
        assert outcomes["error"]
