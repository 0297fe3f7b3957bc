"""Layouts that people have: those that are BERT are read, the others are told what they are and what to run first."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from bert_pooled_mlm import ConversionError, convert
from checkpoints import bits, edit_json, save_weights, stored
from grafting import graft


def refusal(checkpoint: Path | str, donor: Path | None = None, **options) -> str:
    with pytest.raises(ConversionError) as refused:
        convert(checkpoint, pooler_from=donor, verify=False, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


PREFIXES = {
    "Lightning": lambda name: f"model.{name}",
    "a wrapper of one's own": lambda name: f"net.student.{name}",
    "DDP": lambda name: f"module.{name}",
    "torch.compile, inside": lambda name: name.replace("bert.", "bert._orig_mod."),
    "DDP around torch.compile": lambda name: f"module._orig_mod.{name}",
    "activation checkpointing": lambda name: re.sub(r"(layer\.\d+\.)", r"\1_checkpoint_wrapped_module.", name),
    "FSDP": lambda name: "_fsdp_wrapped_module." + re.sub(r"(layer\.\d+\.)", r"\1_fsdp_wrapped_module.", name),
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_what_wrappers_put_into_the_names_is_taken_out(prefix, kind, checkpoint, donor):
    graft(checkpoint, donor)
    plain = bits(stored(checkpoint.with_name("out")))
    tensors = {PREFIXES[prefix](name): tensor for name, tensor in stored(checkpoint).items()}
    assert tensors.keys() != stored(checkpoint).keys(), "premise"
    save_weights(checkpoint, tensors, kind=kind)
    shutil.rmtree(checkpoint.with_name("out"))
    graft(checkpoint, donor)
    assert bits(stored(checkpoint.with_name("out"))) == plain


@pytest.mark.parametrize("of", ["checkpoint", "donor"])
@pytest.mark.parametrize("name", ["config.json", "bert_config.json"])
def test_a_config_that_does_not_say_what_it_is_of_is_a_berts_if_its_tensors_are(of, name, checkpoint, donor, tmp_path):
    donor = Path(shutil.copytree(donor, tmp_path / "a donor"))
    folder = checkpoint if of == "checkpoint" else donor
    edit_json(folder / "config.json", "model_type", "architectures")
    (folder / "config.json").rename(folder / name)
    report = graft(checkpoint, donor)
    assert json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))["model_type"] == "bert_pooled_mlm"
    assert "bert_config.json" not in report.left_behind


def test_the_tensors_of_another_model_under_such_a_config_are_refused(checkpoint, donor):
    edit_json(checkpoint / "config.json", "model_type", "architectures")
    save_weights(checkpoint, {name.replace("bert.", "roberta."): it for name, it in stored(checkpoint).items()})
    assert "missing tensors" in refusal(checkpoint, donor) or "unknown tensors" in refusal(checkpoint, donor)


CONFIGS = {
    "roberta": (
        {"model_type": "roberta"},
        r"RoBERTa was trained without next-sentence.*-wwm-ext.* is a BERT",
    ),
    "decoder": ({"is_decoder": True}, r"is_decoder is true: a decoder's \[CLS\] sees no text after it"),
    "relative": ({"position_embedding_type": "relative_key"}, r"position_embedding_type is 'relative_key'"),
    "ELECTRA": ({"model_type": "electra"}, r"model_type is 'electra', which has no trained pooler, so that none was"),
    "another": ({"model_type": "ernie"}, r"model_type is 'ernie'; only BERT \('bert'\) is converted"),
    "no type": (
        {"model_type": None, "architectures": ["RobertaForMaskedLM"]},
        r"model_type is None, architectures \['RobertaForMaskedLM'\]; only BERT \('bert'\) is converted",
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_model_without_such_a_pooler_is_refused_with_its_reason(kind, checkpoint, donor):
    fields, reason = CONFIGS[kind]
    edit_json(checkpoint / "config.json", **fields)
    assert re.search(rf"checkpoint/config.json: .*{reason}", refusal(checkpoint, donor))


FILES = {
    "bert_model.ckpt.index": "a TensorFlow 1 checkpoint; .*--tf_checkpoint FOLDER/PREFIX.*copy config.json and",
    "model.ckpt-1000000.index": "a TensorFlow 1 checkpoint; .*transformers-cli convert --model_type bert",
    "tf_model.h5": "a TensorFlow checkpoint; .*from_tf=True",
    "flax_model.msgpack": "a Flax checkpoint; .*from_flax=True",
    "tf_model.h5.index.json": "a TensorFlow checkpoint; .*from_tf=True",
    "bert_model.ckpt.data-00000-of-00001": "a TensorFlow 1 checkpoint; ",
    "global_step100": "a DeepSpeed checkpoint.*; merge them first: python -m deepspeed.utils.zero_to_fp32 FOLDER OUT",
    "__0_0.distcp": r"a distributed \(DCP\) checkpoint.*dcp_to_torch",
    "model.onnx": "an export for inference, .*; convert the checkpoint that it was made from",
    "bert-q8_0.gguf": "an export for inference, .*; convert the checkpoint that it was made from",
    "model_state.pdparams": "a PaddlePaddle checkpoint; convert the PyTorch weights",
    "zero_to_fp32.py": "a DeepSpeed checkpoint.*; merge them first: .*then copy config.json and the tokenizer's files",
}


@pytest.mark.parametrize("of", ["checkpoint", "donor"])
@pytest.mark.parametrize("config", [True, False], ids=["with a config", "without"])
@pytest.mark.parametrize("marker", FILES)
def test_another_kind_of_folder_is_told_what_to_run_first(marker, config, of, checkpoint, donor, tmp_path):
    donor = Path(shutil.copytree(donor, tmp_path / "a donor"))
    folder = checkpoint if of == "checkpoint" else donor
    for name in ("model.safetensors", *([] if config else ["config.json"])):
        (folder / name).unlink()
    (folder / marker).write_text("x")
    assert re.search(rf"{folder.name}: {FILES[marker]}", refusal(checkpoint, donor))


NAMES = {
    "bert.safetensors": r"no weights under a name.*, but bert.safetensors: .*, copy to model.safetensors; of the rest",
    "epoch=1.ckpt": r"no weights under a name.*, but epoch=1.ckpt: .*, copy to pytorch_model.bin; of the rest, run",
    "model-00001-of-00002.safetensors": "model-00001-of-00002.safetensors without their index; copy .*index.json",
    "training_args.bin": "no weights; expected one of model.safetensors, ",
    "optimizer.pt": "no weights; expected one of model.safetensors, ",
}


@pytest.mark.parametrize("of", ["checkpoint", "donor"])
@pytest.mark.parametrize("name", NAMES)
def test_weights_of_another_name_are_named(name, of, checkpoint, donor, tmp_path):
    donor = Path(shutil.copytree(donor, tmp_path / "a donor"))
    folder = checkpoint if of == "checkpoint" else donor
    (folder / "model.safetensors").rename(folder / name)
    assert re.search(rf"{folder.name}: {NAMES[name]}", refusal(checkpoint, donor))


def test_the_empty_tensors_of_zero_3_are_told_from_damage(checkpoint, donor):
    save_weights(checkpoint, {name: torch.empty(0) for name in stored(checkpoint)})
    assert re.search(
        r"have no values: saved under DeepSpeed ZeRO-3.*python zero_to_fp32.py", refusal(checkpoint, donor)
    )


def test_a_folder_named_like_weights_is_told_from_a_file(checkpoint, donor):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").mkdir()
    message = refusal(checkpoint, donor)
    assert "pytorch_model.bin: expected a file, found a folder, as zero_to_fp32.py writes one" in message
    assert f"move the files that are in it into {checkpoint}" in message


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_the_state_dict_of_a_peft_model_is_told_to_be_merged(kind, checkpoint, donor):
    wrapped = {name.replace("query.", "query.base_layer."): tensor for name, tensor in stored(checkpoint).items()} | {
        "bert.encoder.layer.0.attention.self.query.lora_A.default.weight": torch.ones(4, 32)
    }
    save_weights(checkpoint, {f"base_model.model.{name}": tensor for name, tensor in wrapped.items()}, kind=kind)
    assert re.search(r"a PEFT model around a BERT .*; merge it first: .*merge_and_unload", refusal(checkpoint, donor))


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 438000000\n"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json", "tokenizer.json"])
def test_a_git_lfs_pointer_is_told_from_damage(name, checkpoint, donor):
    if name == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    (checkpoint / name).write_text(POINTER)
    message = refusal(checkpoint, donor)
    assert f"checkpoint/{name}: a Git LFS pointer, not the file itself; run `git lfs pull`" in message


@pytest.mark.parametrize(
    "path",
    [
        "/home/you/.cache/huggingface/hub/models--user--base/snapshots/0123456789/",
        r"C:\hub\models--user--base\snapshots\01",
    ],
)
def test_a_path_into_another_machines_cache_tells_the_repo(path, checkpoint):
    edit_json(checkpoint / "config.json", _name_or_path=path)
    message = refusal(checkpoint)
    assert "user/base" in message
    assert path not in message


def test_a_trainers_folder_names_the_checkpoints_in_it(checkpoint, tmp_path):
    for step in (10, 20, 100):
        shutil.copytree(checkpoint, tmp_path / "runs" / f"checkpoint-{step}")
    message = refusal(tmp_path / "runs")
    assert "runs: holds checkpoint-10, checkpoint-20, checkpoint-100; pass one of them" in message
    assert message.endswith(os.fspath(tmp_path / "runs" / "checkpoint-100"))


BELOW = {
    "one": ["final"],
    "epochs": ["epoch-1", "epoch-2", "epoch-10"],
    "a sentence-transformers donor": ["0_Transformer"],
}


@pytest.mark.parametrize("of", ["checkpoint", "donor"])
@pytest.mark.parametrize("kind", BELOW)
def test_a_folder_around_checkpoints_names_them(kind, of, checkpoint, donor, tmp_path):
    around = tmp_path / "around"
    for name in BELOW[kind]:
        shutil.copytree(donor if of == "donor" else checkpoint, around / name)
    if "sentence" in kind:
        (around / "1_Pooling").mkdir()
        (around / "1_Pooling" / "config.json").write_text("{}")
        (around / "modules.json").write_text("[]")
    message = refusal(*((checkpoint, around) if of == "donor" else (around, donor)))
    if "sentence" in kind and of == "checkpoint":
        assert "a sentence-transformers model, trained with a pooling of its own" in message
        return
    pass_it = "pass it" if len(BELOW[kind]) == 1 else "pass one of them"
    assert message == f"{around}: holds {', '.join(BELOW[kind])}; {pass_it}: {around / BELOW[kind][-1]}"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("bert_config_large.json", "if bert_config_large.json is the model's, rename it to that"),
        ("generation_config.json", "copy that of the model which the training started from beside the weights"),
    ],
)
def test_weights_without_a_config_say_where_one_is_to_be_had(name, advice, checkpoint, donor):
    (checkpoint / "config.json").rename(checkpoint / name)
    assert refusal(checkpoint, donor) == f"{checkpoint}: no config.json; {advice}"


def test_a_folder_of_the_hubs_cache_tells_its_id(donor, checkpoint, shelve, tmp_path):
    shelve("user/base", donor)
    folder = tmp_path / "hub-cache" / "models--user--base"
    assert refusal(checkpoint, folder) == f"{folder}: a repository's folder in the Hub's cache; pass its id: user/base"


FOLDER_OF = r"a folder in a repository; run `hf download user/x`, and pass sub/it in the folder that it names"
INSTEAD = {
    "https://huggingface.co/user/x/tree/main/sub/it": FOLDER_OF,
    "https://huggingface.co/user/x/blob/main/sub/it/model.safetensors": FOLDER_OF,
    "hf://user/x@v1/sub/it": FOLDER_OF,
    "https://hf-mirror.com/user/x": r"no such folder, nor a page of https://.* \(a mirror: HF_ENDPOINT\); download it",
    "s3://bucket/x": r"no such folder, nor a page of .*; download it, and pass the folder",
    "user/x@v1": r"no such folder; of a repository on the Hub: user/x, and v1 behind --revision or --pooler-revision",
    "bert.tar.gz": r"an archive; unpack it, and pass the folder that was in it",
    "checkpoint/model.safetensors": r"a file; pass the folder that holds it: checkpoint$",
}


@pytest.mark.parametrize("of", ["checkpoint", "donor"])
@pytest.mark.parametrize("name", INSTEAD)
def test_a_name_that_is_no_folders_is_answered_with_what_to_pass(name, of, checkpoint, donor, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    Path("bert.tar.gz").write_bytes(b"")
    message = refusal(*((checkpoint, name) if of == "donor" else (name, donor)))
    assert re.match(rf"{re.escape(name)}: {INSTEAD[name]}", message)


@pytest.mark.parametrize("typo", ["checkpint", "Checkpoint", "checkpoint2"])
def test_a_typo_is_answered_with_the_folder_of_nearly_that_name(typo, checkpoint, asked, monkeypatch):
    """Alone, it could be the name of a repository too: then the Hub, which is not to be had here, is asked first."""
    assert refusal(f"{checkpoint.parent}/{typo}").endswith(f"did you mean {checkpoint}?")
    assert asked == [], "premise: a path is no repository's name"
    monkeypatch.chdir(checkpoint.parent)
    assert refusal(typo).endswith("did you mean checkpoint?")
    assert asked == [typo]


@pytest.mark.parametrize("head", ["MLM", "classifier", "none"])
def test_the_encoder_format_needs_no_mlm_head_and_drops_any(head, checkpoint, donor):
    tensors = stored(checkpoint)
    encoder = {name: tensor for name, tensor in tensors.items() if name.startswith("bert.")}
    if head == "classifier":
        save_weights(checkpoint, encoder | {"classifier.weight": torch.ones(5, 32), "classifier.bias": torch.ones(5)})
    elif head == "none":
        save_weights(checkpoint, {name.removeprefix("bert."): tensor for name, tensor in encoder.items()})
    report = graft(checkpoint, donor, format="encoder")
    expected = encoder | {name: stored(donor)[name] for name in report.grafted}
    written = bits(stored(checkpoint.with_name("out")))
    assert written == bits({name.removeprefix("bert."): tensor for name, tensor in expected.items()})
    assert bool(report.dropped) == (head != "none")
    if head != "MLM":
        assert "Its encoder alone can get its pooler back: --format encoder" in refusal(
            checkpoint, donor, output_dir=checkpoint.with_name("pooled")
        )
