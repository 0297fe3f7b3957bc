"""What anchored training is fed with: the donor's vectors of some texts."""

import copy
import shutil

import numpy as np
import pytest
import torch
import transformers
from bert_pooled_mlm import BertPooledMLMForMaskedLM, anchor_rows
from checkpoints import SHAPE, WORDS, make_donor, randomize
from family import TEXTS, VARIANCE, vectors
from transformers import AutoTokenizer, BertForMaskedLM, BertModel, BertTokenizerFast

pytestmark = pytest.mark.versions


# The donor's vectors.


def test_an_anchor_row_is_the_text_and_the_donors_pooler_output_for_it(anchors, donor, tokenizer):
    stock = BertModel.from_pretrained(donor).eval()
    assert len(anchors) == len(TEXTS)
    for row, text in zip(anchors, TEXTS, strict=True):
        encoded = tokenizer(*([text] if isinstance(text, str) else text), return_tensors="pt")
        assert {name: encoded[name][0].tolist() for name in encoded} == {n: row[n] for n in encoded}
        assert (row["pooler_targets"].dtype, row["pooler_targets"].shape) == (np.float32, (SHAPE["hidden_size"],))
        with torch.no_grad():
            expected = stock(**encoded).pooler_output[0]
        # Padded beside a longer text, and alone.
        torch.testing.assert_close(torch.from_numpy(row["pooler_targets"]), expected, rtol=1e-5, atol=1e-6)
    assert sum(anchors[1]["token_type_ids"]) == 2, "a pair has two segments"


def test_the_unit_of_distances_is_the_total_variance_and_at_least_a_hundredth_of_the_squared_length(tokenizer):
    model = BertModel(make_donor().config)
    for scale, texts in (
        (0.3, TEXTS),
        (0.3, TEXTS[:1]),
        (0.0, TEXTS),
    ):  # at initialisation, vectors hardly differ
        randomize(model, seed=3, scale=scale) if scale else model.apply(model._init_weights)
        rows = anchor_rows(model, tokenizer, texts)
        targets = vectors(rows).double()
        variance = (targets - targets.mean(0)).square().sum(1).mean().item()
        least = 0.01 * targets.square().sum(1).mean().item()
        assert (variance > least) == (scale > 0 and texts is TEXTS), "premise"
        assert [row[VARIANCE] for row in rows] == pytest.approx([max(variance, least)] * len(texts))


@pytest.mark.parametrize("kind", ["pooled folder", "BertModel", "BertForPreTraining", "our own"])
def test_the_donor_may_be_any_bert_with_a_pooler_and_is_left_as_it_was(kind, anchors, donor, pooled, tokenizer):
    given = pooled
    if kind != "pooled folder":
        cls = BertPooledMLMForMaskedLM if kind == "our own" else getattr(transformers, kind)
        given = cls.from_pretrained(donor).train()
    rows = anchor_rows(given, tokenizer, TEXTS, batch_size=3)
    torch.testing.assert_close(vectors(rows), vectors(anchors), rtol=1e-5, atol=1e-6)
    assert given is pooled or all(module.training for module in given.modules())


@pytest.mark.parametrize("given", ["folder", "model"])
def test_a_donor_in_half_precision_computes_in_float32(given, donor, tokenizer, tmp_path):
    half = BertModel.from_pretrained(donor).half()
    shutil.copytree(donor, tmp_path / "half")
    half.save_pretrained(tmp_path / "half")
    rows = anchor_rows(tmp_path / "half" if given == "folder" else half, tokenizer, TEXTS, donor_tokenizer=tokenizer)
    whole = anchor_rows(copy.deepcopy(half).float(), tokenizer, TEXTS, donor_tokenizer=tokenizer)
    torch.testing.assert_close(vectors(rows), vectors(whole), rtol=1e-6, atol=1e-6)
    assert half.dtype == torch.float16, "the given model stays as it was"


def test_texts_are_cut_at_max_length_or_where_the_donor_ends(donor, tokenizer):
    for length, options in ((10, {"max_length": 10}), (SHAPE["max_position_embeddings"], {})):
        (row,) = anchor_rows(donor, tokenizer, [" ".join(["word5"] * 100)], **options)
        assert len(row["input_ids"]) == length


def test_what_can_not_anchor_is_an_error(donor, lost, tokenizer):
    with pytest.raises(ValueError, match="got no texts"):
        anchor_rows(donor, tokenizer, [])
    with pytest.raises(ValueError, match="a BertForMaskedLM, has no pooler"):
        anchor_rows(BertForMaskedLM.from_pretrained(donor), tokenizer, TEXTS)
    with pytest.raises(ValueError, match="has no usable pooler"):
        anchor_rows(lost, tokenizer, TEXTS)
    split = BertModel.from_pretrained(donor)
    split.pooler.dense.weight.ds_id = 0  # DeepSpeed's mark
    with pytest.raises(ValueError, match="does not run under DeepSpeed ZeRO-3"):
        anchor_rows(split, tokenizer, TEXTS)
    grown = AutoTokenizer.from_pretrained(donor)
    grown.add_tokens(["newword"])
    with pytest.raises(ValueError, match=r"the donor has 128 tokens, its tokenizer more: .*donor_tokenizer"):
        anchor_rows(donor, tokenizer, ["newword"], donor_tokenizer=grown)


# Another vocabulary than the donor's.


@pytest.mark.parametrize("given", ["folder", "model", "model and donor_tokenizer"])
@pytest.mark.parametrize("words", [(*WORDS[:5], *WORDS[:4:-1]), WORDS[:20]], ids=["replaced", "trimmed"])
def test_a_donor_reads_with_its_own_tokenizer_whatever_the_models_vocabulary(
    words, given, donor, tokenizer, anchors, tmp_path
):
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    other, stock, options = BertTokenizerFast.from_pretrained(tmp_path), BertModel.from_pretrained(donor), {}
    if given == "model and donor_tokenizer":
        stock.config._name_or_path, options = "", {"donor_tokenizer": tokenizer}
    texts = [*TEXTS, "word1 word99"]
    rows = anchor_rows(donor if given == "folder" else stock, other, texts, **options)
    assert rows[-1]["input_ids"] != tokenizer(texts[-1]).input_ids, "premise: another vocabulary"
    for row, text in zip(rows, texts, strict=True):
        assert row["input_ids"] == other(*([text] if isinstance(text, str) else text)).input_ids
    torch.testing.assert_close(vectors(rows[:-1]), vectors(anchors), rtol=1e-5, atol=1e-6)
    assert not np.array_equal(rows[-1]["pooler_targets"], rows[0]["pooler_targets"])


def test_without_a_tokenizer_of_the_donors_the_given_one_must_be_as_large_as_the_donor(
    donor, anchors, tokenizer, tmp_path
):
    BertModel.from_pretrained(donor).save_pretrained(tmp_path)
    rows = anchor_rows(tmp_path, tokenizer, TEXTS)
    torch.testing.assert_close(vectors(rows), vectors(anchors), rtol=1e-5, atol=1e-6)
    grown = AutoTokenizer.from_pretrained(donor)
    grown.add_tokens(["newword"])
    with pytest.raises(ValueError, match=r"128 tokens, the tokenizer 129, .*pass its own as donor_tokenizer"):
        anchor_rows(tmp_path, grown, TEXTS)
