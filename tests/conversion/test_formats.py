"""The formats: what each one's config names, and the way from one to the other."""

import pytest
from bert_pooled_mlm import conversion
from bert_pooled_mlm.configuration_bert_pooled_mlm import AUTO_MAP
from checkpoints import bits, contents, edit_json, stored, todays
from grafting import config_of, expected_of, graft
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel


@pytest.mark.versions
def test_the_defaults_and_the_auto_map_are_those_of_the_configurations():
    config = BertConfig()
    assert {name: getattr(config, name) for name in conversion.bert.SIZES} == conversion.bert.SIZES
    assert conversion.formats.AUTO_MAP == AUTO_MAP
    assert set(conversion.formats.CODE_FILES) == {f"{target.split('.')[0]}.py" for target in AUTO_MAP.values()}


@pytest.mark.versions
@pytest.mark.parametrize(("first", "second"), [("pooled", "bert"), ("bert", "pooled")])
def test_changing_the_format_keeps_the_pooler_and_needs_no_donor(first, second, lost, donor, tmp_path):
    graft(lost, donor, tmp_path / "a" / "out", format=first)
    source = config_of(tmp_path / "a" / "out")["pooler_source"]
    report = graft(tmp_path / "a" / "out", None, tmp_path / "b" / "out", format=second)
    assert report.donor is None
    assert report.missing == []
    assert report.kept_tensors == len(todays(lost)) + 2
    direct = graft(lost, donor, tmp_path / "c" / "out", format=second)
    assert direct.status == report.status == "converted"
    other, again = tmp_path / "b" / "out", tmp_path / "c" / "out"
    assert bits(stored(other)) == bits(stored(again))
    for output in (other, again):  # the pooled format needs it, stock BERT reads it as well
        edit_json(output / "config.json", "tokenizer_class")
        (output / "model.safetensors").unlink()  # its header holds the hashes of config and card
    card = (other / "README.md").read_text()
    said = (
        "(As the checkpoint's own config.json states it. Only the two hashes were checked when this was written.)\n\n"
    )
    assert said in card
    (other / "README.md").write_text(card.replace(said, ""))
    assert contents(other) == contents(again)
    assert config_of(other)["pooler_source"] == source


@pytest.mark.versions
@pytest.mark.parametrize("cls", [BertModel, BertForMaskedLM, BertForPreTraining])
def test_stock_classes_load_the_bert_format_with_nothing_missing(cls, lost, donor, rescues):
    model, info = cls.from_pretrained(rescues["bert"].output, output_loading_info=True)
    no_nsp = {"cls.seq_relationship.weight", "cls.seq_relationship.bias"} if cls is BertForPreTraining else set()
    assert set(info["missing_keys"]) == no_nsp
    assert type(model.config) is BertConfig
    loaded, expected = bits(model.state_dict()), expected_of(lost, donor)
    if cls is BertModel:
        expected = {name.removeprefix("bert."): value for name, value in expected.items()}
    shared = loaded.keys() & expected.keys()
    assert {name: loaded[name] for name in shared} == {name: expected[name] for name in shared}
    assert len(shared) > 30


def test_the_earliest_configs_name_no_model_type(checkpoint, donor, out):
    edit_json(checkpoint / "config.json", "model_type", "tie_word_embeddings")
    graft(checkpoint, donor, format="bert")
    assert config_of(out)["model_type"] == "bert"
