"""What a conversion of a folder gives: the files, their bits, and what users load from them."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from bert_pooled_mlm.configuration_bert_pooled_mlm import AUTO_MAP
from bert_pooled_mlm.convert import ConversionReport, convert, main
from checkpoints import (
    ROOT,
    SHAPE,
    answer,
    bits,
    contents,
    edit_json,
    save_donor,
    save_lost,
    save_tokenizer,
    save_weights,
    state,
    stored,
)
from huggingface_hub import ModelCard
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
    Trainer,
    TrainingArguments,
)

converter = importlib.import_module("bert_pooled_mlm.convert")  # the package's `convert` is the function

POOLER = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
CODE_FILES = {"configuration_bert_pooled_mlm.py", "modeling_bert_pooled_mlm.py"}
WRITTEN = {
    "model.safetensors",
    "config.json",
    "README.md",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
}
FORMATS = ("pooled", "bert")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LAYER_NORM = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def renamed(tensors: dict[str, torch.Tensor], names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Tensors whose names have parts replaced."""
    found = {}
    for name, tensor in tensors.items():
        for old, new in names.items():
            name = name.replace(old, new)
        found[name] = tensor
    return found


def given(folder: Path) -> dict[str, torch.Tensor]:
    """A folder's tensors, in today's spelling: transformers 5.0.0 saves LayerNorm.gamma and beta."""
    return renamed(stored(folder), LAYER_NORM)


def graft(checkpoint: Path, donor: Path | None, output: Path, **options) -> ConversionReport:
    """A conversion without the slow part, the loads."""
    return convert(checkpoint, output, pooler_from=donor, verify=False, **options)


def expected_of(lost: Path, donor: Path) -> dict[str, tuple]:
    return bits(given(lost) | {name: given(donor)[name] for name in POOLER})


@pytest.fixture
def checkpoint(lost, tmp_path) -> Path:
    """A copy of the checkpoint that lost its pooler, for tests that change it."""
    return Path(shutil.copytree(lost, tmp_path / "checkpoint"))


@pytest.fixture(scope="module")
def reports() -> dict[str, ConversionReport]:
    return {}


@pytest.fixture(scope="module", params=FORMATS)
def rescued(request, lost, donor, tmp_path_factory, reports) -> Path:
    """The output in each format, with everything at its default, the verification included."""
    output = tmp_path_factory.mktemp("rescued") / request.param
    reports[request.param] = convert(lost, output, pooler_from=donor, format=request.param)
    return output


# --- The tensors -----------------------------------------------------------------------------------------------------


@pytest.mark.versions
def test_the_pooler_is_the_donors_and_every_other_tensor_the_inputs(rescued, lost, donor):
    assert not any("pooler" in name for name in given(lost)), "premise: the checkpoint has none"
    assert given(donor)[POOLER[1]].any(), "premise: the donor's is trained"
    assert bits(stored(rescued)) == expected_of(lost, donor)


@pytest.mark.versions
def test_the_default_verifies_and_says_so(rescued, lost, reports):
    count = len(given(lost)) + 2
    assert reports[rescued.name].verified == f"all {count} tensors bit for bit; two loads through AutoModel identical"


@pytest.mark.versions
def test_the_table_of_tensors_is_that_of_bert():
    """The names and shapes that the converter expects, against what transformers builds."""
    config = BertConfig(**{**SHAPE, "num_hidden_layers": 3})
    built = {name: tuple(tensor.shape) for name, tensor in BertForPreTraining(config).state_dict().items()}
    for name in converter.DROPPED:
        built.pop(name, None)
    assert converter.expected_shapes(config.to_dict()) == built


@pytest.mark.versions
def test_the_defaults_and_the_auto_map_are_those_of_the_configurations():
    config = BertConfig()
    assert {name: getattr(config, name) for name in converter.BERT_DEFAULTS} == converter.BERT_DEFAULTS
    assert converter.AUTO_MAP == AUTO_MAP
    assert set(converter.CODE_FILES) == {f"{target.split('.')[0]}.py" for target in AUTO_MAP.values()}


@pytest.mark.parametrize("of_donor", DTYPES)
@pytest.mark.parametrize("of_checkpoint", DTYPES)
def test_the_pooler_is_cast_to_the_checkpoints_dtype_as_torch_casts(
    of_checkpoint, of_donor, checkpoint, donor, tmp_path
):
    target, source = DTYPES[of_checkpoint], DTYPES[of_donor]
    giver = Path(shutil.copytree(donor, tmp_path / "giver"))
    save_weights(checkpoint, {name: tensor.to(target) for name, tensor in stored(checkpoint).items()})
    save_weights(giver, {name: tensor.to(source) for name, tensor in stored(donor).items()})
    report = graft(checkpoint, giver, tmp_path / "out")
    pooler = {name: given(giver)[name].to(target) for name in POOLER}
    assert bits(stored(tmp_path / "out")) == bits(given(checkpoint) | pooler)
    names = {dtype: str(DTYPES[dtype]).removeprefix("torch.") for dtype in DTYPES}
    told = f"the pooler from {names[of_donor]} to the checkpoint's {names[of_checkpoint]}"
    assert report.cast == (None if of_donor == of_checkpoint else told)
    assert (told in str(report)) == (of_donor != of_checkpoint)


@pytest.mark.parametrize("to", DTYPES)
@pytest.mark.parametrize("of", DTYPES)
def test_casting_is_torchs_for_every_kind_of_value(of, to):
    """Random bit patterns: halfway cases, subnormals and signed zeros; what would overflow is refused."""
    generator = np.random.default_rng(0)
    size = converter.DTYPE_BYTES[of]
    raw = generator.bytes(40_000 * size)
    tensor = torch.frombuffer(bytearray(raw), dtype=DTYPES[of])
    near_one = (torch.arange(-4096, 4096, dtype=torch.float64) / 4096 * 1.001).to(DTYPES[of])
    halfway = (1 + torch.arange(0, 4096, dtype=torch.float64) / 4096).to(DTYPES[of])
    values = torch.cat([tensor, near_one, halfway])
    values = values[values.to(DTYPES[to]).isfinite()]
    assert len(values) > 10_000, "premise"
    data = memoryview(values.view(torch.uint8).numpy())
    cast = converter.Tensor(None, "", of, (len(values),), 0, data).cast(to)
    assert (cast.dtype, cast.shape) == (to, (len(values),))
    assert cast.read() == values.to(DTYPES[to]).view(torch.uint8).numpy().tobytes()


def test_a_checkpoint_of_mixed_dtypes_keeps_each(checkpoint, donor, tmp_path):
    mixed = {
        name: tensor.to(torch.bfloat16 if "dense" in name else torch.float16 if "embeddings" in name else tensor.dtype)
        for name, tensor in given(checkpoint).items()
    }
    assert len({tensor.dtype for tensor in mixed.values()}) == 3, "premise"
    save_weights(checkpoint, mixed)
    report = graft(checkpoint, donor, tmp_path / "out")
    pooler = {name: given(donor)[name].to(torch.bfloat16) for name in POOLER}  # as the dense layers around it
    assert bits(stored(tmp_path / "out")) == bits(mixed | pooler)
    assert report.cast == "the pooler from float32 to the checkpoint's bfloat16"


def tied_copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"].clone(),
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"].clone(),
    }


def only_the_decoder(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As some versions save a tied pair: under the other of the two names."""
    tensors = dict(tensors)
    tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")
    return tensors


def prefixed(prefix: str):
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


# How a checkpoint may be spelled: what makes it of today's tensors, and what the report says is dropped.
SPELLINGS = {
    "LayerNorm.gamma and beta": (lambda t: renamed(t, {new: old for old, new in LAYER_NORM.items()}), set()),
    "DistributedDataParallel": (prefixed("module."), set()),
    "torch.compile": (prefixed("_orig_mod."), set()),
    "torch.compile within DDP": (prefixed("module._orig_mod."), set()),
    "DDP within torch.compile": (prefixed("_orig_mod.module."), set()),
    "position_ids": (
        lambda t: t | {"bert.embeddings.position_ids": torch.arange(SHAPE["max_position_embeddings"])[None]},
        {"bert.embeddings.position_ids"},
    ),
    "the tied decoder too": (
        lambda t: t | tied_copies(t),
        {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"},
    ),
    "only the tied decoder": (only_the_decoder, set()),
    "the next-sentence head": (
        lambda t: t | {"cls.seq_relationship.weight": torch.ones(2, 32), "cls.seq_relationship.bias": torch.ones(2)},
        {"cls.seq_relationship.weight", "cls.seq_relationship.bias"},
    ),
}


@pytest.mark.versions
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_checkpoint_gives_the_same_tensors(spelling, checkpoint, donor, lost, tmp_path):
    spell, dropped = SPELLINGS[spelling]
    save_weights(checkpoint, spell(given(checkpoint)))
    assert given(checkpoint).keys() != given(lost).keys() or "gamma" in spelling, "premise: spelled otherwise"
    report = graft(checkpoint, donor, tmp_path / "out")
    assert bits(stored(tmp_path / "out")) == expected_of(lost, donor)
    assert report.dropped.keys() == dropped
    assert all(f"{name}: {reason}" in str(report) for name, reason in report.dropped.items())


DONOR_SPELLINGS = {
    "saved from BertModel": lambda t: {name.removeprefix("bert."): t[name] for name in t if name.startswith("bert.")},
    "old names": SPELLINGS["LayerNorm.gamma and beta"][0],
    "DistributedDataParallel": prefixed("module."),
    "with position_ids": SPELLINGS["position_ids"][0],
    "with a task's head": lambda t: t | {"classifier.weight": torch.ones(3, 32), "qa_outputs.bias": torch.ones(2)},
    "no MLM head": lambda t: {name: tensor for name, tensor in t.items() if not name.startswith("cls.")},
}


@pytest.mark.parametrize("spelling", DONOR_SPELLINGS)
def test_every_spelling_of_a_donor_gives_the_same_pooler(spelling, lost, donor, tmp_path):
    giver = Path(shutil.copytree(donor, tmp_path / "giver"))
    save_weights(giver, DONOR_SPELLINGS[spelling](given(donor)))
    graft(lost, giver, tmp_path / "out")
    assert bits(stored(tmp_path / "out")) == expected_of(lost, donor)


@pytest.mark.versions
@pytest.mark.parametrize("part", ["checkpoint", "donor"])
@pytest.mark.parametrize(
    ("shards", "kind"), [(3, "safetensors"), (1, "bin"), (3, "bin")], ids=["shards", "bin", "bin shards"]
)
def test_every_layout_gives_the_same_tensors(shards, kind, part, lost, donor, tmp_path):
    folders = {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in (("c", lost), ("d", donor))}
    source = folders["c" if part == "checkpoint" else "d"]
    save_weights(source, given(source), shards, kind)
    output = tmp_path / "out"
    graft(folders["c"], folders["d"], output)
    assert bits(stored(output)) == expected_of(lost, donor)
    count = shards if part == "checkpoint" else 1
    assert len(list(output.glob("model*.safetensors"))) == count
    assert (output / "model.safetensors.index.json").exists() == (count > 1)
    assert not list(output.glob("*.bin*"))


def test_a_bin_in_the_format_before_torch_1_6_is_read(checkpoint, lost, donor, tmp_path):
    (checkpoint / "model.safetensors").unlink()
    torch.save(given(lost), checkpoint / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    graft(checkpoint, donor, tmp_path / "out")
    assert bits(stored(tmp_path / "out")) == expected_of(lost, donor)


@pytest.mark.versions
def test_a_sharded_output_has_a_correct_index_and_loads(checkpoint, donor, tmp_path):
    save_weights(checkpoint, given(checkpoint), 3)
    output = tmp_path / "out"
    graft(checkpoint, donor, output, format="bert")
    index = json.loads((output / "model.safetensors.index.json").read_text("utf-8"))
    files = {f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)}
    placed = {name: file for file in files for name in converter.read_header(converter.Folder(output), file)}
    assert index["weight_map"] == placed
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored(output).values())
    loaded, info = BertModel.from_pretrained(output, output_loading_info=True)
    assert list(info["missing_keys"]) == []
    assert torch.equal(loaded.pooler.dense.weight, given(donor)[POOLER[0]])


def test_an_untied_decoder_is_kept(donor, tmp_path):
    source = tmp_path / "untied"
    save_tokenizer(source)
    # transformers 4.x ties this pair whatever the config says, so the folder is written by hand.
    save_lost(source, donor)
    edit_json(source / "config.json", tie_word_embeddings=False)
    own = {"cls.predictions.decoder.weight": torch.randn(128, 32, generator=torch.Generator().manual_seed(5))}
    save_weights(source, given(source) | own)
    report = graft(source, donor, tmp_path / "out")
    assert bits(stored(tmp_path / "out")) == bits(given(source) | {name: given(donor)[name] for name in POOLER})
    assert report.dropped == {}
    assert json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))["tie_word_embeddings"] is False


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
    for field, value in fields.items():
        assert json.loads((tmp_path / "altered" / "config.json").read_text("utf-8"))[field] == value, "premise"
    graft(tmp_path / "altered", donor, tmp_path / "out", format="bert")
    assert bits(stored(tmp_path / "out")) == expected_of(tmp_path / "altered", donor)
    loaded, info = BertModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert list(info["missing_keys"]) == []
    for field, value in fields.items():
        assert getattr(loaded.config, field) == value


@pytest.mark.parametrize("layers", [1, 3, 12])
def test_any_number_of_layers(layers, tmp_path):
    giver = save_donor(tmp_path / "giver", num_hidden_layers=layers)
    source = save_lost(tmp_path / "source", giver)
    report = graft(source, giver, tmp_path / "out")
    assert report.shape.startswith(f"{layers} layers")
    assert bits(stored(tmp_path / "out")) == expected_of(source, giver)


# --- The other files -------------------------------------------------------------------------------------------------


@pytest.mark.versions
def test_the_output_is_these_files(rescued, lost):
    tokenizer = {"vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    copied = tokenizer & contents(lost).keys()
    assert "vocab.txt" in copied, "premise: the checkpoint has a tokenizer"
    code = CODE_FILES if rescued.name == "pooled" else set()
    assert contents(rescued).keys() == WRITTEN | copied | code
    for name in copied:
        assert (rescued / name).read_bytes() == (lost / name).read_bytes()
    for name in code:
        assert (rescued / name).read_bytes() == (ROOT / name).read_bytes()


@pytest.mark.versions
def test_the_config_is_the_inputs_with_what_the_output_is(rescued, lost, donor, reports):
    """Complete: no field of the input is lost, and the sha256 are those of the tensors in the file."""
    before = json.loads((lost / "config.json").read_text("utf-8"))
    after = json.loads((rescued / "config.json").read_text("utf-8"))
    source = after.pop("pooler_source")
    assert "tokenizer_class" not in before, "premise: only the model's type told it"
    own = {
        "model_type": "bert_pooled_mlm",
        "auto_map": AUTO_MAP,
        "sparse_prediction": False,
        "return_logits": True,
        "tokenizer_class": "BertTokenizer",
    }
    assert {name: after.get(name) for name in own} == (
        own if rescued.name == "pooled" else dict.fromkeys(own) | {"model_type": "bert"}
    )
    pooled, stock = ["BertPooledMLMForMaskedLM"], ["BertForMaskedLM"]
    assert after["architectures"] == (pooled if rescued.name == "pooled" else stock)
    said = {"architectures", "_name_or_path", *own}
    kept = {name: value for name, value in before.items() if name not in said}
    assert {name: value for name, value in after.items() if name not in said} == kept
    tensors = converter.read_header(converter.Folder(rescued), "model.safetensors")
    assert source == {
        "donor": donor.name,
        "revision": None,
        "sha256": {name: tensors[name].sha256() for name in POOLER},
        "lineage_cosine": reports[rescued.name].lineage_cosine,
    }
    assert source["sha256"] == reports[rescued.name].grafted


def test_the_config_names_no_place_and_no_code_of_the_input(checkpoint, donor, tmp_path):
    code = {"AutoModel": "modeling_evil.Model", "AutoModelForQuestionAnswering": "modeling_evil.Other"}
    edit_json(checkpoint / "config.json", _name_or_path="/data/somebody/run", auto_map=code)
    edit_json(checkpoint / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.Tokenizer", None]})
    for format in FORMATS:
        graft(checkpoint, donor, tmp_path / format, format=format)
        assert not [name for name, data in contents(tmp_path / format).items() if b"evil" in data or b"somebo" in data]


def test_the_earliest_configs_name_no_model_type(checkpoint, donor, tmp_path):
    edit_json(checkpoint / "config.json", "model_type", "tie_word_embeddings")
    graft(checkpoint, donor, tmp_path / "out", format="bert")
    assert json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))["model_type"] == "bert"


LEFT_BEHIND = (
    "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "rng_state_0.pth", "trainer_state.json",
    "training_args.bin", "global_step10", "latest", "zero_to_fp32.py", "modeling_own.py", "tokenization_own.py",
    "data.pkl", "weights.pickle", "vocab.npy", "tf_model.h5", "flax_model.msgpack", "pytorch_model.bin",
    "events.out.tfevents.1", "runs", ".git", "handler.py", "model.onnx", "generation_config.json",
)  # fmt: skip


def test_nothing_that_is_not_the_models_is_copied(checkpoint, lost, donor, tmp_path):
    graft(lost, donor, tmp_path / "reference" / "out")
    for name in LEFT_BEHIND:
        (checkpoint / name).write_bytes(b"secret")
    for name in CODE_FILES:
        (checkpoint / name).write_bytes(b"raise SystemExit('secret')")
    report = graft(checkpoint, donor, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "reference" / "out")
    assert set(report.left_behind) == {*LEFT_BEHIND, *CODE_FILES} - {"pytorch_model.bin"}


def test_a_checkpoint_without_a_tokenizer_gets_none(checkpoint, donor, tmp_path):
    for file in [*checkpoint.glob("*token*"), checkpoint / "vocab.txt"]:
        file.unlink()
    report = graft(checkpoint, donor, tmp_path / "out")
    assert report.copied == []
    assert contents(tmp_path / "out").keys() == WRITTEN | CODE_FILES


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (None, {"tokenizer_class": "BertTokenizer"}),
        ({"do_lower_case": False}, {"do_lower_case": False, "tokenizer_class": "BertTokenizer"}),
        ({"tokenizer_class": "BertJapaneseTokenizer", "x": 1}, {"tokenizer_class": "BertJapaneseTokenizer", "x": 1}),
    ],
    ids=["no config", "no class", "another class"],
)
def test_the_tokenizers_class_is_told_where_only_the_models_type_told_it(
    present, expected, checkpoint, donor, tmp_path
):
    for file in checkpoint.glob("*token*"):
        file.unlink()
    if present is not None:
        (checkpoint / "tokenizer_config.json").write_text(json.dumps(present), encoding="utf-8")
    graft(checkpoint, donor, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text("utf-8")) == expected
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == (checkpoint / "vocab.txt").read_bytes()


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077], ids=oct)
def test_modes_follow_the_umask(umask, checkpoint, donor, tmp_path):
    (checkpoint / "model.safetensors").chmod(0o600)  # as transformers 5.x leaves it
    (checkpoint / "vocab.txt").chmod(0o755)
    before = os.umask(umask)
    try:
        graft(checkpoint, donor, tmp_path / "out")
    finally:
        os.umask(before)
    paths = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    modes = {path: path.stat().st_mode & 0o777 for path in paths}
    assert modes == {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in paths}


@pytest.mark.parametrize("options", [{}, {"format": "bert"}, {"dry_run": True}], ids=["pooled", "bert", "dry run"])
def test_input_and_donor_are_untouched(options, lost, donor, tmp_path):
    before = state(lost), state(donor)
    graft(lost, donor, tmp_path / "out", **options)
    assert (state(lost), state(donor)) == before


# --- The model card --------------------------------------------------------------------------------------------------


def card_of(folder: Path) -> ModelCard:
    return ModelCard((folder / "README.md").read_text("utf-8"))


def test_the_card_tells_where_the_pooler_came_from(rescued, donor, reports):
    card = card_of(rescued)
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction",
        "tags": ["bert", "bert-pooled-mlm", "sentence-transformers"],
    }
    assert f"- donor: `{donor.name}`" in card.text
    for name, digest in reports[rescued.name].grafted.items():
        assert f"- sha256 of `{name}`: `{digest}`" in card.text
    remote = f'AutoModel.from_pretrained("{rescued.name}", trust_remote_code=True)'
    assert (remote in card.text) == (rescued.name == "pooled")


README = "# My model\n\nTrained on *my* texts — 2026.\n\n---\n\nEnd.\n"
HEADS = {
    "none": ("", {}),
    "usual": ("---\nlicense: mit\n---\n", {"license": "mit"}),
    "unknown fields": ("---\nlicense: mit\nco2: 3.5\nmine: {a: [1]}\n---\n", {"license": "mit", "co2": 3.5}),
    "tags of its own": ("---\ntags: [bert, mine]\n---\n", {}),
    "a task of its own": ("---\npipeline_tag: fill-mask\n---\n", {"pipeline_tag": "fill-mask"}),
    "Windows": ("---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
    "an empty line first": ("\n---\nlicense: mit\n---\n", {"license": "mit"}),
    "keys that are not text": ("---\nlicense: mit\n1: a\ntrue: b\n---\n", {"license": "mit"}),
    "keys of Python's": ("---\nself: 1\nignore_metadata_errors: 1\n---\n", {"self": 1}),
    "results in no known form": ("---\nmodel-index: [1]\nlicense: mit\n---\n", {"license": "mit"}),
}


@pytest.mark.parametrize("head", HEADS)
def test_a_readme_is_kept_and_its_metadata_completed(head, checkpoint, donor, tmp_path):
    text, fields = HEADS[head]
    (checkpoint / "README.md").write_bytes((text + README).encode())
    graft(checkpoint, donor, tmp_path / "out")
    written = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert written.count(README.strip()) == 1
    assert written.count("\n---\n") == 2, "the end of the metadata, and the rule in the text"
    data = converter.metadata_load(tmp_path / "out" / "README.md")
    wanted = {"library_name": "transformers", "pipeline_tag": "feature-extraction"} | fields
    assert {key: data.get(key) for key in wanted} == wanted
    own = ["bert", "mine"] if head == "tags of its own" else ["bert"]
    assert data["tags"] == [*own, "bert-pooled-mlm", "sentence-transformers"]


def test_a_readme_of_metadata_alone_is_kept_once(checkpoint, donor, tmp_path):
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---", encoding="utf-8")
    graft(checkpoint, donor, tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text("utf-8").count("license: mit") == 1


def test_the_section_stands_there_once_whatever_is_converted(checkpoint, donor, tmp_path):
    (checkpoint / "README.md").write_text(README, encoding="utf-8")
    graft(checkpoint, donor, tmp_path / "first")
    graft(tmp_path / "first", None, tmp_path / "second", format="bert")
    text = (tmp_path / "second" / "README.md").read_text("utf-8")
    assert text.count(README.strip()) == 1
    assert text.count("## The pooler") == 1
    assert card_of(tmp_path / "second").data.tags == ["bert", "bert-pooled-mlm", "sentence-transformers"]


# --- What users load -------------------------------------------------------------------------------------------------

USES = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch, transformers
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer, BertModel

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
sentences = ["word1 word2 word77", "word5"]

def load(folder, cls=AutoModel, **kwargs):
    model, info = cls.from_pretrained(folder, output_loading_info=True, **kwargs)
    with torch.no_grad():
        return sorted(info["missing_keys"]), model.eval()(**inputs).pooler_output

found = {}
for folder in sys.argv[2:]:
    kind = folder.split("/")[-1]
    trust = {"trust_remote_code": True} if kind == "pooled" else {}
    inputs = AutoTokenizer.from_pretrained(folder, **trust)(sentences, padding=True, return_tensors="pt")
    (missing, one), (_, two) = load(folder, **trust), load(folder, **trust)
    (_, three), (_, four) = load(sys.argv[1], BertModel), load(sys.argv[1], BertModel)
    encoder = SentenceTransformer(folder, device="cpu", **trust)
    model = encoder[0].auto_model  # its name in every version
    heads = [module for name, module in model.named_modules() if name.split(".")[-1] == "cls"]
    calls = []
    for head in heads:
        head.register_forward_hook(lambda *_: calls.append(1))
    vectors = encoder.encode(sentences, convert_to_tensor=True)
    encoding_called = len(calls)
    with torch.no_grad():
        model(**inputs, **({"return_logits": True} if heads else {}))
        reference = model(**inputs).pooler_output
    found[kind] = {
        "ids": inputs["input_ids"].tolist(), "missing": missing, "equal": torch.equal(one, two),
        "equal before": torch.equal(three, four), "modules": [type(module).__name__ for module in encoder],
        "heads": len(heads), "encoding called": encoding_called, "asked called": len(calls) - encoding_called,
        "difference": (vectors - reference).abs().max().item(),
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def uses(lost, donor, tmp_path_factory) -> dict[str, dict]:
    """What users of each format see, in a fresh process in another folder."""
    folder = tmp_path_factory.mktemp("uses")
    for format in FORMATS:
        graft(lost, donor, folder / format, format=format)
    return answer(USES, folder, lost, *(folder / format for format in FORMATS))


@pytest.mark.versions
@pytest.mark.parametrize("format", FORMATS)
def test_two_loads_are_identical_and_nothing_is_missing(format, uses):
    assert uses[format]["missing"] == []
    assert uses[format]["equal"]
    assert not uses[format]["equal before"], "premise: the input's pooler is random"


@pytest.mark.versions
@pytest.mark.parametrize("format", FORMATS)
def test_the_tokenizer_loads_from_the_output(format, uses):
    assert uses[format]["ids"] == [[2, 6, 7, 82, 3], [2, 10, 3, 0, 0]]


@pytest.mark.versions
@pytest.mark.parametrize("format", FORMATS)
def test_sentence_transformers_gives_pooler_output(format, uses):
    assert uses[format]["modules"] == ["Transformer", "Pooling", "Dense"]
    assert uses[format]["difference"] == 0.0


@pytest.mark.versions
def test_sentence_transformers_never_runs_the_mlm_head(uses):
    assert uses["bert"]["heads"] == 0
    assert uses["pooled"]["heads"] == 1
    assert uses["pooled"]["asked called"] == 1, "premise: a call is counted"
    assert uses["pooled"]["encoding called"] == 0


@pytest.mark.versions
@pytest.mark.parametrize("cls", [BertModel, BertForMaskedLM, BertForPreTraining])
def test_stock_classes_load_the_bert_format_with_nothing_missing(cls, lost, donor, tmp_path):
    graft(lost, donor, tmp_path / "out", format="bert")
    model, info = cls.from_pretrained(tmp_path / "out", output_loading_info=True)
    no_nsp = {"cls.seq_relationship.weight", "cls.seq_relationship.bias"} if cls is BertForPreTraining else set()
    assert set(info["missing_keys"]) == no_nsp
    assert type(model.config) is BertConfig
    loaded, expected = bits(model.state_dict()), expected_of(lost, donor)
    if cls is BertModel:
        expected = {name.removeprefix("bert."): value for name, value in expected.items()}
    shared = loaded.keys() & expected.keys()
    assert {name: loaded[name] for name in shared} == {name: expected[name] for name in shared}
    assert len(shared) > 30


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
    assert bits(given(source)) != bits(given(lost)), "premise: the step moved something"


# --- Where it goes, and converting again -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint/", "./checkpoint", "../here/checkpoint", "~/checkpoint"])
def test_the_default_output_lies_beside_the_input(name, lost, donor, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    shutil.copytree(lost, tmp_path / "here" / "checkpoint")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    convert(name, pooler_from=donor, verify=False)
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"checkpoint", "checkpoint-pooled"}


def test_the_default_output_of_the_working_folder_lies_beside_it(checkpoint, donor, tmp_path, monkeypatch):
    monkeypatch.chdir(checkpoint)
    convert(".", pooler_from=donor, verify=False)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "checkpoint-pooled"}


@pytest.mark.parametrize("options", [{}, {"format": "bert"}], ids=FORMATS)
@pytest.mark.parametrize("layout", [(1, "safetensors"), (3, "safetensors"), (3, "bin")], ids=["file", "shards", "bin"])
def test_converting_twice_gives_the_same_bytes(layout, options, checkpoint, donor, tmp_path):
    save_weights(checkpoint, given(checkpoint), *layout)
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


@pytest.mark.versions
@pytest.mark.parametrize(("first", "second"), [("pooled", "bert"), ("bert", "pooled")])
def test_changing_the_format_keeps_the_pooler_and_needs_no_donor(first, second, lost, donor, tmp_path):
    graft(lost, donor, tmp_path / "a" / "out", format=first)
    source = json.loads((tmp_path / "a" / "out" / "config.json").read_text("utf-8"))["pooler_source"]
    report = graft(tmp_path / "a" / "out", None, tmp_path / "b" / "out", format=second)
    assert report.donor is None
    assert report.missing == []
    assert report.kept_tensors == len(given(lost)) + 2
    direct = graft(lost, donor, tmp_path / "c" / "out", format=second)
    assert direct.status == report.status == "converted"
    for output in ("b", "c"):  # the pooled format needs it, stock BERT reads it as well
        edit_json(tmp_path / output / "out" / "config.json", "tokenizer_class")
    assert contents(tmp_path / "b" / "out") == contents(tmp_path / "c" / "out")
    assert json.loads((tmp_path / "b" / "out" / "config.json").read_text("utf-8"))["pooler_source"] == source


def test_replace_pooler_grafts_over_a_random_one(lost, donor, tmp_path):
    random = BertForPreTraining.from_pretrained(lost)
    random.save_pretrained(tmp_path / "random")
    assert not torch.equal(given(tmp_path / "random")[POOLER[0]], given(donor)[POOLER[0]]), "premise"
    report = graft(tmp_path / "random", donor, tmp_path / "out", replace_pooler=True)
    assert bits(stored(tmp_path / "out")) == expected_of(lost, donor)
    assert [report.dropped[name] for name in POOLER] == ["replaced (--replace-pooler)"] * 2


def test_overwrite_replaces_the_whole_folder(lost, donor, tmp_path):
    other = save_donor(tmp_path / "other", seed=3)
    graft(save_lost(tmp_path / "first", other), other, tmp_path / "x" / "out", format="pooled")
    (tmp_path / "x" / "out" / "stale.txt").write_text("old")
    graft(lost, donor, tmp_path / "x" / "out", format="bert", overwrite=True)
    graft(lost, donor, tmp_path / "y" / "out", format="bert")
    assert contents(tmp_path / "x") == contents(tmp_path / "y")


# --- The command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(lost, donor, tmp_path) -> Path:
    """A training run: three checkpoints, the second of them damaged."""
    folder = tmp_path / "run"
    for step in (1, 2, 3):
        shutil.copytree(lost, folder / f"checkpoint-{step}")
    (folder / "checkpoint-2" / "config.json").unlink()
    return folder


@pytest.mark.parametrize("placed", [True, False], ids=["-o DIR", "beside each"])
def test_several_checkpoints_in_one_call(placed, run, lost, donor, tmp_path, capsys, monkeypatch):
    """One that fails does not stop the others; the exit code and a summary tell."""
    opened = Counter()
    original = converter.open_place

    def counting(name, *revision):
        opened.update([name])
        return original(name, *revision)

    monkeypatch.setattr(converter, "open_place", counting)
    where = ["-o", str(tmp_path / "out")] if placed else []
    checkpoints = [str(path) for path in sorted(run.iterdir())]
    assert main([*checkpoints, "--pooler-from", str(donor), "--no-verify", *where]) == 1
    suffix, folder = ("", tmp_path / "out") if placed else ("-pooled", run)
    for step in (1, 3):
        assert bits(stored(folder / f"checkpoint-{step}{suffix}")) == expected_of(lost, donor)
    assert not (folder / f"checkpoint-2{suffix}").exists()
    assert opened == dict.fromkeys([*checkpoints, str(donor)], 1), "the donor is read once"
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "checkpoint-2: no config.json" in captured.err
    *rows, total = captured.out.splitlines()[-4:]
    assert [row.split()[0] for row in rows] == ["converted", "refused", "converted"]
    assert [Path(row.split()[1]).name for row in rows] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert total == "2 done, 1 refused"


def test_several_sound_checkpoints_exit_with_0(run, donor, capsys):
    assert main([str(run / "checkpoint-1"), str(run / "checkpoint-3"), "--pooler-from", str(donor), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 done, 0 refused"


def test_a_dry_run_writes_nothing_and_says_what_is_missing(lost, donor, tmp_path, capsys):
    before = state(tmp_path)
    assert main([str(lost), "--pooler-from", str(donor), "-o", str(tmp_path / "deep" / "out"), "--dry-run"]) == 0
    assert state(tmp_path) == before
    out = capsys.readouterr().out
    assert out.startswith("status       planned")
    assert f"missing      {', '.join(POOLER)}: random at each load of the input" in out
    assert "Load it" not in out


def test_json_prints_the_report_as_one_object(lost, donor, tmp_path, capsys):
    arguments = [str(lost), "--pooler-from", str(donor), "--no-verify", "--json", "-o"]
    assert main([*arguments, str(tmp_path / "one")]) == 0
    printed = json.loads(capsys.readouterr().out)
    report = graft(lost, donor, tmp_path / "two").to_dict()
    assert printed.pop("output") == str(tmp_path / "one")
    assert report.pop("output") == str(tmp_path / "two")
    assert printed == report
    assert printed["status"] == "converted"


def test_json_of_several_is_one_object_too(run, donor, tmp_path, capsys):
    checkpoints = [str(path) for path in sorted(run.iterdir())]
    assert main([*checkpoints, "--pooler-from", str(donor), "-o", str(tmp_path / "out"), "--dry-run", "--json"]) == 1
    results = json.loads(capsys.readouterr().out)["results"]
    assert [result["status"] for result in results] == ["planned", "refused", "planned"]
    assert [result["checkpoint"] for result in results] == checkpoints
    assert "no config.json" in results[1]["error"]


def test_json_of_a_refusal_is_an_object(tmp_path, capsys):
    assert main([str(tmp_path / "none"), "--json"]) == 1
    captured = capsys.readouterr()
    error = f"{tmp_path / 'none'}: no such folder"
    assert json.loads(captured.out) == {"status": "refused", "checkpoint": str(tmp_path / "none"), "error": error}
    assert captured.err == f"error: {error}\n"


@pytest.mark.parametrize("count", [1, 2])
def test_quiet_prints_nothing(count, run, donor, capfd):
    checkpoints = [str(run / f"checkpoint-{step}") for step in (1, 3)][:count]
    assert main([*checkpoints, "--pooler-from", str(donor), "--no-verify", "-q"]) == 0
    assert capfd.readouterr() == ("", "")
    assert (run / "checkpoint-1-pooled").is_dir()


def test_the_report_says_what_was_kept_grafted_dropped_and_how_to_load_it(checkpoint, donor, tmp_path):
    save_weights(checkpoint, given(checkpoint) | tied_copies(given(checkpoint)))
    (checkpoint / "optimizer.pt").write_bytes(b"")
    report = graft(checkpoint, donor, tmp_path / "out")
    kept = given(tmp_path / "out")
    assert report.kept_tensors == len(kept) - 2
    assert report.kept_bytes == sum(tensor.nbytes for name, tensor in kept.items() if name not in POOLER)
    table, _, lines = str(report).partition("\n\nLoad it:\n")
    assert [row.split()[0] for row in table.splitlines() if not row.startswith(("found by", "left behind"))] == [
        "status", "checkpoint", "missing", "donor", "lineage", "grafted", "grafted", "kept", "dropped", "dropped",
        "copied", "output",
    ]  # fmt: skip
    assert f"output       {tmp_path / 'out'}" in table
    assert "left behind  optimizer.pt" in table
    namespace = {}
    exec("\n".join(line.strip() for line in lines.splitlines()), namespace)  # the three lines to paste
    assert torch.equal(namespace["model"].bert.pooler.dense.weight, given(donor)[POOLER[0]])


# --- The doors -------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A plain checkout: the files without an installation."""
    folder = tmp_path / "plain-checkout"
    folder.mkdir()
    for name in ("convert.py", *CODE_FILES):
        shutil.copy(ROOT / name, folder)
    return folder


def run_door(command: list, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHONPATH"))}
    variables |= {"HF_HOME": str(cwd / "hf-home"), "HF_HUB_OFFLINE": "1", **env}
    return subprocess.run([*map(str, command)], cwd=cwd, env=variables, capture_output=True, text=True)


DOORS = {
    "python convert.py": ([sys.executable, "plain-checkout/convert.py"], []),
    "python -m bert_pooled_mlm.convert": ([sys.executable, "-m", "bert_pooled_mlm.convert"], ["--no-verify"]),
    "bert-pooled-mlm-convert": ([Path(sysconfig.get_path("scripts"), "bert-pooled-mlm-convert")], ["--no-verify"]),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_leads_to_the_same_conversion(door, checkout, checkpoint, lost, donor, tmp_path):
    command, options = DOORS[door]
    done = run_door([*command, "checkpoint", "--pooler-from", donor, *options], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("status       converted")
    assert ("verified " in done.stdout) == (options == [])
    assert bits(stored(tmp_path / "checkpoint-pooled")) == expected_of(lost, donor)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none"], 1, "error: none: "),
        ([], 2, "the following arguments are required: CHECKPOINT"),
        (["a", "b", "--push-to-hub", "user/x"], 2, "--push-to-hub takes one CHECKPOINT"),
        (["a", "--force-donor"], 2, "--force-donor needs --pooler-from DONOR"),
        (["a", "--pooler-revision", "v1"], 2, "--pooler-revision needs --pooler-from DONOR"),
        (["a", "--private"], 2, "--private needs --push-to-hub REPO_ID"),
        (["a", "--format", "gguf"], 2, "argument --format: invalid choice"),
    ],
)
def test_exit_codes_tell_a_refusal_from_wrong_usage(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(converter, "HubRepo", NoHub)
    try:
        exit_code = main(arguments)
    except SystemExit as exit:
        exit_code = exit.code
    captured = capsys.readouterr()
    assert exit_code == code
    assert message in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


class NoHub:
    """What `HubRepo` raises without a network."""

    def __init__(self, *args):
        raise converter.OfflineModeIsEnabled("off")


WITHOUT_TORCH = """
import json, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as exit:
    code = exit.code
heavy = {"torch", "transformers", "safetensors", "tensorflow", "pandas"}
print(json.dumps([code or 0, sorted(heavy & {name.split(".")[0] for name in sys.modules})]))
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["checkpoint", "--pooler-from", "giver", "--no-verify"]],
    ids=["help", "a whole conversion"],
)
def test_the_script_does_without_torch_and_transformers(arguments, checkout, checkpoint, donor, tmp_path):
    shutil.copytree(donor, tmp_path / "giver")
    assert answer(WITHOUT_TORCH, tmp_path, checkout / "convert.py", *arguments) == [0, []]
    assert (tmp_path / "checkpoint-pooled").is_dir() == (arguments != ["--help"])


def test_the_real_minilm_encoder_comes_out_bit_for_bit(minilm, tmp_path):
    """Real weights: an MLM checkpoint made from MiniLM, and a donor whose pooler was trained."""
    giver = BertForPreTraining.from_pretrained(minilm)
    with torch.no_grad():
        giver.bert.pooler.dense.bias.add_(0.01)
    giver.save_pretrained(tmp_path / "giver")
    BertForMaskedLM.from_pretrained(tmp_path / "giver").save_pretrained(tmp_path / "source")
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(minilm / name, tmp_path / "source")
    report = graft(tmp_path / "source", tmp_path / "giver", tmp_path / "out")
    assert report.lineage_cosine == 1.0
    assert bits(stored(tmp_path / "out")) == expected_of(tmp_path / "source", tmp_path / "giver")
