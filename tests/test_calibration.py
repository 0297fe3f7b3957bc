"""The fit: what it finds, what it leaves alone, what it costs, and what it refuses."""

import copy
import json
import random
import weakref

import numpy as np
import pytest
import torch
from bert_pooled_mlm import (
    BertPooledMLMConfig,
    BertPooledMLMForMaskedLM,
    BertPooledMLMForSequenceClassification,
    calibrate_pooler,
)
from bert_pooled_mlm import calibration as module
from checkpoints import SHAPE, answer, make_donor, randomize, save_tokenizer
from transformers import BertModel, BertTokenizerFast

HIDDEN = SHAPE["hidden_size"]


def sentences(count: int, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    return [
        " ".join(f"word{generator.randrange(123)}" for _ in range(generator.randrange(3, 20))) for _ in range(count)
    ]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> BertTokenizerFast:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return BertTokenizerFast.from_pretrained(folder)


@pytest.fixture(scope="module")
def original() -> BertModel:
    """Its [CLS] states spread as a trained BERT's do, in every direction: at initialisation they hardly differ."""
    model = BertModel(make_donor().config).eval()
    randomize(model, seed=3, scale=0.3)
    return model


def drifted(original: BertModel, scale: float = 0.05, seed: int = 7) -> BertModel:
    """Continued pre-training, as far as a pooler is concerned: another encoder under the same pooler."""
    model = copy.deepcopy(original)
    pooler = copy.deepcopy(model.pooler.state_dict())
    randomize(model, seed, scale)
    model.pooler.load_state_dict(pooler)
    return model


def pooler_of(model) -> list[torch.Tensor]:
    dense = model.base_model.pooler.dense
    return [dense.weight.detach().clone(), dense.bias.detach().clone()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@torch.no_grad()
def pooled_outputs(model, tokenizer, texts: list[str]) -> torch.Tensor:
    return model(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output


@pytest.mark.versions
def test_it_finds_the_pooler_that_undoes_a_known_linear_map(original, tokenizer):
    """[CLS] scaled and shifted coordinate by coordinate, as the last LayerNorm can: W / scale undoes it exactly."""
    adapted = copy.deepcopy(original)
    scale, shift = torch.linspace(0.5, 2, HIDDEN), torch.linspace(-0.5, 0.5, HIDDEN)
    norm = adapted.encoder.layer[-1].output.LayerNorm
    with torch.no_grad():
        norm.weight.mul_(scale)
        norm.bias.mul_(scale).add_(shift)
    weight, _ = pooler_of(original)
    found = calibrate_pooler(adapted, original, tokenizer, sentences(600), max_length=32)
    assert found.improved
    assert found.cosine_before < 0.99
    assert found.cosine_after > 1 - 1e-9
    expected = weight / scale
    # LayerNorm's output has no freedom along one direction, where the fit stays with the original weight.
    free = torch.linalg.qr(torch.stack([norm.weight.detach()], 1) * 0 + (1 / norm.weight.detach())[:, None])[0]
    error = (adapted.pooler.dense.weight - expected).detach()
    error -= error @ free @ free.T
    assert error.abs().max() < 0.02 * expected.abs().max()
    held_out = sentences(50, seed=99)
    outputs = [pooled_outputs(model, tokenizer, held_out) for model in (original, adapted)]
    assert torch.allclose(*outputs, atol=1e-4)


def test_without_drift_not_a_bit_changes(original, tokenizer):
    adapted = copy.deepcopy(original)
    found = calibrate_pooler(adapted, original, tokenizer, sentences(100), max_length=32)
    assert not found.improved
    assert found.cosine_before == found.cosine_after == pytest.approx(1)
    assert same(pooler_of(adapted), pooler_of(original))


@pytest.mark.versions
def test_it_brings_the_pooled_output_of_a_drifted_encoder_back(original, tokenizer):
    adapted = drifted(original)
    texts, unseen = sentences(1000), sentences(100, seed=5)
    target = pooled_outputs(original, tokenizer, unseen)
    before = pooled_outputs(adapted, tokenizer, unseen)
    found = calibrate_pooler(adapted, original, tokenizer, texts, max_length=32)
    after = pooled_outputs(adapted, tokenizer, unseen)
    assert found.improved
    assert (found.texts, found.held_out) == (1000, 200)
    assert found.cosine_after > found.cosine_before + 0.01
    similarities = [float(torch.cosine_similarity(it, target).mean()) for it in (before, after)]
    # The held-out fifth judged fairly: other texts find the same.
    assert [found.cosine_before, found.cosine_after] == pytest.approx(similarities, abs=0.02)


def test_a_large_penalty_leaves_the_original_weight(original, tokenizer, monkeypatch):
    distances = []
    for penalty in (1e-6, 1.0, 1e6):
        monkeypatch.setattr(module, "PENALTIES", (penalty,))
        adapted = drifted(original)
        calibrate_pooler(adapted, original, tokenizer, sentences(400), max_length=32)
        pairs = zip(pooler_of(adapted), pooler_of(original), strict=True)
        distances.append(float(sum((one - other).square().sum() for one, other in pairs)))
    assert distances[0] > 100 * distances[1] > 0
    assert distances[2] < 1e-9


def test_the_minimum_is_the_one_that_is_defined(original, tokenizer):
    """Against gradient-free optimality: no small step away from the solution lowers what is to be minimised."""
    generator = np.random.default_rng(0)
    states, targets = generator.normal(size=(200, 9)), generator.normal(size=(200, 4))
    states[:, -1] = 1
    before = generator.normal(size=(4, 9))
    moments = module._Moments.of(states, targets - states @ before.T)
    penalty = 0.03

    def loss(weights: np.ndarray) -> float:
        change = weights - before
        return ((targets - states @ weights.T) ** 2).sum() / 200 + penalty * (states**2).mean() * (change**2).sum()

    best = before + module._fit(moments, penalty)
    assert loss(best) < loss(before)
    for _ in range(50):
        assert loss(best + 1e-3 * generator.normal(size=best.shape)) > loss(best)


def test_the_penalty_is_that_of_the_smallest_error_on_left_out_folds(original):
    """The sums over texts give the errors that fitting and predicting text by text give."""
    generator = np.random.default_rng(1)
    truth = generator.normal(size=(4, 9)) * 0.1
    folds = []
    for _ in range(4):
        states = generator.normal(size=(12, 9))
        folds.append((states, states @ truth.T + generator.normal(size=(12, 4))))
    errors = []
    for penalty in module.PENALTIES:
        error = 0
        for left_out, (states, targets) in enumerate(folds):
            others = [fold for number, fold in enumerate(folds) if number != left_out]
            x, y = (np.concatenate(part) for part in zip(*others, strict=True))
            change = np.linalg.solve(x.T @ x / len(x) + penalty * (x**2).mean() * np.eye(9), x.T @ y / len(x)).T
            error += ((targets - states @ change.T) ** 2).sum()
        errors.append(error)
    chosen = module._choose_penalty([module._Moments.of(*fold) for fold in folds])
    assert chosen == module.PENALTIES[int(np.argmin(errors))]
    assert module.PENALTIES[0] < chosen < module.PENALTIES[-1], "the example has to have a best one in between"


def test_twice_the_same_bits(original, tokenizer):
    poolers = []
    for _ in range(2):
        adapted = drifted(original)
        calibrate_pooler(adapted, original, tokenizer, sentences(200), max_length=32)
        poolers.append(pooler_of(adapted))
    assert same(*poolers)


def test_the_number_of_threads_hardly_matters(original, tokenizer):
    poolers = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            adapted = drifted(original)
            calibrate_pooler(adapted, original, tokenizer, sentences(400), max_length=32)
        finally:
            torch.set_num_threads(1)
        poolers.append(torch.cat([part.flatten() for part in pooler_of(adapted)]))
    # Sums in another order; with float64 sums, what is left is the encoders' own float32 rounding.
    assert (poolers[0] - poolers[1]).norm() < 1e-3 * poolers[0].norm()


def test_the_batch_size_hardly_matters(original, tokenizer):
    found = []
    for batch_size in (1, 7, 64):
        adapted = drifted(original)
        found.append(
            calibrate_pooler(adapted, original, tokenizer, sentences(200), max_length=32, batch_size=batch_size)
        )
    assert {it.sha256 for it in found} == {found[0].sha256}
    assert [it.cosine_after for it in found] == pytest.approx([found[0].cosine_after] * 3, abs=1e-4)


def test_memory_does_not_grow_with_the_number_of_texts(original, tokenizer, monkeypatch):
    """Of the states of a batch, none is alive once the next but one has been encoded."""
    encode, alive, most = module._encode, weakref.WeakSet(), []

    def counted(*args):
        alive.add(states := Watched(encode(*args)))
        most[-1] = max(most[-1], sum(it.nbytes for it in alive))
        return states

    class Watched(np.ndarray):
        """Can be hashed, and so watched."""

        def __new__(cls, array):
            return array.view(cls)

        __hash__ = object.__hash__

    monkeypatch.setattr(module, "_encode", counted)
    monkeypatch.setattr(module, "WINDOW", 2)
    for count in (100, 800):
        most.append(0)
        calibrate_pooler(drifted(original), original, tokenizer, sentences(count), max_length=32, batch_size=10)
    assert most[0] == most[1] <= 4 * 10 * (HIDDEN + 1) * 8


@pytest.mark.versions
@pytest.mark.parametrize("cls", [BertPooledMLMForMaskedLM, BertPooledMLMForSequenceClassification])
def test_a_model_at_the_end_of_its_training_is_calibrated_in_place(cls, original, tokenizer):
    model = cls(BertPooledMLMConfig(**SHAPE))
    model.bert.load_state_dict(drifted(original).state_dict())
    model.train()
    others = {name: value.clone() for name, value in model.state_dict().items() if "pooler" not in name}
    frozen = [parameter.requires_grad for parameter in model.parameters()]
    found = calibrate_pooler(model, original, tokenizer, sentences(200), max_length=32)
    assert found.improved
    assert not same(pooler_of(model), pooler_of(original))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in others.items())
    assert [parameter.requires_grad for parameter in model.parameters()] == frozen
    assert model.training
    assert all(part.training for part in model.modules())
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_half_precision_is_judged_as_it_is_stored(original, tokenizer):
    adapted = drifted(original).to(torch.bfloat16)
    found = calibrate_pooler(adapted, original, tokenizer, sentences(200), max_length=32)
    assert found.improved
    assert adapted.pooler.dense.weight.dtype is torch.bfloat16


@pytest.mark.versions
def test_pairs_are_read_as_pairs(original, tokenizer):
    texts = list(zip(sentences(200), sentences(200, seed=1), strict=True))
    found = [
        calibrate_pooler(drifted(original), original, tokenizer, it, max_length=48)
        for it in (texts, [" ".join(pair) for pair in texts], [*texts[:100], *sentences(100, seed=2)])
    ]
    assert len({it.sha256 for it in found}) == len({it.cosine_before for it in found}) == 3


def test_it_says_how_long_it_takes_before_it_begins(original, tokenizer, capsys):
    calibrate_pooler(drifted(original), original, tokenizer, sentences(120), max_length=32, progress=True)
    assert capsys.readouterr().err.startswith("calibrating on 120 texts, on cpu: about 1 s\n")
    calibrate_pooler(drifted(original), original, tokenizer, sentences(120), max_length=32)
    assert capsys.readouterr().err == ""


def test_the_fit_reads_as_a_sentence_and_holds_no_text(original, tokenizer):
    texts = sentences(100)
    found = calibrate_pooler(drifted(original), original, tokenizer, texts, max_length=32)
    assert f"-> {found.cosine_after:.4f} on 20 held-out of 100 texts" in str(found)
    assert not any(text in repr(found) for text in texts)


# --- What is refused -------------------------------------------------------------------------------------------------


def test_too_few_texts(original, tokenizer):
    with pytest.raises(ValueError, match=r"^99 different texts; at least 100 are needed"):
        calibrate_pooler(drifted(original), original, tokenizer, sentences(99), max_length=32)


def test_few_texts_for_the_hidden_size_are_said_to_be_few(original, tokenizer, monkeypatch):
    monkeypatch.setattr(module, "FEWEST_TEXTS", 10)
    few, enough = (
        calibrate_pooler(drifted(original), original, tokenizer, sentences(count), max_length=32)
        for count in (HIDDEN, 2 * HIDDEN)
    )
    assert few.notes == ["32 texts are few for a hidden size of 32: more would fit better"]
    assert enough.notes == []


def test_texts_longer_than_the_model_reads(original, tokenizer):
    with pytest.raises(ValueError, match="texts of 65 tokens: the adapted model reads 64 at most"):
        calibrate_pooler(drifted(original), original, tokenizer, sentences(120), max_length=65)


def test_a_model_without_a_pooler(original, tokenizer):
    without = BertModel(original.config, add_pooling_layer=False)
    for adapted, donor, name in ((without, original, "adapted"), (original, without, "donor")):
        with pytest.raises(ValueError, match=f"the {name} model has no pooler"):
            calibrate_pooler(adapted, donor, tokenizer, sentences(120), max_length=32)


def test_models_of_different_hidden_sizes(original, tokenizer):
    other = BertModel(make_donor(hidden_size=16).config)
    with pytest.raises(ValueError, match="different hidden sizes: 16 and 32"):
        calibrate_pooler(other, original, tokenizer, sentences(120), max_length=32)


def test_an_encoder_that_gives_nan_leaves_the_pooler_alone(original, tokenizer):
    adapted = drifted(original)
    with torch.no_grad():
        adapted.embeddings.LayerNorm.weight[0] = float("nan")
    before = pooler_of(adapted)
    with pytest.raises(ValueError, match="states are not finite"):
        calibrate_pooler(adapted, original, tokenizer, sentences(120), max_length=32)
    assert same(pooler_of(adapted), before)


# --- Two tokenizers --------------------------------------------------------------------------------------------------


def with_vocabulary(folder, words: list[str], **options) -> BertTokenizerFast:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return BertTokenizerFast(str(folder / "vocab.txt"), **options)


def words_of(tokenizer) -> list[str]:
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.get)


def test_equal_tokenizers_say_nothing(tokenizer, tmp_path):
    assert module.check_tokenizers(tokenizer, with_vocabulary(tmp_path / "one", words_of(tokenizer)), ["word1"]) == []


def test_an_extended_vocabulary_is_said(tokenizer, tmp_path):
    extended = with_vocabulary(tmp_path / "more", [*words_of(tokenizer), "graft"])
    (note,) = module.check_tokenizers(extended, tokenizer, ["word1 graft"])
    assert "1 tokens more and 0 fewer" in note


def test_the_same_vocabulary_read_differently_is_refused(tokenizer, tmp_path):
    folder = tmp_path / "cased"
    save_tokenizer(folder)
    cased = BertTokenizerFast.from_pretrained(folder, do_lower_case=False)
    state = json.loads(cased.backend_tokenizer.normalizer.__getstate__())
    assert state["lowercase"] is False
    assert module.check_tokenizers(cased, tokenizer, ["word1"]) == []
    with pytest.raises(ValueError, match="read text 2 differently: from token 2 on"):
        module.check_tokenizers(cased, tokenizer, ["word1", "word2 WORD3"])


def test_other_numbers_for_the_same_tokens_are_refused(tokenizer, tmp_path):
    words = words_of(tokenizer)
    swapped = with_vocabulary(tmp_path / "swapped", [*words[:5], words[6], words[5], *words[7:]])
    with pytest.raises(ValueError, match="number 2 of the same tokens differently"):
        module.check_tokenizers(swapped, tokenizer, ["word9"])


# --- Reading texts ---------------------------------------------------------------------------------------------------


def test_a_text_file_has_a_text_a_line(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_bytes("\ufefferste Zeile\r\n\r\n  zweite \r\nerste Zeile\r\n中文\n".encode())
    assert module.read_texts(file, 10) == ["erste Zeile", "zweite", "中文"]


def test_a_tsv_and_a_jsonl_have_fields(tmp_path):
    tsv, jsonl = tmp_path / "a.tsv", tmp_path / "a.jsonl"
    tsv.write_text('label\ttext\ttext_pair\n1\ta "b\tc\n0\td\t\n', encoding="utf-8")
    rows = [{"text": 'a "b', "text_pair": "c"}, {"text": "d", "text_pair": None}]
    jsonl.write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert module.read_texts(tsv, 10) == module.read_texts(jsonl, 10) == [('a "b', "c"), "d"]


def test_of_many_texts_the_same_are_chosen_each_time_from_all_over_the_file(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("\n".join(f"text {number}" for number in range(1000)))
    chosen = module.read_texts(file, 100)
    assert chosen == module.read_texts(file, 100)
    assert len(set(chosen)) == 100
    numbers = sorted(int(text.split()[1]) for text in chosen)
    assert numbers[9] < 250
    assert numbers[90] > 750
    assert module.read_texts(file, 1000) == [f"text {number}" for number in range(1000)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"gut\nsch\xf6n\n", "a.txt: not UTF-8"),
        (
            "a.tsv",
            b"body\tlabel\nx\t1\n",
            "a.tsv, line 2: expected a text in the field 'text'; its fields: body, label",
        ),
        ("a.jsonl", b'{"text": "a"}\n{"text": 3}\n', "a.jsonl, line 2: expected a text in the field 'text'"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "a.jsonl, line 2: not valid JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl, line 1: expected a JSON object, found list"),
    ],
)
def test_what_can_not_be_read_is_said_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        module.read_texts(tmp_path / name, 10)
    assert "\n" not in str(caught.value)


DATASET = """
import json, sys
import datasets
from bert_pooled_mlm.calibration import read_texts
rows = datasets.Dataset.from_dict({"text": [f"text {n}" for n in range(50)], "comment": ["x"] * 25 + ["y"] * 25})
rows.save_to_disk("saved")
datasets.DatasetDict({"test": rows, "train": rows.select(range(20))}).save_to_disk("split")
import os
os.mkdir("data")
rows.to_json("data/train.jsonl")
found = [read_texts(source, 30) for source in ("saved", "saved", "split", "data", "./data:comment")]
print(json.dumps(found))
"""


@pytest.mark.versions
def test_a_data_set_is_read_from_a_folder_with_a_column(tmp_path):
    saved, again, split, data, comments = answer(DATASET, tmp_path)
    assert saved == again
    assert len(set(saved)) == len(set(data)) == 30
    assert set(split) == {f"text {number}" for number in range(20)}
    assert set(comments) == {"x", "y"}


MISSING = """
import json, sys
from bert_pooled_mlm.calibration import read_texts
sys.modules["datasets"] = None if sys.argv[2] == "without" else sys.modules.get("datasets")
if sys.argv[2] != "without":
    del sys.modules["datasets"]
try:
    read_texts(sys.argv[1], 10)
except ValueError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.parametrize(
    ("library", "message"),
    [("without", "no-such.txt: no such file; for a data set, run `pip install datasets` first"),
     ("with", "no-such.txt: no such file, nor a data set that can be read (")],
)  # fmt: skip
def test_a_name_that_is_nothing_is_refused_in_one_line(tmp_path, library, message):
    found = answer(MISSING, tmp_path, "no-such.txt", library)
    assert found.startswith(message)
    assert "\n" not in found
