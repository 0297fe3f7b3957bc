"""--head-from of a sentence-transformers model, which stays what it is: its own modules, prompts and settings."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from bert_pooled_mlm import BertPooledMLMForMaskedLM, convert
from checkpoints import (
    contents,
    edit_json,
    modules_of,
)
from grafting import Conversions, config_of, headless, refused
from hub_faults import User
from hub_server import HubServer
from programs import answer

POOLING = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
TANH = "torch.nn.modules.activation.Tanh"
SETTINGS = {"__version__": {"sentence_transformers": "3.0.1"}, "prompts": {"query": "word3 "}}


def sentence_model(donor: Path, folder: Path, kinds: tuple[str, ...], below: str = "") -> Path:
    """A sentence-transformers model with a fine-tuned encoder, as sentence-transformers 3 saves it."""
    headless(donor, folder / below, bare=True)
    (folder / below / "sentence_bert_config.json").write_text('{\n  "max_seq_length": 48, "do_lower_case": false}')
    if not below:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(SETTINGS))
    modules = [{"idx": 0, "name": "0", "path": below, "type": "sentence_transformers.models.Transformer"}]
    for number, kind in enumerate(kinds, 1):
        path, type = f"{number}_{kind}", f"sentence_transformers.models.{kind}"
        modules.append({"idx": number, "name": str(number), "path": path, "type": type})
        if kind == "Normalize":
            continue
        (folder / path).mkdir()
        config = POOLING if not below else POOLING | dict(zip([*POOLING][1:], (True, False), strict=True))
        if kind == "Dense":
            config = {"in_features": 32, "out_features": 8, "bias": True, "activation_function": TANH}
            generator = torch.Generator().manual_seed(1)
            weights = {"linear.weight": torch.randn(8, 32, generator=generator), "linear.bias": torch.ones(8)}
            torch.save(weights, folder / path / "pytorch_model.bin")
        (folder / path / "config.json").write_text(json.dumps(config, indent=3))
    (folder / "modules.json").write_text(json.dumps(modules, indent=7))
    return folder


def own_files(folder: Path) -> dict[str, bytes]:
    """What a folder has of sentence-transformers."""
    found = contents(folder)
    return {name: found[name] for name in found if name[0].isdecimal() or "sentence" in name or name == "modules.json"}


@pytest.fixture
def models(donor, tmp_path) -> Path:
    sentence_model(donor, tmp_path / "models" / "root", ("Pooling", "Dense", "Normalize"))
    sentence_model(donor, tmp_path / "models" / "below", ("Pooling",), "0_Transformer")
    return tmp_path / "models"


@pytest.mark.versions
def test_a_sentence_transformers_model_stays_what_it_is_through_mlm(models, donor, tmp_path):
    pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")
    (tmp_path / "out").mkdir()
    edit_json(models / "below" / "0_Transformer" / "sentence_bert_config.json", tokenizer_args={"use_fast": True})
    for name in ("root", "below"):
        report = convert(models / name, tmp_path / "out" / name, head_from=donor, verify=False)
        assert {"modules.json", "1_Pooling/config.json"} <= {*report.copied}
    assert "sentence_bert_config.json's tokenizer_args" in report.dropped
    before = contents(models / "root")
    kept = contents(tmp_path / "out" / "root")
    configs = ("config_sentence_transformers.json", "1_Pooling/config.json", "2_Dense/config.json")
    for name in ("modules.json", *configs):
        assert kept[name] == before[name]
    assert not [name for name in kept if name.endswith(".bin")]
    found = answer("sentence_transformers_modules", tmp_path, models, tmp_path / "out")
    kinds = {"root": ["Transformer", "Pooling", "Dense", "Normalize"], "below": ["Transformer", "Pooling"]}
    for name, modules in kinds.items():
        seen = found[name]
        assert seen["modules"] == [modules, modules]
        assert seen["prompts"][0] == seen["prompts"][1]
        assert max(seen["as converted"], seen["saved"], seen["the trained encoder's"]) < 1e-6
        assert seen["trained"] > 1e-4, "premise: MLM moved the encoder"
        assert own_files(tmp_path / "out" / f"{name} again") == own_files(tmp_path / "out" / f"{name} moved")


@pytest.mark.parametrize("format", ["pooled", "bert"])
def test_it_is_verified_and_stays_so_when_it_is_converted_again(format, models, donor, tmp_path, forked):
    first = convert(models / "root", tmp_path / "first", head_from=donor, format=format)
    assert "bit for bit" in first.verified
    other = "bert" if format == "pooled" else "pooled"
    again = convert(tmp_path / "first", tmp_path / "again", format=other, verify=False)
    ours, theirs = (modules_of(Path(it.output)) for it in (first, again))
    assert {name for name in ours | theirs if ours.get(name) != theirs.get(name)} == {"sentence_bert_config.json"}
    assert config_of(again.output)["keep_modules"] is True
    assert not [name for report in (first, again) for name in report.dropped if "sentence_bert" in name]
    for report, name in ((first, format), (again, other)):
        settings = json.loads((Path(report.output) / "sentence_bert_config.json").read_text())
        assert ("model_args" in settings) == (name == "pooled")


LOAD_AND_SAVE = """
import pathlib, shutil, sys
import huggingface_hub, transformers
for folder in ("saved", "offline"):
    model = transformers.AutoModelForMaskedLM.from_pretrained("user/out", trust_remote_code=True)
    model.save_pretrained(folder)
    for missing in pathlib.Path(sys.argv[1]).rglob(".no_exist"):
        shutil.rmtree(missing)  # as `hf download` leaves the cache
    huggingface_hub.constants.HF_HUB_OFFLINE = True
print(1)
"""


def test_from_the_hub_too(models, donor, place, tmp_path):
    """Converted from there, published there, loaded from there and saved."""
    with HubServer() as hub, Conversions(**hub.environment(tmp_path)) as online:
        hub.add_repo("user/model", models / "root")
        shutil.copytree(donor, place / "giver")
        User(online, place, tmp_path).report("user/model", "--head-from", "giver", "-o", "out")
        hub.add_repo("user/out", place / "out")
        assert answer(LOAD_AND_SAVE, place, tmp_path, **hub.environment(tmp_path)) == 1
    asked = [(request.method, request.path) for request in hub.log if "user/out" in request.path]
    assert len(asked) == len({*asked}) > 20, "premise: nothing is asked for twice"
    assert contents(place / "offline") == contents(place / "saved")
    assert own_files(place / "saved") == own_files(place / "out")
    assert len(own_files(place / "out")) == 6


BROKEN = {
    "code of its own": ({"type": "modeling.Own"}, "module 1 is .*modeling.Own"),
    "a path": ({"path": "../1_Pooling"}, "module 1 is .*kept are a Transformer"),
    "no function of torch's": ("config.json", "activation_function is 'os.abort', not torch's"),
    "gone": ("pytorch_model.bin", "a Dense of sentence-transformers has config and weights; found config.json"),
}


@pytest.mark.parametrize("why", BROKEN)
def test_modules_that_can_not_be_kept_are_an_error(why, models, donor):
    change, match = BROKEN[why]
    listed = json.loads((models / "root" / "modules.json").read_text())
    if isinstance(change, dict):
        listed[1] |= change
        (models / "root" / "modules.json").write_text(json.dumps(listed))
    elif change == "config.json":
        edit_json(models / "root" / "2_Dense" / change, activation_function="os.abort")
    else:
        (models / "root" / "2_Dense" / change).unlink()
    refused(models, match, "root", pooler_from=None, head_from=donor)


def test_a_model_whose_modules_are_gone_is_saved_without_any(models, donor, tmp_path):
    convert(models / "root", tmp_path / "out", head_from=donor, verify=False)
    (tmp_path / "out" / "modules.json").unlink()
    BertPooledMLMForMaskedLM.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "saved")
    assert "modules.json" not in contents(tmp_path / "saved")
