"""What is called pooled is what loads: folders that have their pooler, and that transformers still can't load."""

import json
import shutil
from pathlib import Path

import pytest
from bert_pooled_mlm import convert
from checkpoints import CODE_FILES, bits, edit_json, stored
from grafting import refused
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer, BertForMaskedLM

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")


def wrap(folder: Path, prefix: str) -> None:
    tensors = stored(folder)
    save_file({prefix + name: it for name, it in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


DAMAGES = {
    "torch.compile": lambda folder: wrap(folder, "_orig_mod."),
    "DistributedDataParallel": lambda folder: wrap(folder, "module."),
    "no code": lambda folder: [(folder / name).unlink() for name in CODE_FILES],
    "no modeling code": lambda folder: (folder / CODE_FILES[1]).unlink(),
}


@pytest.fixture
def damaged(converted, tmp_path) -> Path:
    return Path(shutil.copytree(converted / "pooled", tmp_path / "damaged"))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("names_output", [True, False])
def test_what_does_not_load_is_written_so_that_it_does(damage, names_output, damaged, converted, tmp_path):
    DAMAGES[damage](damaged)
    report = convert(damaged, tmp_path / "out" if names_output else None, verify=False)
    assert (report.status, report.donor) == ("converted", None)
    assert bits(stored(Path(report.output))) == bits(stored(converted / "pooled"))
    assert any("repaired" in remark for remark in report.remarks)
    AutoModel.from_pretrained(report.output, trust_remote_code=True)
    assert convert(report.output).status == "already pooled"


def test_a_pooled_folder_without_a_tokenizer_gets_the_donors(damaged, donor, tmp_path):
    for name in TOKENIZER:
        (damaged / name).unlink()
    left = convert(damaged)
    assert left.status == "already pooled"
    assert not left.tokenizer_loads
    report = convert(damaged, tmp_path / "out", pooler_from=donor)
    assert report.donor is None
    text = "word1 word2"
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)(text)["input_ids"]
        == AutoTokenizer.from_pretrained(donor)(text)["input_ids"]
    )


@pytest.mark.parametrize("shard", [None, "50KB"])
def test_a_variant_is_read_like_any_other_weights(shard, lost, donor, tmp_path):
    options = {"max_shard_size": shard} if shard else {}
    BertForMaskedLM.from_pretrained(lost).save_pretrained(tmp_path / "variant", variant="fp16", **options)
    files = {path.name for path in (tmp_path / "variant").iterdir()}
    assert ("model.safetensors.index.fp16.json" if shard else "model.fp16.safetensors") in files
    report = convert(tmp_path / "variant", tmp_path / "out", pooler_from=donor, verify=False)
    assert report.kept_tensors == len(stored(lost))


@pytest.mark.parametrize("side", ["checkpoint", "donor"])
def test_quantised_weights_are_named_as_such(side, place):
    edit_json(place / side / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    refused(place, r"quantised \(bitsandbytes\)")


def test_a_splade_folder_is_converted(checkpoint, donor, tmp_path):
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.sparse_encoder.models.MLMTransformer"},
        {"idx": 1, "name": "1", "path": "1_SpladePooling", "type": "sentence_transformers.SpladePooling"},
    ]
    (checkpoint / "modules.json").write_text(json.dumps(modules))
    (checkpoint / "1_SpladePooling").mkdir()
    report = convert(checkpoint, tmp_path / "out", pooler_from=donor, verify=False)
    assert any("SparseEncoder" in remark for remark in report.remarks)
