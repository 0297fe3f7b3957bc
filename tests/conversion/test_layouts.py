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
    "another": ({"model_type": "electra"}, r"model_type is 'electra'; only BERT"),
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
