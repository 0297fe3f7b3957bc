"""The programs of the studies: what their records rest on."""

import sys

import clients
import indexes
import pytest
import run
import torch
import training
from bert_pooled_mlm import convert
from checkpoints import differing, make_donor
from transformers import AutoTokenizer, BertForMaskedLM


def test_the_training_loop_learns_stops_at_its_steps_and_is_repeated_bit_for_bit(donor):
    tokenizer = AutoTokenizer.from_pretrained(donor)
    blocks = torch.tensor([[2, *range(5 + row, 15 + row), 3] for row in range(6)])

    def train():
        torch.manual_seed(0)
        model, told = BertForMaskedLM(make_donor().config), []
        batches = training.masked(blocks, tokenizer, 4, seed=1)
        losses = training.train(
            "t", model, batches, training.mlm_loss, 1e-2, 0, [30, 60], lambda step, losses: told.append(len(losses))
        )
        return model.state_dict(), told, losses

    weights, told, losses = train()
    assert told == [30, 60]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert not differing(train()[0], weights)


@pytest.mark.parametrize("name", ["pooler_output", "raw [CLS]", "mean of the tokens"])
@pytest.mark.parametrize("normalized", [False, True])
def test_a_vector_is_called_what_it_is(name, normalized, donor):
    known = run.references(donor)
    vectors = known[name]
    if normalized:
        vectors = torch.nn.functional.normalize(vectors)
    assert run.judged(vectors.tolist(), known) == {"gives": name, "normalized": normalized, "difference": 0}
    near = run.judged((vectors + 1e-3).tolist(), known)
    assert near["gives"] == f"near {name}"
    assert 0.9 < near["cosine"] < 1
    assert run.judged(vectors[:, :-1].tolist(), known)["gives"].startswith("neither")
    assert run.judged((-vectors).tolist(), known)["gives"].startswith("**other vectors**")


def test_a_client_is_asked_in_a_process_of_its_own(donor, lost, tmp_path, monkeypatch):
    """The client that the tests have installed; what does not open is recorded with its error."""
    program, opened = clients.ST, clients.OPENED
    asked = clients.Client(("sentence-transformers",), program, (("bert", opened), ("missing", opened)))
    monkeypatch.setitem(clients.CLIENTS, "it", asked)
    monkeypatch.setattr(run, "installed", lambda *_: ([sys.executable, run.HERE / "programs" / program], {}))
    convert(lost, tmp_path / "bert", pooler_from=donor, format="bert", verify=False)
    first, second = run.asked("it", tmp_path, keep=True)["runs"]
    assert first["gives"] == "pooler_output"
    assert first["difference"] < run.TOLERANCE
    assert "FOLDER" in second["error"]
    assert str(tmp_path) not in second["error"]


def test_an_index_measures_itself_as_perfect_and_a_rotated_one_as_lost():
    torch.manual_seed(0)
    passages = torch.randn(200, 16, dtype=torch.double)
    before = {"passages": passages, "queries": passages + 0.5 * torch.randn_like(passages)}
    turn = torch.linalg.qr(torch.randn(16, 16, dtype=torch.double)).Q
    same, turned = (
        indexes.compared(before["queries"] @ by, passages @ by, before) for by in (torch.eye(16).double(), turn)
    )
    for name, found in same.items():
        assert found["kept"] == found["accepted_kept"] == 1, name
        assert abs(found["false_positives"] - 0.01) < 1e-4
        assert {"own": found["own"], "mrr": found["mrr"]} == found["donor"]
    for name, found in turned.items():
        assert found["kept"] < 0.15, f"{name}: chance is 0.05"
        assert found["reembedded"]["kept"] == 1, "a rotation of both sides changes no search"
