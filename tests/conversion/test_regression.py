"""The fit of a pooler: what it finds, what it leaves alone, what it costs, and which input is an error."""

import copy
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
from bert_pooled_mlm.conversion import regression
from checkpoints import SHAPE, differing, make_donor, pooler_of, randomize
from grafting import sentences
from transformers import BertModel

HIDDEN = SHAPE["hidden_size"]


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


@pytest.fixture
def calibrated(original, tokenizer):
    """The fit of a model to `original`, on short texts."""

    def run(adapted, texts, **options):
        return calibrate_pooler(adapted, original, tokenizer, texts, **{"max_length": 32, **options})

    return run


@torch.no_grad()
def pooled_outputs(model, tokenizer, texts: list[str]) -> torch.Tensor:
    return model(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output


@pytest.mark.versions
def test_it_finds_the_pooler_that_undoes_a_known_linear_map(original, tokenizer, calibrated):
    """[CLS] scaled and shifted coordinate by coordinate, as the last LayerNorm can: W / scale undoes it exactly."""
    adapted = copy.deepcopy(original)
    scale, shift = torch.linspace(0.5, 2, HIDDEN), torch.linspace(-0.5, 0.5, HIDDEN)
    norm = adapted.encoder.layer[-1].output.LayerNorm
    with torch.no_grad():
        norm.weight.mul_(scale)
        norm.bias.mul_(scale).add_(shift)
    weight = pooler_of(original)["dense.weight"]
    found = calibrated(adapted, sentences(600))
    assert found.improved
    assert found.cosine_before < 0.99
    assert found.cosine_after > 1 - 1e-9
    expected = weight / scale
    # LayerNorm's output has no freedom along one direction, where the fit stays with the original weight.
    free = torch.nn.functional.normalize(1 / norm.weight.detach(), dim=0)
    error = (adapted.pooler.dense.weight - expected).detach()
    error -= (error @ free)[:, None] * free
    assert error.abs().max() < 0.02 * expected.abs().max()
    held_out = sentences(50, seed=99)
    outputs = [pooled_outputs(model, tokenizer, held_out) for model in (original, adapted)]
    assert torch.allclose(*outputs, atol=1e-4)


def test_without_drift_not_a_bit_changes(original, calibrated):
    adapted = copy.deepcopy(original)
    found = calibrated(adapted, sentences(100))
    assert not found.improved
    assert found.cosine_before == found.cosine_after == pytest.approx(1)
    assert not differing(pooler_of(adapted), pooler_of(original))


@pytest.mark.versions
def test_it_brings_the_pooled_output_of_a_drifted_encoder_back(original, tokenizer, calibrated):
    adapted = drifted(original)
    texts, unseen = sentences(1000), sentences(100, seed=5)
    target = pooled_outputs(original, tokenizer, unseen)
    before = pooled_outputs(adapted, tokenizer, unseen)
    found = calibrated(adapted, texts)
    after = pooled_outputs(adapted, tokenizer, unseen)
    assert found.improved
    assert (found.texts, found.held_out) == (1000, 200)
    assert found.cosine_after > found.cosine_before + 0.01
    similarities = [float(torch.cosine_similarity(it, target).mean()) for it in (before, after)]
    # The held-out fold is representative: other texts give the same.
    assert [found.cosine_before, found.cosine_after] == pytest.approx(similarities, abs=0.02)
    assert found.neighbours_kept_after > found.neighbours_kept_before + 0.05
    assert f"neighbours kept {found.neighbours_kept_before:.2f} -> {found.neighbours_kept_after:.2f}" in str(found)


def test_the_minimum_is_the_one_that_is_defined():
    """No small step away from the solution lowers what is to be minimised."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.double)

    states, targets, before, penalty = normal(200, 9), normal(200, 8), normal(8, 9), 0.03
    states[:, -1] = 1

    def loss(weights: torch.Tensor) -> torch.Tensor:
        shrunk = penalty * states.square().mean() * (weights - before).square().sum()
        return (targets - states @ weights.T).square().sum() / 200 + shrunk

    best = before + regression._fit(regression._moments(states, targets - states @ before.T), penalty)
    assert loss(best) < loss(before)
    for _ in range(50):
        assert loss(best + 1e-3 * normal(8, 9)) > loss(best)


def test_the_penalty_is_that_of_the_smallest_error_on_left_out_folds():
    """The sums over texts give the errors that fitting and predicting text by text give."""
    generator = np.random.default_rng(1)
    truth = generator.normal(size=(8, 9)) * 0.1
    folds = []
    for _ in range(4):
        states = generator.normal(size=(12, 9))
        folds.append((states, states @ truth.T + generator.normal(size=(12, 8))))
    errors = []
    for penalty in regression.PENALTIES:
        error = 0
        for left_out, (states, targets) in enumerate(folds):
            others = [fold for number, fold in enumerate(folds) if number != left_out]
            x, y = (np.concatenate(part) for part in zip(*others, strict=True))
            change = np.linalg.solve(x.T @ x / len(x) + penalty * (x**2).mean() * np.eye(9), x.T @ y / len(x)).T
            error += ((targets - states @ change.T) ** 2).sum()
        errors.append(error)
    chosen = regression._choose_penalty([regression._moments(*map(torch.from_numpy, fold)) for fold in folds])
    assert chosen == regression.PENALTIES[int(np.argmin(errors))]
    assert regression.PENALTIES[0] < chosen < regression.PENALTIES[-1], "premise: a best one in between"


def test_neighbours_and_centred_cosines_are_those_of_an_index_of_the_donors_vectors():
    generator, shared = np.random.default_rng(2), 9 * np.eye(6)[0]
    donor = generator.normal(size=(60, 6)) + shared
    own = [donor + scale * generator.normal(size=donor.shape) for scale in (2.0, 0.2)]
    found, expected = regression._measured(torch.from_numpy(np.stack([donor, *own]))), {}
    for when, vectors in zip(("before", "after"), own, strict=True):
        pairs = zip(vectors - donor.mean(0), donor - donor.mean(0), strict=True)
        expected[f"centred_cosine_{when}"] = np.mean([a @ b / np.sqrt(a @ a * (b @ b)) for a, b in pairs])
        kept = 0
        for text in range(60):
            others = [it for it in range(60) if it != text]
            lists = []
            for query in (vectors[text], donor[text]):
                cosines = {it: query @ donor[it] / np.linalg.norm(donor[it]) for it in others}
                lists.append({*sorted(others, key=cosines.get)[-10:]})
            kept += len(lists[0] & lists[1])
        expected[f"neighbours_kept_{when}"] = kept / 600
    assert found == pytest.approx(expected)
    assert found["neighbours_kept_before"] < 0.5 < found["neighbours_kept_after"], "premise"


def test_the_batch_size_hardly_matters(original, calibrated):
    found = []
    for batch_size in (1, 7, 64):
        adapted = drifted(original)
        found.append(calibrated(adapted, sentences(200), batch_size=batch_size))
    assert {it.sha256 for it in found} == {found[0].sha256}
    assert [it.cosine_after for it in found] == pytest.approx([found[0].cosine_after] * 3, abs=1e-4)


def test_memory_does_not_grow_with_the_number_of_texts(original, monkeypatch, calibrated):
    """Of the states of a batch, none is alive once the next but one has been encoded."""
    encode, alive, most = regression._encode, weakref.WeakSet(), []

    def counted(*args):
        alive.add(states := encode(*args))
        most[-1] = max(most[-1], sum(it.nbytes for it in alive))
        return states

    monkeypatch.setattr(regression, "_encode", counted)
    monkeypatch.setattr(regression, "WINDOW", 2)
    for count in (100, 800):
        most.append(0)
        calibrated(drifted(original), sentences(count), batch_size=10)
    assert most[0] == most[1] <= 4 * 10 * (HIDDEN + 1) * 8


@pytest.mark.versions
@pytest.mark.parametrize("cls", [BertPooledMLMForMaskedLM, BertPooledMLMForSequenceClassification])
def test_a_model_at_the_end_of_its_training_is_calibrated_in_place(cls, original, calibrated):
    model = cls(BertPooledMLMConfig(**SHAPE))
    model.bert.load_state_dict(drifted(original).state_dict())
    model.train()
    others = {name: value.clone() for name, value in model.state_dict().items() if "pooler" not in name}
    frozen = [parameter.requires_grad for parameter in model.parameters()]
    found = calibrated(model, sentences(200))
    assert found.improved
    assert differing(pooler_of(model), pooler_of(original))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in others.items())
    assert [parameter.requires_grad for parameter in model.parameters()] == frozen
    assert model.training
    assert all(part.training for part in model.modules())
    assert not any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.versions
def test_pairs_are_read_as_pairs(original, calibrated):
    texts = list(zip(sentences(200), sentences(200, seed=1), strict=True))
    found = [
        calibrated(drifted(original), it, max_length=48)
        for it in (texts, [" ".join(pair) for pair in texts], [*texts[:100], *sentences(100, seed=2)])
    ]
    assert len({it.sha256 for it in found}) == len({it.cosine_before for it in found}) == 3


def test_the_result_is_printed_in_one_line_and_holds_no_text(original, calibrated):
    texts = sentences(100)
    found = calibrated(drifted(original), texts)
    assert f"{found.cosine_after:.4f}" in str(found)
    assert found.held_out < 50
    assert found.neighbours_kept_after is found.centred_cosine_after is None, "of so few, chance keeps many"
    assert "neighbours" not in str(found)
    assert "\n" not in str(found)
    assert not any(text in repr(found) for text in texts)


def test_an_encoder_that_gives_nan_leaves_the_pooler_alone(original, calibrated):
    adapted = drifted(original)
    with torch.no_grad():
        adapted.embeddings.LayerNorm.weight[0] = float("nan")
    before = pooler_of(adapted)
    with pytest.raises(ValueError, match="states are not finite"):
        calibrated(adapted, sentences(120))
    assert not differing(pooler_of(adapted), before)


# Parts of the call, and what the error names.
ERRORS = {
    "few texts": ({"texts": sentences(99)}, "99 .*at least 100"),
    "long texts": ({"max_length": 65}, "max_length is 65; the adapted model .*64"),
    "no pooler": ({"adapted": lambda it: BertModel(it.config, add_pooling_layer=False)}, "the adapted model has no"),
    "no pooler in the donor": ({"donor": lambda it: BertModel(it.config, add_pooling_layer=False)}, "the donor model"),
    "other sizes": ({"adapted": lambda it: BertModel(make_donor(hidden_size=16).config)}, "hidden sizes: 16 and 32"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_models_or_texts_that_do_not_fit_are_an_error(case, original, tokenizer):
    changed, match = ERRORS[case]
    call = {"adapted": drifted, "donor": copy.deepcopy, "texts": sentences(120), "max_length": 32} | changed
    adapted, donor = (call.pop(name)(original) for name in ("adapted", "donor"))
    with pytest.raises(ValueError, match=match):
        calibrate_pooler(adapted, donor, tokenizer, **call)
