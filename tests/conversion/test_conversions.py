"""The result of converting a folder: the bits of its tensors, its files in each format, and what users load."""

import json
from pathlib import Path

import pytest
import torch
from bert_pooled_mlm import (
    BertPooledMLMConfig,
    configuration_bert_pooled_mlm,
    conversion,
    convert,
    modeling_bert_pooled_mlm,
)
from bert_pooled_mlm.conversion.formats import AUTO_MAP, PROJECT_URL, sentence_transformers_files
from bert_pooled_mlm.conversion.sources import to_json
from checkpoints import (
    CODE_FILES,
    FORMATS,
    POOLER,
    ROOT,
    SHAPE,
    bits,
    contents,
    edit_json,
    save_weights,
    stored,
    todays,
)
from grafting import WRITTEN, config_of, expected_of, graft, split
from programs import answer
from transformers import BertConfig, BertForMaskedLM, BertModel, Trainer, TrainingArguments


@pytest.mark.versions
def test_the_pooler_is_the_donors_and_every_other_tensor_the_inputs(rescued, lost, donor):
    assert not any("pooler" in name for name in todays(lost)), "premise: the checkpoint has none"
    assert todays(donor)[POOLER[1]].any(), "premise: the donor's is trained"
    assert bits(stored(rescued)) == expected_of(lost, donor)


def test_a_checkpoint_may_have_another_vocabulary_than_its_donor(lost, donor, tmp_path):
    model = BertForMaskedLM.from_pretrained(lost)
    model.resize_token_embeddings(140)
    model.save_pretrained(tmp_path / "altered")
    graft(tmp_path / "altered", donor, tmp_path / "out", format="bert")
    assert bits(stored(tmp_path / "out")) == expected_of(tmp_path / "altered", donor)
    loaded, info = BertModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert list(info["missing_keys"]) == []
    assert loaded.config.vocab_size == 140


@pytest.mark.versions
def test_a_trainers_checkpoint_folder_is_converted(lost, donor, tmp_path):
    rows = [{"input_ids": [2, 6, 7, 3], "labels": [-100, 6, 7, -100]}] * 2
    options = {"save_steps": 1, "max_steps": 1, "report_to": [], "use_cpu": True, "dataloader_pin_memory": False}
    arguments = TrainingArguments(tmp_path / "run", learning_rate=1e-4, disable_tqdm=True, **options)
    Trainer(BertForMaskedLM.from_pretrained(lost), arguments, train_dataset=rows).train()
    source = tmp_path / "run" / "checkpoint-1"
    left = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "training_args.bin"}
    assert contents(source).keys() >= left, "premise: what Trainer leaves"
    report = convert(source, pooler_from=donor, verify=False)
    assert set(report.left_behind) - {"generation_config.json"} == left
    assert report.output == str(tmp_path / "run" / "checkpoint-1-pooled")
    assert bits(stored(Path(report.output))) == expected_of(source, donor)
    assert bits(todays(source)) != bits(todays(lost)), "premise: the step moved something"


@pytest.mark.parametrize("options", [{}, {"format": "bert"}], ids=FORMATS)
@pytest.mark.parametrize("layout", [(1, "safetensors"), (3, "safetensors"), (3, "bin")], ids=["file", "shards", "bin"])
def test_converting_twice_gives_the_same_bytes(layout, options, checkpoint, donor, tmp_path):
    save_weights(checkpoint, todays(checkpoint), *layout)
    for attempt in ("first", "second"):
        graft(checkpoint, donor, tmp_path / attempt / "out", **options)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


# --- Files and formats -----------------------------------------------------------------------------------------------


@pytest.mark.versions
def test_the_output_is_these_files(rescued, lost):
    tokenizer = {"vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    copied = dict.fromkeys(tokenizer & contents(lost).keys(), lost)
    assert "vocab.txt" in copied, "premise: the checkpoint has a tokenizer"
    copied |= dict.fromkeys(CODE_FILES if rescued.name == "pooled" else (), ROOT)
    assert contents(rescued).keys() == {*WRITTEN, *copied}
    for name, folder in copied.items():
        assert (rescued / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.versions
def test_a_sharded_output_has_a_correct_index_and_loads(checkpoint, donor, out):
    save_weights(checkpoint, todays(checkpoint), 3)
    graft(checkpoint, donor, format="bert")
    index = json.loads((out / "model.safetensors.index.json").read_text("utf-8"))
    files = {f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)}
    placed = {name: file for file in files for name in split((out / file).read_bytes())[0] if name != "__metadata__"}
    assert index["weight_map"] == placed
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored(out).values())
    loaded, info = BertModel.from_pretrained(out, output_loading_info=True)
    assert list(info["missing_keys"]) == []
    assert torch.equal(loaded.pooler.dense.weight, todays(donor)[POOLER[0]])


@pytest.mark.versions
def test_what_the_code_files_define_as_well_is_the_same_there():
    assert configuration_bert_pooled_mlm.AUTO_MAP == AUTO_MAP
    assert {f"{target.split('.')[0]}.py" for target in AUTO_MAP.values()} == set(CODE_FILES)
    assert modeling_bert_pooled_mlm.PROJECT_URL == PROJECT_URL
    config, defaults = BertPooledMLMConfig(**SHAPE), conversion.formats.FORMATS["pooled"].config_defaults
    assert {name: getattr(config, name) for name in defaults} == defaults
    files = sentence_transformers_files(config.hidden_size, config.max_position_embeddings, {"return_logits": False})
    assert {name: getattr(BertConfig(), name) for name in conversion.bert.SIZES} == conversion.bert.SIZES
    assert config.sentence_transformers_files() == {name: to_json(value) for name, value in files.items()}


@pytest.mark.versions
@pytest.mark.parametrize(("first", "second"), [("pooled", "bert"), ("bert", "pooled")])
def test_changing_the_format_keeps_the_pooler_and_needs_no_donor(first, second, lost, donor, tmp_path):
    graft(lost, donor, tmp_path / "a" / "out", format=first)
    report = graft(tmp_path / "a" / "out", None, tmp_path / "b" / "out", format=second)
    assert (report.status, report.donor, report.missing) == ("converted", None, [])
    assert report.kept_tensors == len(todays(lost)) + 2
    graft(lost, donor, tmp_path / "c" / "out", format=second)
    other, again = tmp_path / "b" / "out", tmp_path / "c" / "out"
    assert bits(stored(other)) == bits(stored(again))
    assert config_of(other)["pooler_source"] == config_of(tmp_path / "a" / "out")["pooler_source"]
    for output in (other, again):  # the pooled format needs it, stock BERT reads it as well
        edit_json(output / "config.json", "tokenizer_class")
        (output / "model.safetensors").unlink()  # its header holds the hashes of config and card
    *_, stated = (line for line in (other / "README.md").read_text().splitlines() if line.startswith("(As the"))
    (other / "README.md").write_text((other / "README.md").read_text().replace(f"{stated}\n\n", ""))
    assert contents(other) == contents(again)


@pytest.mark.versions
def test_two_loads_of_each_format_are_identical_and_nothing_is_missing(lost, rescues, tmp_path):
    """In a fresh process in another folder. (sentence-transformers: tests/ecosystem.)"""
    outputs = [report.output for report in rescues.values()]
    for seen in answer("what_users_load", tmp_path, lost, *outputs).values():
        assert seen["missing"] == []
        assert seen["equal"]
        assert not seen["equal before"], "premise: the input's pooler is random"
        assert seen["ids"] == [[2, 6, 7, 82, 3], [2, 10, 3, 0, 0]]
