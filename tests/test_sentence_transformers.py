"""Fine-tuning in sentence-transformers: which pooler counts afterwards, and how to make the two agree again.

That `encode` gives `pooler_output` before any training is tested with the converter, in test_convert.py.
"""

import json

import pytest
import torch
import transformers
from checkpoints import answer, stored
from packaging.version import Version
from safetensors.torch import load_file

pytestmark = pytest.mark.versions

FORMATS = ("pooled", "bert")
POOLER = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
# With transformers 4.41, its trainer stops at an argument of accelerate's, for every model: a loop of one's own works.
WITH_TRAINER = Version(transformers.__version__) >= Version("4.48")

TRAIN = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch, transformers
transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import MultipleNegativesRankingLoss
folder, out, with_trainer, formats = sys.argv[1], sys.argv[2], sys.argv[3] == "True", sys.argv[4:]
pairs = {
    "anchor": [f"word{n} word{n + 1}" for n in range(8)],
    "positive": [f"word{n} word{n + 2}" for n in range(8)],
}
found = {}
for format in formats:
    trust = {"trust_remote_code": True} if format == "pooled" else {}
    encoder = SentenceTransformer(f"{folder}/{format}", device="cpu", **trust)
    before = encoder.encode(["word1 word2"], convert_to_tensor=True)
    loss = MultipleNegativesRankingLoss(encoder)
    if with_trainer:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=f"{out}/runs", max_steps=3, per_device_train_batch_size=4, learning_rate=1e-3, report_to=[],
            save_strategy="no", disable_tqdm=True, use_cpu=True, weight_decay=0.1,
        )
        SentenceTransformerTrainer(
            model=encoder, args=arguments, train_dataset=Dataset.from_dict(pairs), loss=loss
        ).train()
    else:
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3, weight_decay=0.1)
        for _ in range(3):
            loss([encoder.tokenize(pairs["anchor"]), encoder.tokenize(pairs["positive"])], None).backward()
            optimizer.step()
            optimizer.zero_grad()
    encoder.save_pretrained(f"{out}/{format}")
    after = encoder.encode(["word1 word2"], convert_to_tensor=True)
    found[format] = [before.tolist(), after.tolist()]
print(json.dumps(found))
"""

OPEN = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch, transformers
transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
from sentence_transformers import SentenceTransformer
found = {}
for format in sys.argv[2:]:
    folder = f"{sys.argv[1]}/{format}"
    trust = {"trust_remote_code": True} if format == "pooled" else {}
    # Whoever opens what sentence-transformers saved says anew that no logits are wanted.
    spared = {"model_kwargs": {"return_logits": False}} if format == "pooled" else {}
    encoder = SentenceTransformer(folder, device="cpu", **trust, **spared)
    calls = []
    for name, module in encoder[0].auto_model.named_modules():
        if name.split(".")[-1] == "cls":
            module.register_forward_hook(lambda *_: calls.append(1))
    vectors = encoder.encode(["word1 word2"], convert_to_tensor=True)
    model = transformers.AutoModel.from_pretrained(folder, **trust).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(folder, **trust)(["word1 word2"], return_tensors="pt")
    with torch.no_grad():
        old = model(**inputs).pooler_output
        # What the README tells to do who wants one pooler again.
        getattr(model, "bert", model).pooler.dense.load_state_dict(encoder[2].linear.state_dict())
        new = model(**inputs).pooler_output
    try:
        SentenceTransformer(folder, device="cpu", trust_remote_code=False)
        refused = ""
    except Exception as error:
        refused = f"{type(error).__name__}: {error}"
    found[format] = {
        "class": type(model).__name__, "modules": [type(module).__name__ for module in encoder], "refused": refused,
        "vectors": vectors.tolist(), "head called": len(calls), "length": encoder.max_seq_length,
        "old": (vectors - old).abs().max().item(), "new": (vectors - new).abs().max().item(),
    }
print(json.dumps([found, "bert_pooled_mlm" in sys.modules]))
"""


@pytest.fixture(scope="module")
def trained(converted, tmp_path_factory):
    """The folder with what was trained of both formats, and each one's vector before and after."""
    out = tmp_path_factory.mktemp("trained")
    return out, answer(TRAIN, out, converted, out, WITH_TRAINER, *FORMATS)


@pytest.fixture(scope="module")
def opened(trained, tmp_path_factory):
    return answer(OPEN, tmp_path_factory.mktemp("elsewhere"), trained[0], *FORMATS)


@pytest.mark.parametrize("format", FORMATS)
def test_fine_tuning_moves_the_dense_module_and_not_the_pooler(format, converted, trained):
    dense = [load_file(folder / format / "2_Dense" / "model.safetensors") for folder in (converted, trained[0])]
    assert all(not torch.equal(dense[0][name], dense[1][name]) for name in ("linear.weight", "linear.bias"))
    before = stored(converted / format)
    # The stock class of the bert format saves itself without the prefix.
    after = {f"bert.{name.removeprefix('bert.')}": tensor for name, tensor in stored(trained[0] / format).items()}
    assert all(torch.equal(after[name], before[name]) for name in POOLER)
    moved = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.equal(after[moved], before[moved]), "premise: it trained"


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_saved_encodes_the_same_in_a_fresh_process(format, trained, opened):
    found, installed = opened
    before, after = trained[1][format]
    assert before != after, "premise: it trained"
    assert torch.allclose(torch.tensor(found[format]["vectors"]), torch.tensor(after), atol=1e-6)  # another file
    assert found[format]["modules"] == ["Transformer", "Pooling", "Dense"]
    assert found[format]["class"] == {"pooled": "BertPooledMLMModel", "bert": "BertModel"}[format]
    assert installed is False


@pytest.mark.parametrize("format", FORMATS)
def test_from_then_on_encode_counts_until_the_dense_is_copied_into_the_pooler(format, opened):
    assert opened[0][format]["old"] > 1e-3
    assert opened[0][format]["new"] < 1e-6


def test_the_pooled_format_is_saved_with_its_code_and_head_which_is_not_run_where_it_is_not_wanted(trained, opened):
    assert (trained[0] / "pooled" / "modeling_bert_pooled_mlm.py").is_file()
    config = json.loads((trained[0] / "pooled" / "config.json").read_text("utf-8"))
    assert config["auto_map"]["AutoModel"] == "modeling_bert_pooled_mlm.BertPooledMLMModel"
    assert config["return_logits"] is True
    assert any(name.startswith("cls.predictions.") for name in stored(trained[0] / "pooled")), "premise: it has a head"
    assert opened[0]["pooled"]["head called"] == 0


def test_only_the_pooled_format_needs_trust_remote_code_to_be_opened_again(opened):
    assert "trust_remote_code" in opened[0]["pooled"]["refused"]
    assert opened[0]["bert"]["refused"] == ""
