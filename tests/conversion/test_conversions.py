"""The result of converting a folder: the bits of its tensors, and what users load from it."""

import shutil
from pathlib import Path

import pytest
import torch
from bert_pooled_mlm import convert
from bert_pooled_mlm.convert import main
from checkpoints import FORMATS, POOLER, bits, contents, save_weights, state, stored, todays
from grafting import config_of, expected_of, graft
from programs import answer
from transformers import BertForMaskedLM, BertModel, Trainer, TrainingArguments


@pytest.mark.versions
def test_the_pooler_is_the_donors_and_every_other_tensor_the_inputs(rescued, lost, donor):
    assert not any("pooler" in name for name in todays(lost)), "premise: the checkpoint has none"
    assert todays(donor)[POOLER[1]].any(), "premise: the donor's is trained"
    assert bits(stored(rescued)) == expected_of(lost, donor)


@pytest.mark.parametrize("options", [{}, {"format": "bert"}, {"dry_run": True}], ids=["pooled", "bert", "dry run"])
def test_input_and_donor_are_untouched(options, lost, donor, tmp_path):
    before = state(lost), state(donor)
    graft(lost, donor, tmp_path / "out", **options)
    assert (state(lost), state(donor)) == before


def shortened(model: BertForMaskedLM) -> None:
    table = model.bert.embeddings.position_embeddings
    table.weight = torch.nn.Parameter(table.weight[:40].detach().clone())
    model.config.max_position_embeddings = 40


SHAPES = {
    "extended vocabulary": (lambda model: model.resize_token_embeddings(140), {"vocab_size": 140}),
    "fewer positions": (shortened, {"max_position_embeddings": 40}),
}


@pytest.mark.parametrize("change", SHAPES)
def test_a_checkpoint_may_differ_from_its_donor_in_shape(change, lost, donor, tmp_path):
    alter, fields = SHAPES[change]
    model = BertForMaskedLM.from_pretrained(lost)
    alter(model)
    model.save_pretrained(tmp_path / "altered")
    assert fields.items() <= config_of(tmp_path / "altered").items(), "premise"
    graft(tmp_path / "altered", donor, tmp_path / "out", format="bert")
    assert bits(stored(tmp_path / "out")) == expected_of(tmp_path / "altered", donor)
    loaded, info = BertModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert list(info["missing_keys"]) == []
    assert fields.items() <= loaded.config.to_dict().items()


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


@pytest.mark.versions
@pytest.mark.parametrize("source", ["pooled", "bert", "saved by our class"])
def test_a_pooled_checkpoint_is_left_alone(source, lost, donor, pooled, tmp_path, capsys):
    folder = tmp_path / source
    if source in FORMATS:
        graft(lost, donor, folder, format=source)
    else:
        shutil.copytree(pooled, folder)
    before = state(tmp_path)
    format = source if source in FORMATS else "pooled"
    assert main([str(folder), "--pooler-from", str(donor), "--no-verify", "--format", format]) == 0
    assert capsys.readouterr().out.startswith("status       already pooled")
    assert state(tmp_path) == before


# --- What users load -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uses(lost, rescues, tmp_path_factory) -> dict[str, dict]:
    """What users of each format see, in a fresh process in another folder."""
    return answer("what_users_load", tmp_path_factory.mktemp("uses"), lost, *(it.output for it in rescues.values()))


@pytest.mark.versions
@pytest.mark.parametrize("format", FORMATS)
def test_two_loads_are_identical_and_nothing_is_missing(format, uses):
    assert uses[format]["missing"] == []
    assert uses[format]["equal"]
    assert not uses[format]["equal before"], "premise: the input's pooler is random"


@pytest.mark.versions
@pytest.mark.parametrize("format", FORMATS)
def test_tokenizer_and_sentence_transformers_read_the_output_too(format, uses):
    assert uses[format]["ids"] == [[2, 6, 7, 82, 3], [2, 10, 3, 0, 0]]
    assert uses[format]["modules"] == ["Transformer", "Pooling", "Dense"]
    assert uses[format]["difference"] == 0.0
