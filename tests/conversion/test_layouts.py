"""Folders and names that are not a BERT checkpoint's: what is said of each, and what to do with it."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from bert_pooled_mlm import ConversionError, convert
from checkpoints import edit_json, save_weights, stored
from grafting import refused, rejected

PARTS = ("checkpoint", "donor")
KINDS = {
    "adapter_config.json": ("PEFT adapter", "merge_and_unload"),
    "modules.json": ("sentence-transformers model", "SentenceTransformer"),
    "zero_to_fp32.py": ("DeepSpeed", "python zero_to_fp32.py"),
    "pytorch_model_fsdp_0": ("FSDP", "accelerate merge-weights"),
    "global_step100": ("DeepSpeed", "deepspeed.utils.zero_to_fp32"),
    "mp_rank_00_model_states.pt": ("DeepSpeed", "deepspeed.utils.zero_to_fp32"),
    ".metadata": ("DCP", "dcp_to_torch"),
    "__0_0.distcp": ("DCP", "dcp_to_torch"),
    "tf_model.h5": ("TensorFlow ", "from_tf=True"),
    "tf_model.h5.index.json": ("TensorFlow ", "from_tf=True"),
    "bert_model.ckpt.index": ("TensorFlow 1", "--tf_checkpoint FOLDER/PREFIX"),
    "model.ckpt-1000000.index": ("TensorFlow 1", "--tf_checkpoint FOLDER/PREFIX"),
    "bert_model.ckpt.data-00000-of-00001": ("TensorFlow 1", "--tf_checkpoint FOLDER/PREFIX"),
    "flax_model.msgpack": ("Flax", "from_flax=True"),
    "model_state.pdparams": ("PaddlePaddle", "PyTorch weights"),
    "model.onnx": ("export for inference", "checkpoint that it was made from"),
    "bert-q8_0.gguf": ("export for inference", "checkpoint that it was made from"),
}


@pytest.mark.parametrize("with_config", [True, False], ids=["with a config", "without"])
@pytest.mark.parametrize("marker", KINDS)
def test_a_folder_of_another_kind_is_recognised(marker, with_config, place):
    """A PEFT adapter's and sentence-transformers' marker also next to weights."""
    if marker not in ("adapter_config.json", "modules.json") or not with_config:
        (place / "checkpoint" / "model.safetensors").unlink()
    if not with_config:
        (place / "checkpoint" / "config.json").unlink()
    (place / "checkpoint" / marker).write_text("[]")
    error, (what, remedy) = rejected(place), KINDS[marker]
    assert error.subject == str(place / "checkpoint")
    assert what in error.reason
    assert remedy in error.remedy


def test_a_donor_of_another_kind_is_recognised(place):
    (place / "donor" / "model.safetensors").rename(place / "donor" / "tf_model.h5")
    refused(place, rf"{place / 'donor'}: a TensorFlow checkpoint")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_the_state_dict_of_a_peft_model_has_to_be_merged(kind, place):
    wrapped = {name.replace("query.", "query.base_layer."): it for name, it in stored(place / "checkpoint").items()}
    wrapped["bert.encoder.layer.0.attention.self.query.lora_A.default.weight"] = torch.ones(4, 32)
    save_weights(place / "checkpoint", {f"base_model.model.{name}": it for name, it in wrapped.items()}, kind=kind)
    refused(place, "PEFT model.*merge_and_unload")


NAMES = {
    "bert.safetensors": "bert.safetensors; .*copy it to model.safetensors",
    "epoch=1.ckpt": "epoch=1.ckpt; .*copy it to pytorch_model.bin",
    "model-00001-of-00002.safetensors": r"model-00001-of-00002.safetensors without their index; .*index\.json",
    "training_args.bin": "no weights; expected one of model.safetensors, ",
    "optimizer.pt": "no weights; expected one of model.safetensors, ",
}


@pytest.mark.parametrize("name", NAMES)
def test_weights_under_another_name_are_named(name, place):
    (place / "checkpoint" / "model.safetensors").rename(place / "checkpoint" / name)
    refused(place, f"checkpoint: .*{NAMES[name]}")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("bert_config_large.json", "if bert_config_large.json is the model's, rename it to that"),
        ("generation_config.json", "copy the config.json of the model"),
    ],
)
def test_weights_without_a_config(name, remedy, place):
    (place / "checkpoint" / "config.json").rename(place / "checkpoint" / name)
    error = rejected(place)
    assert (error.subject, error.reason) == (str(place / "checkpoint"), "no config.json")
    assert error.remedy.startswith(remedy)


# --- Folders around a checkpoint -------------------------------------------------------------------------------------

AROUND = {
    "one": ["final"],
    "epochs": ["epoch-1", "epoch-2", "epoch-10"],
    "a Trainer's": ["checkpoint-10", "checkpoint-20", "checkpoint-100"],
    "a sentence-transformers model, saved without its modules.json": ["0_Transformer"],
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("names", AROUND.values(), ids=AROUND)
def test_a_folder_around_checkpoints_names_them(names, part, place):
    for name in names:
        shutil.copytree(place / part, place / "around" / name)
    error = rejected(place, "around") if part == "checkpoint" else rejected(place, pooler_from=place / "around")
    assert error.reason == f"holds {', '.join(names)}"
    assert error.remedy.endswith(str(place / "around" / names[-1]))


def test_a_folder_of_the_hubs_cache_is_answered_with_its_id(donor, place, shelve, tmp_path):
    shelve("user/base", donor)
    refused(place, "Hub's cache; .* user/base$", pooler_from=tmp_path / "hub-cache" / "models--user--base")


@pytest.mark.parametrize(
    "path",
    [
        "/home/you/.cache/huggingface/hub/models--user--base/snapshots/0123456789/",
        r"C:\hub\models--user--base\snapshots\01",
    ],
)
def test_a_path_into_another_machines_cache_tells_the_repo(path, place, asked):
    edit_json(place / "checkpoint" / "config.json", _name_or_path=path)
    assert path not in refused(place, "user/base", pooler_from=None)
    assert asked == ["user/base"]


# --- Names -----------------------------------------------------------------------------------------------------------

FOLDER_OF = "a folder in a repository; run `hf download user/x`, and pass sub/it in"
INSTEAD = {
    "https://huggingface.co/user/x/tree/main/sub/it": FOLDER_OF,
    "https://huggingface.co/user/x/blob/main/sub/it/model.safetensors": FOLDER_OF,
    "hf://user/x@v1/sub/it": FOLDER_OF,
    "https://hf-mirror.com/user/x": "no such folder; .*HF_ENDPOINT",
    "s3://bucket/x": "no such folder; .*download it, and pass the folder",
    "user/x@v1": "no such folder; .*user/x, and v1 after --revision",
    "user/absent": "no such folder, .*HF_HUB_OFFLINE.*`hf download user/absent`",
    "absent": "no such folder, .*HF_HUB_OFFLINE",
    "a b": "no such folder$",
    "~nosuchuser/x": "no such folder$",
    "/": "no config.json",
    "empty": "no config.json; pass the folder that save_pretrained wrote",
    "bert.tar.gz": "an archive; unpack it",
    "checkpoint/model.safetensors": "a file; pass the folder that holds it: checkpoint$",
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", INSTEAD)
def test_a_name_that_is_no_checkpoints_is_answered_with_what_to_pass(name, part, place, monkeypatch):
    monkeypatch.chdir(place)
    Path("bert.tar.gz").write_bytes(b"")
    Path("empty").mkdir()
    checkpoint, donor = (name, "donor") if part == "checkpoint" else ("checkpoint", name)
    with pytest.raises(ConversionError, match=rf"^{re.escape(name)}: {INSTEAD[name]}"):
        convert(checkpoint, "out", pooler_from=donor, verify=False)


@pytest.mark.parametrize("typo", ["checkpint", "Checkpoint", "checkpoint2"])
def test_a_typo_is_answered_with_the_folder_of_nearly_that_name(typo, place, asked, monkeypatch):
    """Alone, it could be the name of a repo as well: then the Hub is asked first."""
    refused(place, rf"did you mean {place / 'checkpoint'}\?$", typo)
    assert asked == []
    monkeypatch.chdir(place)
    with pytest.raises(ConversionError, match=r"did you mean checkpoint\?$"):
        convert(typo, "out")
    assert asked == [typo]
