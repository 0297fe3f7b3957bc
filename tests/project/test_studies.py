"""What the studies have in common, and docs/lineage.md against its records."""

import json
import sys

import pytest
import torch
from checkpoints import ROOT, make_donor
from transformers import AutoTokenizer, BertForMaskedLM

PATH = sys.path.copy()
sys.path.append(str(ROOT / "studies"))
try:
    import lineage
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
