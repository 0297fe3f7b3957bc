"""What is read is what is written, also where files are replaced between header and copy, as by a running training."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from bert_pooled_mlm import ConversionError, conversion
from checkpoints import bits, save_weights, state, stored
from grafting import LINEAGE, graft
from programs import answer


def replaced(file: Path) -> None:
    """As transformers saves: another file of the same layout gets the name."""
    data = file.read_bytes()
    file.with_name("new").write_bytes(data[:-8] + bytes(8))
    file.with_name("new").rename(file)


def rewritten(file: Path) -> None:
    with file.open("r+b") as open_file:
        open_file.seek(-8, os.SEEK_END)
        open_file.write(bytes(8))


def resized(file: Path, factor: float = 0.5) -> None:
    os.truncate(file, int(file.stat().st_size * factor))


def extended(file: Path) -> None:
    resized(file, 1.5)


def folder_renamed(file: Path) -> None:
    file.parent.rename(file.parent.with_name("elsewhere"))


WEIGHTS, DONOR = "checkpoint/model.safetensors", "donor/model.safetensors"
CHANGES = [
    *((WEIGHTS, change) for change in (replaced, rewritten, resized, extended, Path.unlink, folder_renamed)),
    *((DONOR, change) for change in (replaced, resized, Path.unlink)),
    *((name, replaced) for name in ("checkpoint/config.json", "checkpoint/vocab.txt", "donor/config.json")),
    ("checkpoint/README.md", rewritten),
    ("checkpoint/model-00002-of-00003.safetensors", replaced),
    ("checkpoint/model.safetensors.index.json", replaced),
    ("checkpoint/pytorch_model-00002-of-00003.bin", replaced),
    ("checkpoint/pytorch_model.bin.index.json", replaced),
]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=lambda it: getattr(it, "__name__", it))
def test_a_file_that_changes_while_it_is_read_gives_an_error_and_no_output(name, change, place, monkeypatch):
    """After all headers are read and the plan is made, and before the first byte is copied."""
    file, before = place / name, {}
    if not file.exists() and "README" not in name:
        save_weights(file.parent, stored(file.parent), shards=3, kind="bin" if "bin" in name else "safetensors")
    if "README" in name:
        file.write_text("# A model\n\nits text")
    original = conversion.pipeline.write_output

    def write_output(*args, **options):
        change(file)
        before.update({path: found for path, found in state(place).items() if not path.startswith((".out", "."))})
        return original(*args, **options)

    monkeypatch.setattr(conversion.pipeline, "write_output", write_output)
    with pytest.raises(ConversionError, match=r"changed while it was read|was it changed\?") as error:
        graft(place / "checkpoint", place / "donor", place / "out")
    assert file.name in str(error.value)
    assert before, "premise: it happened"
    assert {path: found for path, found in state(place).items() if path != "."} == before


@pytest.mark.parametrize(("layout", "way"), [("plain", "truncated"), ("plain", "replaced"), ("strided", "truncated")])
def test_a_mapped_file_that_is_cut_gives_an_error_and_does_not_end_the_process(layout, way, place, tmp_path):
    """In a process of its own, which a fault in the mapping would end by SIGBUS."""
    tensors = stored(place / "checkpoint")
    if layout == "strided":  # then it is read whole, at once
        tensors["cls.predictions.bias"] = torch.arange(256.0)[::2]
    for file in (place / "checkpoint").glob("model*.safetensors"):
        file.unlink()
    torch.save(tensors, place / "checkpoint" / "pytorch_model.bin")
    found = answer("changed_meanwhile", tmp_path, place, way)
    assert "changed while it was read" in found or "was it changed?" in found
    assert not (place / "out").exists()


@pytest.mark.parametrize("layout", ["views of one storage", "strided", "an unused storage"])
def test_a_pickle_is_read_as_torch_reads_it(layout, place):
    """By its bytes' places in the file where each storage has one, and through torch elsewhere."""
    folder = place / "checkpoint"
    tensors = stored(folder)
    (folder / "model.safetensors").unlink()
    name, kept = "cls.predictions.bias", dict(tensors)
    if layout == "views of one storage":
        whole = torch.randn(300)
        kept |= {name: whole[17:145], "bert.embeddings.LayerNorm.bias": whole[200:232]}
    elif layout == "strided":
        kept[name] = torch.randn(256)[::2]
        assert not kept[name].is_contiguous(), "premise"
    elif layout == "an unused storage":
        kept["bert.embeddings.position_ids"] = torch.arange(64)[None]
    torch.save(kept, folder / "pytorch_model.bin")
    assert graft(folder, place / "donor", place / "out").status == "converted"
    expected = {name: tensor.contiguous() for name, tensor in kept.items() if "position_ids" not in name}
    written = {key: value for key, value in stored(place / "out").items() if ".pooler." not in key}
    assert bits(written) == bits(expected)


def test_a_pickle_in_another_byte_order_is_read_as_torch_reads_it(place):
    """Its bytes are not those of the tensor."""
    tensors = stored(place / "checkpoint")
    save_weights(place / "checkpoint", tensors, kind="bin")
    file = place / "checkpoint" / "pytorch_model.bin"
    with zipfile.ZipFile(file) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(file, "w") as new:
        for name, data in records.items():
            if "/data/" in name:
                data = np.frombuffer(data, "<f4").astype(">f4").tobytes()
            new.writestr(name, b"big" if name.endswith("/byteorder") else data)
    graft(place / "checkpoint", place / "donor", place / "out")
    assert torch.equal(stored(place / "out")[LINEAGE], tensors[LINEAGE])
