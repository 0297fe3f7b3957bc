"""What is read is what is written, also where files are replaced between header and copy, as by a running training."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from bert_pooled_mlm import conversion
from checkpoints import bits, save_weights, state, stored
from grafting import expected_of, graft, refused
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


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def extended(file: Path) -> None:
    with file.open("ab") as open_file:
        open_file.write(b"more")


def gone(file: Path) -> None:
    file.unlink()


def folder_renamed(file: Path) -> None:
    file.parent.rename(file.parent.with_name("elsewhere"))


WAYS = (replaced, rewritten, truncated, emptied, extended, gone, folder_renamed)


@pytest.fixture
def meanwhile(monkeypatch):
    """Lets something happen after all headers are read and the plan is made, and before the first byte is copied."""

    def use(change) -> None:
        original = conversion.write.write_output

        def write_output(*args, **options):
            change()
            meanwhile_state.append(True)
            return original(*args, **options)

        monkeypatch.setattr(conversion.write, "write_output", write_output)

    meanwhile_state = []
    yield use
    assert meanwhile_state, "premise: it happened"


def refused_meanwhile(place: Path, file: str, way, meanwhile) -> None:
    """Like `grafting.refused`, which would take the change itself for one of the converter's."""
    seen = {}

    def change() -> None:
        way(place / file)
        seen.update({name: found for name, found in state(place).items() if name.partition("/")[0][:4] != ".out"})

    meanwhile(change)
    with pytest.raises(conversion.errors.ConversionError) as refusal:
        graft(place / "checkpoint", place / "donor", place / "out")
    assert "changed while it was read" in str(refusal.value) or "was it changed?" in str(refusal.value)
    assert Path(file).name in str(refusal.value)
    seen.pop(".")
    assert {name: found for name, found in state(place).items() if name != "."} == seen


@pytest.mark.parametrize("way", WAYS)
def test_weights_that_are_replaced_are_no_output(way, place, meanwhile):
    refused_meanwhile(place, "checkpoint/model.safetensors", way, meanwhile)


@pytest.mark.parametrize("way", [replaced, rewritten, truncated, gone])
@pytest.mark.parametrize(
    "file", ["checkpoint/config.json", "checkpoint/vocab.txt", "donor/model.safetensors", "donor/config.json"]
)
def test_the_other_files_and_the_donors_are_watched_too(file, way, place, meanwhile):
    refused_meanwhile(place, file, way, meanwhile)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("part", ["shard", "index"])
def test_shards_and_their_index_are_watched_too(part, kind, place, meanwhile):
    save_weights(place / "checkpoint", stored(place / "checkpoint"), shards=3, kind=kind)
    pattern = f"*-00002-of-00003.{kind}" if part == "shard" else "*.index.json"
    (file,) = (place / "checkpoint").glob(pattern)
    refused_meanwhile(place, f"checkpoint/{file.name}", replaced, meanwhile)


def test_the_readme_is_watched_too(place, meanwhile):
    (place / "checkpoint" / "README.md").write_text("# A model\n\nits text")
    refused_meanwhile(place, "checkpoint/README.md", replaced, meanwhile)


@pytest.mark.parametrize(
    ("layout", "way"),
    [("plain", "truncated"), ("plain", "replaced"), ("plain", "rewritten"), ("strided", "truncated")],
)
def test_a_mapped_file_that_is_cut_is_one_line_and_no_dead_process(layout, way, place, tmp_path):
    """In a process of its own, which a fault in the mapping would end by SIGBUS."""
    tensors = stored(place / "checkpoint")
    save_weights(place / "checkpoint", tensors, kind="bin")
    if layout == "strided":  # then it is read whole, at once
        strided = {"cls.predictions.bias": torch.arange(256.0)[::2]}
        torch.save(tensors | strided, place / "checkpoint" / "pytorch_model.bin")
    said = answer("changed_meanwhile", tmp_path, place, way)
    assert "changed while it was read" in said or "was it changed?" in said
    assert not (place / "out").exists()


@pytest.mark.parametrize("layout", ["contiguous", "views of one storage", "strided", "an unused storage", "older"])
def test_a_pickle_is_read_as_torch_reads_it(layout, place):
    """By its bytes' places in the file where each storage has one, and through torch elsewhere."""
    folder = place / "checkpoint"
    tensors = stored(folder)
    save_weights(folder, tensors, kind="bin")
    file, name = folder / "pytorch_model.bin", "cls.predictions.bias"
    kept = dict(tensors)
    if layout == "views of one storage":
        whole = torch.randn(300)
        kept |= {name: whole[17:145], "bert.embeddings.LayerNorm.bias": whole[200:232]}
    elif layout == "strided":
        kept[name] = torch.randn(256)[::2]
        assert not kept[name].is_contiguous(), "premise"
    elif layout == "an unused storage":
        kept["bert.embeddings.position_ids"] = torch.arange(64)[None]
    torch.save(kept, file, _use_new_zipfile_serialization=layout != "older")
    assert graft(folder, place / "donor", place / "out").status == "converted"
    expected = {name: tensor.contiguous() for name, tensor in kept.items() if "position_ids" not in name}
    written = {key: value for key, value in stored(place / "out").items() if ".pooler." not in key}
    assert bits(written) == bits(expected)


def test_what_changes_after_it_was_copied_does_not_matter(place, monkeypatch):
    """The output is the whole earlier state; the verification holds it against what was read when it was read."""
    expected = expected_of(place / "checkpoint", place / "donor")
    original = conversion.verify.check_unchanged

    def check_unchanged(plan) -> None:
        original(plan)
        shutil.rmtree(place / "checkpoint")

    monkeypatch.setattr(conversion.verify, "check_unchanged", check_unchanged)
    assert graft(place / "checkpoint", place / "donor", place / "out").status == "converted"
    assert bits(stored(place / "out")) == expected


def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(place):
    (place / "checkpoint" / "vocab.txt").unlink()
    os.mkfifo(place / "checkpoint" / "vocab.txt")
    refused(place, r"vocab.txt: expected a file")
