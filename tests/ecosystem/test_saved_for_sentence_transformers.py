"""What every class saves opens in sentence-transformers with the pooler of that moment, and says so to nobody else."""

import stat
from pathlib import Path

import bert_pooled_mlm
import pytest
import torch
import transformers
from bert_pooled_mlm import BertPooledMLMForMaskedLM, BertPooledMLMForSequenceClassification, convert
from checkpoints import DENSE, MODULES, SHAPE, assert_modules, mlm_batch, modules_of, save_tokenizer, stored
from programs import answer
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, Trainer, TrainingArguments

pytestmark = [
    pytest.mark.versions,
    # transformers 5.23 renames it to activation checkpointing; PEFT knows the old name only.
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]
V4 = transformers.__version__.startswith("4.")
FAMILY = [name for name in bert_pooled_mlm.__all__ if "For" in name or name.endswith("MLMModel")]


def moved(model):
    with torch.no_grad():
        model.bert.pooler.dense.weight.add_(1)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_files_are_byte_for_byte_those_of_the_converter(dtype, donor, tmp_path):
    model = BertPooledMLMForMaskedLM.from_pretrained(donor).to(dtype)
    model.save_pretrained(tmp_path / "ours")
    weights = {name: tensor for name, tensor in model.state_dict().items() if "pooler" not in name}
    save_tokenizer(tmp_path / "lost")
    stock = transformers.BertForMaskedLM(transformers.BertConfig(**SHAPE)).to(dtype)
    stock.load_state_dict(weights)
    stock.save_pretrained(tmp_path / "lost")
    model.save_pretrained(tmp_path / "donor")
    convert(tmp_path / "lost", tmp_path / "theirs", pooler_from=tmp_path / "donor", verify=False)
    assert modules_of(tmp_path / "ours").keys() == MODULES
    assert modules_of(tmp_path / "ours") == modules_of(tmp_path / "theirs")


@pytest.mark.parametrize("name", FAMILY)
def test_every_class_writes_them_with_the_usual_rights(name, donor, tmp_path):
    moved(getattr(bert_pooled_mlm, name).from_pretrained(donor)).save_pretrained(tmp_path)
    assert_modules(tmp_path)
    (tmp_path / "usual").touch()
    for file in MODULES:
        assert stat.S_IMODE((tmp_path / file).stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_they_follow_the_pooler_through_shards_a_state_dict_and_a_second_save(donor, tmp_path):
    model = BertPooledMLMForMaskedLM.from_pretrained(donor)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len([*tmp_path.glob("model-*.safetensors")]) > 1, "premise"
    assert_modules(tmp_path)
    given = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "given", state_dict=dict(given))
    assert_modules(tmp_path / "given")
    assert torch.equal(stored(tmp_path / "given")[DENSE["linear.bias"]], given[DENSE["linear.bias"]]), "premise"
    moved(model).save_pretrained(tmp_path / "given")
    assert_modules(tmp_path / "given")


def test_no_process_but_the_main_one_writes_and_nothing_is_made_up(donor, tmp_path):
    model = BertPooledMLMForMaskedLM.from_pretrained(donor)
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not modules_of(tmp_path / "other")
    weights = {name: tensor for name, tensor in model.state_dict().items() if "pooler" not in name}
    model.save_pretrained(tmp_path / "without", state_dict=weights)
    assert not modules_of(tmp_path / "without")


@pytest.mark.skipif(not V4, reason="transformers 5 writes safetensors alone")
def test_weights_in_a_pickle_have_them_too(donor, tmp_path):
    BertPooledMLMForMaskedLM.from_pretrained(donor).save_pretrained(tmp_path, safe_serialization=False)
    dense = load_file(tmp_path / "2_Dense" / "model.safetensors")
    pickled = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert all(torch.equal(dense[name], pickled[key]) for name, key in DENSE.items())


def test_a_trainers_checkpoint_has_them(pooled, tmp_path):
    rows = [{name: tensor[0] for name, tensor in mlm_batch(1, seed=seed).items()} for seed in range(4)]
    model = moved(AutoModelForMaskedLM.from_pretrained(pooled))
    arguments = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_steps": 1, "max_steps": 2}
    Trainer(model, TrainingArguments(str(tmp_path), **arguments), train_dataset=rows).train()
    assert_modules(tmp_path / "checkpoint-2")


@pytest.mark.parametrize("how", ["push_to_hub", "save_pretrained"])
def test_a_push_uploads_them_the_second_time_as_well(how, donor, tmp_path, monkeypatch):
    """transformers uploads what is new in a folder while it saves there: before save_pretrained has returned."""
    from transformers.utils import hub

    pushed, model = [], BertPooledMLMForMaskedLM.from_pretrained(donor)

    def create_commit(*args, operations, **kwargs):
        pushed.append({o.path_in_repo: Path(o.path_or_fileobj).read_bytes() for o in operations})

    created = type("Created", (), {"repo_id": "user/repo"})()
    api = type(
        "Api", (), {"create_repo": lambda *_, **__: created, "create_commit": lambda *a, **k: create_commit(**k)}
    )
    if V4:
        monkeypatch.setattr(hub, "create_commit", create_commit)
        monkeypatch.setattr(hub, "create_repo", lambda *_, **__: created)
        monkeypatch.setattr(transformers.modeling_utils, "create_repo", lambda *_, **__: created, raising=False)
    else:
        for module in (hub, transformers.modeling_utils):
            if hasattr(module, "hf_api"):
                monkeypatch.setattr(module, "hf_api", lambda: api())
            for name, value in (("create_commit", create_commit), ("create_repo", lambda *_, **__: created)):
                monkeypatch.setattr(module, name, value, raising=False)
    card = type("Card", (), {"save": lambda *_: None})
    for module in (hub, transformers.modeling_utils):  # each has the name
        monkeypatch.setattr(module, "create_and_tag_model_card", lambda *_, **__: card(), raising=False)
    for _ in range(2):
        moved(model)
        if how == "push_to_hub":
            model.push_to_hub("user/repo")
        else:
            model.save_pretrained(str(tmp_path), push_to_hub=True, repo_id="user/repo")
    for files in pushed:
        assert files.keys() >= MODULES
    model.save_pretrained(tmp_path / "last")
    assert pushed[1]["2_Dense/model.safetensors"] == (tmp_path / "last/2_Dense/model.safetensors").read_bytes()
    assert pushed[0]["2_Dense/model.safetensors"] != pushed[1]["2_Dense/model.safetensors"]


# sentence-transformers itself, in a fresh process.

CLIENT = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch, transformers
transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
from pathlib import Path
from sentence_transformers import SentenceTransformer
try:
    from sentence_transformers.sentence_transformer.modules import Pooling
except ImportError:
    from sentence_transformers.models import Pooling

source, out, TEXTS = Path(sys.argv[1]), Path(sys.argv[2]), ["word1 word2", "word9"]

def opened(folder, **kwargs):
    return SentenceTransformer(str(folder), device="cpu", trust_remote_code=True, **kwargs)

def encode(encoder):
    calls, model = [], encoder[0].auto_model
    hook = getattr(model, "cls", model.pooler if hasattr(model, "pooler") else model).register_forward_hook(
        lambda *_: calls.append(1)
    )
    vectors = encoder.encode(TEXTS, convert_to_tensor=True)
    hook.remove()
    return vectors, len(calls) if hasattr(model, "cls") else 0

def difference(folder, vectors, auto="AutoModel"):
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)(
        TEXTS, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        output = model(**inputs)
    return (output.pooler_output - vectors).abs().max().item(), "logits" in output

def train(encoder):
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3, weight_decay=0.1)
    for _ in range(3):
        features = encoder[0].tokenize(TEXTS) if hasattr(encoder[0], "tokenize") else encoder.tokenize(TEXTS)
        encoder(features)["sentence_embedding"].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

found = {"saved otherwise": {}}
for folder in sorted((source / "saved otherwise").iterdir()):
    model = opened(folder)
    modules = [type(module).__name__ for module in model]
    found["saved otherwise"][folder.name] = difference(folder, encode(model)[0])[0], modules
for format in ("pooled", "bert"):
    seen = found[format] = {}
    encoder = opened(source / format)
    vectors, seen["head called"] = encode(encoder)
    seen["as saved"] = difference(source / format, vectors)
    encoder.save(str(out / f"{format}-saved"))
    seen["config"] = json.loads((out / f"{format}-saved" / "config.json").read_text())
    seen["saved"] = difference(out / f"{format}-saved", vectors)
    # Two poolers: the Dense moves, and is then made the model's, as the docs say.
    train(encoder)
    encoder.save(str(out / f"{format}-trained"))
    seen["untied"] = difference(out / f"{format}-trained", encode(encoder)[0])
    inner = encoder[0].auto_model
    getattr(inner, "bert", inner).pooler.dense.load_state_dict(encoder[2].linear.state_dict())
    encoder.save(str(out / f"{format}-repaired"))
    seen["repaired"] = difference(out / f"{format}-repaired", encode(opened(out / f"{format}-repaired"))[0])
    if format == "pooled":
        inner.save_pretrained(out / "ours")
        encoder[0].tokenizer.save_pretrained(out / "ours")
        vectors, seen["head called"] = encode(opened(out / "ours"))
        seen["ours"] = difference(out / "ours", vectors)
    # One pooler: tied before the training.
    tied = opened(source / format)
    inner = tied[0].auto_model
    tied[2].linear = getattr(inner, "bert", inner).pooler.dense
    train(tied)
    tied.save(str(out / f"{format}-tied"))
    vectors, again = encode(tied)[0], encode(opened(out / f"{format}-tied"))[0]
    seen["tied"] = difference(out / f"{format}-tied", vectors)
    seen["tied again"] = (vectors - again).abs().max().item()
    # Another structure, chosen there: nothing of ours lies beside it.
    other = SentenceTransformer(modules=[opened(source / format)[0], Pooling(32, "mean")], device="cpu")
    other.save(str(out / f"{format}-mean"))
    seen["mean"] = sorted(path.name for path in (out / f"{format}-mean").iterdir() if path.is_dir())
    seen["mean again"] = (encode(other)[0] - encode(opened(out / f"{format}-mean"))[0]).abs().max().item()
print(json.dumps(found))
"""
EQUAL = 1e-6  # the same weights out of another file: kernels round its alignment differently


WAYS = ("classifier", "lora merged", "other state dict", "sharded")


def save_otherwise(pooled, folder):
    """The ways to save beside a plain `save_pretrained`, each with a pooler that has moved."""
    peft = pytest.importorskip("peft", reason="pip install peft")
    model = moved(BertPooledMLMForMaskedLM.from_pretrained(pooled))
    model.save_pretrained(folder / "sharded", max_shard_size="20KB")
    given = {name: tensor - 0.5 if "pooler" in name else tensor for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder / "other state dict", state_dict=given)
    moved(BertPooledMLMForSequenceClassification.from_pretrained(pooled)).save_pretrained(folder / "classifier")
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", init_lora_weights=False))
    adapted.merge_and_unload().save_pretrained(folder / "lora merged")
    for way in WAYS:
        save_tokenizer(folder / way)


@pytest.fixture(scope="module")
def client(pooled, donor, lost, tmp_path_factory):
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("client")
    save_tokenizer(source / "pooled")
    BertPooledMLMForMaskedLM.from_pretrained(pooled).save_pretrained(source / "pooled")
    convert(lost, source / "bert", pooler_from=donor, format="bert", verify=False)
    save_otherwise(pooled, source / "saved otherwise")
    return out, answer(CLIENT, tmp_path_factory.mktemp("elsewhere"), source, out)


each_format = pytest.mark.parametrize("format", ["pooled", "bert"])


@pytest.mark.parametrize("way", WAYS)
def test_however_a_folder_was_saved_it_encodes_what_pooler_output_is(way, client):
    difference, modules = client[1]["saved otherwise"][way]
    assert modules == ["Transformer", "Pooling", "Dense"]
    assert difference < EQUAL


@each_format
def test_it_encodes_what_pooler_output_is_and_runs_no_mlm_head(format, client):
    seen = client[1][format]
    assert seen["as saved"][0] < EQUAL
    assert seen["head called"] == 0


@each_format
def test_what_it_saves_is_a_whole_model_whose_config_does_not_turn_the_logits_off(format, client):
    seen = client[1][format]
    assert seen["saved"] == [pytest.approx(0, abs=EQUAL), format == "pooled"]
    assert seen["config"].get("return_logits", True) is True


@each_format
def test_fine_tuned_there_two_poolers_differ_until_the_dense_is_copied_and_then_the_folder_is_whole(format, client):
    out, seen = client[0], client[1][format]
    assert seen["untied"][0] > 1e-3, "premise: the Dense moved, the pooler did not"
    assert seen["repaired"][0] < EQUAL
    if format == "pooled":  # saved by the model itself, it is a folder like any other of ours
        assert_modules(out / "ours")
        assert seen["ours"] == [pytest.approx(0, abs=EQUAL), True]
        assert seen["head called"] == 0


@each_format
def test_tied_before_the_training_there_is_one_pooler_after_it(format, client):
    seen = client[1][format]
    assert seen["tied"][0] < EQUAL
    assert seen["tied again"] < EQUAL


@each_format
def test_a_structure_that_it_chose_itself_is_left_alone(format, client):
    seen = client[1][format]
    assert seen["mean"] == ["1_Pooling"]
    assert seen["mean again"] < EQUAL
