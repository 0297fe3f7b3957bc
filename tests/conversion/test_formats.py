"""The formats: the tables that the code files repeat, and the way from one format to the other."""

import pytest
from bert_pooled_mlm import BertPooledMLMConfig, configuration_bert_pooled_mlm, modeling_bert_pooled_mlm
from bert_pooled_mlm.conversion.formats import AUTO_MAP, CODE_FILES, FORMATS, PROJECT_URL, sentence_transformers_files
from bert_pooled_mlm.conversion.sources import to_json
from checkpoints import SHAPE, bits, contents, edit_json, stored, todays
from grafting import config_of, graft


@pytest.mark.versions
def test_what_the_code_files_define_as_well_is_the_same_there():
    assert configuration_bert_pooled_mlm.AUTO_MAP == AUTO_MAP
    assert {f"{target.split('.')[0]}.py" for target in AUTO_MAP.values()} == set(CODE_FILES)
    assert modeling_bert_pooled_mlm.PROJECT_URL == PROJECT_URL
    config, defaults = BertPooledMLMConfig(**SHAPE), FORMATS["pooled"].config_defaults
    assert {name: getattr(config, name) for name in defaults} == defaults
    files = sentence_transformers_files(config.hidden_size, config.max_position_embeddings, {"return_logits": False})
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
