"""What the studies have in common, and docs/lineage.md and docs/clients.md against their records."""

import copy
import dataclasses
import json
import shutil
import sys

import bert_pooled_mlm
import pytest
import torch
from checkpoints import ROOT, differing, make_donor
from transformers import AutoTokenizer, BertForMaskedLM, BertModel

PATH = sys.path.copy()
sys.path += [str(ROOT / name) for name in ("studies", "studies/clients", "benchmarks")]
try:
    import clients
    import documents
    import fidelity
    import heads
    import lineage
    import run
    import training
finally:
    sys.path[:] = PATH

RECORDS = json.loads((ROOT / "studies/results/lineage.json").read_text(encoding="utf-8"))
SHOWN = {"attn_out": "attn out", "ffn_out": "ffn out", "query": "query", "first_query": "query 0", "layer_norm": "LN"}


def test_the_lineage_page_says_what_the_records_say():
    page = (ROOT / "docs/lineage.md").read_text(encoding="utf-8")
    selected, cosines = lineage.selected(RECORDS["selection"]), lineage.cosines(RECORDS["pairs"])
    found = {tuple(cells[:2]): cells[2:] for cells in map(cells_of, selected.split("\n"))}
    for name, title in SHOWN.items():
        *counts, median = found["sibling, from A", name]
        quoted = " | ".join([title, *counts, f"{float(median):.2f}"])
        assert f"| children of A; rivals: all other runs from A | {quoted} |" in page
    pairs = {cells[1]: cells[2:] for cells in map(cells_of, cosines.split("\n"))}
    for pair, row in (("A mlm-5e-04@1000", "| MLM | 1,000, 5e-4 |"), ("A mlm-2e-03@150", "| stress | 150, 2e-3 |")):
        (line,) = (line for line in page.splitlines() if line.startswith(row))
        assert cells_of(line)[2:-1] == [f"{float(cell):.4f}" for cell in pairs[pair][:-1]]


def cells_of(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("first", [False, True])
def test_masking_leaves_special_tokens_alone_and_draws_the_same_again(first, pooled):
    tokenizer = AutoTokenizer.from_pretrained(pooled)
    blocks = torch.randint(5, len(tokenizer), (300, 12), generator=torch.Generator().manual_seed(1))
    blocks[:, 0], blocks[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id

    def draw():
        return next(training.masked(blocks, tokenizer, 300, torch.Generator().manual_seed(0), first))

    (inputs, labels), (again, _) = draw(), draw()
    ids, chosen = inputs["input_ids"], labels != -100
    assert torch.equal(ids, again["input_ids"])
    assert not chosen[:, [0, -1]].any()
    assert chosen[0, 1] or not first
    # 3,000 tokens, 450 of them chosen: standard deviations of 0.007 and 0.02
    assert abs(chosen[:, 1:-1].float().mean() - training.MASKED) < 0.03
    assert abs((ids[chosen] == tokenizer.mask_token_id).float().mean() - 0.8) < 0.08
    assert torch.equal(torch.sort(torch.where(chosen, labels, ids), 0)[0], torch.sort(blocks, 0)[0]), "else as it was"


def test_the_training_loop_stops_where_it_is_told_to_and_learns(pooled):
    model = BertForMaskedLM(make_donor().config)
    tokenizer, told = AutoTokenizer.from_pretrained(pooled), []
    blocks = torch.tensor([[2, *range(5, 15), 3]] * 8)
    batches = training.masked(blocks, tokenizer, 8, torch.Generator().manual_seed(0), first=True)
    training.train(
        "t", model, batches, training.mlm_loss, 1e-2, 0, [0, 2, 30], lambda *now: told.append((now[0], list(now[1])))
    )
    assert [(step, len(losses)) for step, losses in told] == [(0, 0), (2, 2), (30, 30)]
    losses = told[-1][1]
    assert training.mean_of_last(losses, 5) < 0.5 * losses[0]
    assert training.mean_of_last([], 5) == 0


# Clients.


CLIENTS = json.loads((ROOT / "studies/results/clients.json").read_text(encoding="utf-8"))


def test_the_clients_page_has_the_table_of_the_record():
    page = (ROOT / "docs/clients.md").read_text(encoding="utf-8")
    assert documents.filled(page, "studies/clients/run.py", {"table": run.table(CLIENTS)}) == page
    assert "| pooler_output |" in page, "premise"


def test_the_record_is_of_the_clients_that_the_study_asks():
    assert [*CLIENTS["clients"]] == [*clients.CLIENTS]
    assert CLIENTS["texts"] == run.TEXTS
    for name, client in clients.CLIENTS.items():
        found = CLIENTS["clients"][name]
        assert found["packages"] == [*client.packages]
        assert (ROOT / "studies/clients/programs" / client.program).is_file()
        if "not_run" not in found:
            assert [(it["format"], it["call"]) for it in found["runs"]] == [*client.runs]


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
    assert run.judged(vectors[:, :-1].tolist(), known)["gives"] == "neither: vectors of the shape (8, 31)"


def test_a_client_is_asked_in_a_process_of_its_own(donor, lost, converted, tmp_path, monkeypatch):
    """The client that the tests have installed; what does not open is recorded with its error."""
    program, opened = clients.ST, clients.OPENED
    asked = clients.Client(("sentence-transformers",), program, (("bert", opened), ("missing", opened)))
    monkeypatch.setitem(clients.CLIENTS, "it", asked)
    monkeypatch.setattr(run, "installed", lambda *_: ([sys.executable, run.HERE / "programs" / program], {}))
    shutil.copytree(converted / "bert", tmp_path / "bert")
    first, second = run.asked("it", tmp_path, keep=True)["runs"]
    assert first["gives"] == "pooler_output"
    assert first["difference"] < run.TOLERANCE
    assert "FOLDER" in second["error"]
    assert str(tmp_path) not in second["error"]


# transformers' common tests.


def test_every_class_passes_what_transformers_asks_of_stock_bert():
    records = json.loads((ROOT / "studies/results/common_tests.json").read_text(encoding="utf-8"))
    assert records.keys() == {"5.23.0", "4.57.6"}
    family = {name for name in bert_pooled_mlm.__all__ if "For" in name or name.endswith("MLMModel")}
    for record in records.values():
        assert record["classes"].keys() == family
        for result in record["classes"].values():
            assert result["failed"] == {}
            assert result["counts"]["passed"] > 60
            # One of theirs looks for `output_attentions` in the signature of `forward`, ours takes it by **kwargs.
            differing = {name for name, both in result["other than stock"].items() if both["stock"][0] == "passed"}
            assert differing <= {"test_eager_matches_sdpa_inference_24_fp32_pad_left_output_attentions"}


def test_an_interrupted_training_goes_on_bit_for_bit(pooled, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(pooled)
    blocks = torch.tensor([[2, *range(5 + row, 15 + row), 3] for row in range(6)])

    def weights(keep, stops=None):
        torch.manual_seed(0)
        model = BertForMaskedLM(make_donor().config)

        def reached(step, losses):
            if step == stops:
                raise KeyboardInterrupt

        dice = torch.Generator().manual_seed(0)
        batches = training.masked(blocks, tokenizer, 4, dice, first=True)
        training.train("t", model, batches, training.mlm_loss, 1e-3, 0, [150, 220], reached, keep=keep)
        return model.state_dict()

    whole = weights(tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        weights(tmp_path / "cut.pt", stops=150)
    assert not differing(weights(tmp_path / "cut.pt"), whole)


def test_the_studies_fit_on_kept_states_is_that_of_the_package(donor):
    """States that were kept stand in for the two encoders, and their numbers for a tokenizer."""
    texts = [f"word{n % 23} word{n % 7} word{n % 11}" for n in range(300)]
    tokenizer, theirs = AutoTokenizer.from_pretrained(donor), BertModel.from_pretrained(donor)
    ours, states = copy.deepcopy(theirs), []
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in ours.encoder.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    for model in (ours.eval(), theirs.eval()):
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        states.append(model(**batch).last_hidden_state[:, 0].detach())
    dense = theirs.pooler.dense
    (weight, bias), report = heads.calibrate(*states, (dense.weight.detach(), dense.bias.detach()))
    found = bert_pooled_mlm.calibrate_pooler(ours, theirs, tokenizer, texts, max_length=32)
    assert found.improved
    assert report["penalty"] == found.penalty
    torch.testing.assert_close(weight, ours.pooler.dense.weight.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(bias, ours.pooler.dense.bias.detach(), rtol=1e-3, atol=1e-4)


def test_each_run_of_the_fidelity_study_has_a_name_and_a_plain_one_to_be_compared_with():
    assert len({(run.name, run.steps) for run in fidelity.RUNS}) == len(fidelity.RUNS)
    runs = {dataclasses.replace(run, steps=fidelity.STEPS) for run in fidelity.RUNS}
    for reference, named in fidelity.TABLES.values():
        for run in named.values():
            seeds = {it.seed for it in runs if dataclasses.replace(it, seed=run.seed) == run}
            assert seeds, run.name
            assert {dataclasses.replace(reference, seed=seed) for seed in seeds} <= runs


def test_a_table_of_the_fidelity_study_gives_means_over_the_seeds_and_perplexity_against_plain():
    def point(held_out, accuracy):
        one = {"accuracy": accuracy, "recovery": 0.98, "flips": 0.05}
        heads = dict.fromkeys(("nsp", "topic"), one)
        return {"held_out": held_out, "grafted": heads, "calibrated": heads, "new_probe": {"accuracy": 0.7}}

    plain, anchored = fidelity.PLAIN, fidelity.ANCHORED
    points = {plain: {1: (4.0, 0.6), 2: (5.0, 0.7)}, anchored: {1: (4.1, 0.8), 2: (5.1, 0.8)}}
    runs = {
        dataclasses.replace(run, seed=seed).name: {"points": {"300": point(*values)}}
        for run, seeds in points.items()
        for seed, values in seeds.items()
    }
    times = {"seconds": {"0": [1.0, 1.0], "2": [1.1, 1.1], "4": [1.2, 1.3]}}
    tables = fidelity.tables({"runs": runs, "averaged": {"300": point(4.2, 0.75)}, "time": times})
    assert tables["main"].splitlines()[2:] == [
        "| plain | 300 | 2 | 0.650 → 0.650 | 98% | 5.0% | 0.650 → 0.650 | 98% | 5.0% | 1.000 | 0.700 |",
        "| 4 texts, weight 0.1 | 300 | 2 | 0.800 → 0.800 | 98% | 5.0% | 0.800 → 0.800 | 98% | 5.0% | 1.105 | 0.700 |",
        "| averaged weights | 300 | 1 | 0.750 → 0.750 | 98% | 5.0% | 0.750 → 0.750 | 98% | 5.0% | 1.221 | 0.700 |",
    ]
    assert tables["time"].splitlines()[3] == "| 4 | 1.25 | 1.22 | 1.28 |"
