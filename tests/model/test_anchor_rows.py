"""What anchored training is fed with: the donor's vectors of some texts, mixed into MLM rows, and batches of both."""

import copy
import itertools
import json
import logging
import pickle
import shutil

import datasets
import numpy as np
import pytest
import torch
import transformers
from bert_pooled_mlm import AnchoredDataset, AnchoringCollator, BertPooledMLMForMaskedLM, anchor_rows
from checkpoints import NO_DROPOUT, SHAPE, make_donor, make_pooled, randomize
from torch.nn.functional import cosine_similarity
from torch.utils.data import DataLoader, IterableDataset
from transformers import AutoTokenizer, BertForMaskedLM, BertModel, DataCollatorForLanguageModeling

pytestmark = pytest.mark.versions
VARIANCE = "pooler_target_variance"
TEXTS = ["word1 word2 word3", ("word4 word5", "word6"), "word7", ("word8", "word9 word10 word11 word12"), "word13"]


@pytest.fixture(scope="module")
def tokenizer(donor):
    return AutoTokenizer.from_pretrained(donor)


@pytest.fixture(scope="module")
def anchors(donor, tokenizer) -> list[dict]:
    return anchor_rows(donor, tokenizer, TEXTS, batch_size=2)


def vectors(rows) -> torch.Tensor:
    return torch.from_numpy(np.stack([row["pooler_targets"] for row in rows]))


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
    for scale, texts in ((0.3, TEXTS), (0.3, TEXTS[:1]), (0.0, TEXTS)):  # at initialisation, vectors hardly differ
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
    grown = AutoTokenizer.from_pretrained(donor)
    grown.add_tokens(["newword"])
    with pytest.raises(ValueError, match=r"the donor has 128 tokens, its tokenizer more: .*donor_tokenizer"):
        anchor_rows(donor, tokenizer, ["newword"], donor_tokenizer=grown)


# Another vocabulary than the donor's.

SENTENCES = [
    "Zanzibar lies in the ocean.",
    ("What is lost?", "The pooler is."),
    "Vectors of a text need no vocabulary.",
]


def other_vocabulary(tokenizer_folder, out, change: str):
    """A tokenizer whose vocabulary is the folder's with words in place of [unusedN], or its first half."""
    shutil.copytree(tokenizer_folder, out, ignore=shutil.ignore_patterns("*.safetensors", "config.json", "vocab.txt"))
    data = json.loads((out / "tokenizer.json").read_text("utf-8"))
    vocabulary = data["model"]["vocab"]
    if change == "replaced":
        words = {"[unused1]": "zanz", "[unused2]": "##ibar", "[unused3]": "vectors"}
        vocabulary = {
            words.get(token, token): number for token, number in vocabulary.items() if token not in words.values()
        }
    else:
        specials = {token["content"] for token in data["added_tokens"]}
        kept = [token for token in vocabulary if token in specials or len(token) < 6]
        vocabulary = {token: number for number, token in enumerate(kept)}
        for token in data["added_tokens"]:
            token["id"] = vocabulary[token["content"]]
        for name, special in data["post_processor"].get("special_tokens", {}).items():
            special["ids"] = [vocabulary[name]]
    data["model"]["vocab"] = vocabulary
    (out / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    return AutoTokenizer.from_pretrained(out)


@pytest.mark.parametrize("change", ["replaced", "trimmed"])
@pytest.mark.parametrize("given", ["folder", "model", "model and donor_tokenizer"])
def test_a_donor_reads_with_its_own_tokenizer_whatever_the_models_vocabulary(change, given, minilm, tmp_path):
    own, other = AutoTokenizer.from_pretrained(minilm), other_vocabulary(minilm, tmp_path / "tokenizer", change)
    stock = BertModel.from_pretrained(minilm).eval()
    donor, options = (minilm if given == "folder" else stock), {}
    if "donor_tokenizer" in given:
        stock.config._name_or_path, options = "", {"donor_tokenizer": own}
    rows = anchor_rows(donor, other, SENTENCES, **options)
    assert rows[0]["input_ids"] != own(SENTENCES[0]).input_ids, "premise: another vocabulary"
    for row, text in zip(rows, SENTENCES, strict=True):
        parts = [text] if isinstance(text, str) else text
        assert row["input_ids"] == other(*parts).input_ids
        with torch.no_grad():
            expected = stock(**own(*parts, return_tensors="pt")).pooler_output[0]
        assert cosine_similarity(torch.from_numpy(row["pooler_targets"]), expected, dim=0) > 0.9999


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


# The dataset.


def numbered(count: int) -> list[dict]:
    return [{"input_ids": [number]} for number in range(count)]


TARGETS = [{"pooler_targets": number} for number in range(3)]


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 2 / 3])
@pytest.mark.parametrize("count", [1, 7, 80])
def test_all_mlm_rows_are_there_once_and_that_share_are_anchors(share, count):
    rows = numbered(count)
    dataset = AnchoredDataset(rows, TARGETS, share)
    found = [dataset[index] for index in range(len(dataset))]
    assert [row for row in found if "pooler_targets" not in row] == rows, "in their order"
    mixed = [row["pooler_targets"] for row in found if "pooler_targets" in row]
    assert abs(len(mixed) - share * len(dataset)) <= 1
    assert mixed == [number % 3 for number in range(len(mixed))], "in turn"
    assert dataset[-1] == found[-1]
    for beyond in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError):
            dataset[beyond]
    stream = [*AnchoredDataset(iter(rows), TARGETS, share)]
    assert stream[: len(found) - 1] == found[: len(stream)][: len(found) - 1], "a stream gives the same"
    assert [row for row in stream if "pooler_targets" not in row] == rows


def test_a_share_is_between_0_and_1_and_there_are_anchors():
    for share in (0, 1, -0.1, 20):
        with pytest.raises(ValueError, match=f"share={share}: expected a number between 0 and 1"):
            AnchoredDataset([{}], [{}], share)
    for without in ([], [{"input_ids": [1]}], [{"pooler_targets": None}]):
        with pytest.raises(ValueError, match=r"got no anchors, .* make them with anchor_rows\(\)"):
            AnchoredDataset([{}], without)


class OwnStream(IterableDataset):
    """One that splits itself over workers, as torch's documentation has it, and cannot be resumed by itself."""

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        yield from numbered(40)[worker.id :: worker.num_workers] if worker else numbered(40)


def stream_of(kind: str):
    return OwnStream() if kind == "torch" else datasets.Dataset.from_list(numbered(40)).to_iterable_dataset(4)


each_stream = pytest.mark.parametrize("kind", ["torch", "datasets"])


@each_stream
def test_a_stream_is_mixed_in_the_same_way_at_each_run_and_is_an_iterable_dataset(kind):
    dataset = AnchoredDataset(stream_of(kind), TARGETS)
    assert isinstance(dataset, IterableDataset)
    assert isinstance(dataset, AnchoredDataset)
    expected = AnchoredDataset(numbered(40), TARGETS)
    assert [*dataset] == [*dataset] == [expected[index] for index in range(len(expected))]
    assert [*pickle.loads(pickle.dumps(dataset))] == [*dataset]
    with pytest.raises(TypeError):
        len(dataset)


@each_stream
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_split_a_stream_and_read_no_row_twice(kind, workers):
    dataset = AnchoredDataset(stream_of(kind), TARGETS)
    rows = [row for batch in DataLoader(dataset, 5, num_workers=workers, collate_fn=list) for row in batch]
    read = [row["input_ids"][0] for row in rows if "input_ids" in row]
    assert sorted(read) == [*range(40)]
    taken = [row["pooler_targets"] for row in rows if "pooler_targets" in row]
    assert len(taken) == 10
    assert {*taken} == {0, 1, 2}


@each_stream
def test_a_stream_goes_on_exactly_where_its_state_was_taken(kind):
    whole = [*AnchoredDataset(stream_of(kind), TARGETS, 0.4)]
    for stop in (0, 1, 2, 3, 17, 18, 40):
        first, second = (AnchoredDataset(stream_of(kind), TARGETS, 0.4) for _ in range(2))
        iterator = iter(first)
        head = [next(iterator) for _ in range(stop)]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert [*head, *second] == whole, stop
        second.set_epoch(1)  # as Trainer does; datasets goes on from the state again in the same epoch
        assert [*second] == whole, "the next epoch is a whole one"


def test_an_epoch_is_passed_on_to_a_stream_that_shuffles():
    stream = stream_of("datasets").shuffle(seed=3, buffer_size=10)
    dataset = AnchoredDataset(stream, TARGETS)
    dataset.set_epoch(1)
    second = [*dataset]
    dataset.set_epoch(0)
    assert [*dataset] != second
    AnchoredDataset(OwnStream(), TARGETS).set_epoch(1)


# The collator.


def rows_of(tokenizer, *texts: str) -> list[dict]:
    return [dict(tokenizer(text)) for text in texts]


def test_mlm_rows_go_through_the_given_collator_and_anchors_stay_unmasked_beside_them(tokenizer, anchors):
    inner = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.5)
    rows = rows_of(tokenizer, "word1 word2 word3 word4 word5 word6 word7 word8", "word9")
    torch.manual_seed(0)
    expected = inner([dict(row) for row in rows])
    torch.manual_seed(0)
    made = AnchoringCollator(inner)([anchors[1], rows[0], anchors[3], rows[1]])
    length = expected["input_ids"].shape[1]
    assert made.pop(VARIANCE).tolist() == pytest.approx([1, 1] + [anchors[1][VARIANCE]] * 2)
    assert made.keys() == {"input_ids", "token_type_ids", "attention_mask", "labels", "pooler_targets"}
    for name in expected:
        assert torch.equal(made[name][:2], expected[name])
        assert made[name].shape == (4, length)
    for line, anchor in ((2, anchors[1]), (3, anchors[3])):
        size = len(anchor["input_ids"])
        for name in ("input_ids", "token_type_ids", "attention_mask"):
            assert made[name][line].tolist() == [*anchor[name], *[0] * (length - size)]
        assert torch.equal(made["pooler_targets"][line], torch.from_numpy(anchor["pooler_targets"]))
    assert (made["labels"][2:] == -100).all()
    assert (made["labels"][:2] != -100).any()
    assert (made["pooler_targets"][:2] == -100).all()
    assert made["pooler_targets"].dtype == torch.float32


def test_a_batch_without_anchors_is_the_given_collators(tokenizer):
    made = {"anything": 1}
    assert AnchoringCollator(lambda rows: made)(rows_of(tokenizer, "word1")) is made


def test_a_batch_of_anchors_alone_has_labels_that_are_not_read(tokenizer, anchors):
    made = AnchoringCollator(DataCollatorForLanguageModeling(tokenizer))(anchors)
    assert made["input_ids"].shape == (5, 8)
    assert (made["labels"] == -100).all()
    assert (made["pooler_targets"] != -100).any(1).all()
    output = make_pooled(BertPooledMLMForMaskedLM, **NO_DROPOUT)(**made)
    assert output.loss.item() == pytest.approx(0.3 * output.pooler_loss.item(), rel=1e-6)


@pytest.mark.parametrize("old", [1, 5], ids=["some", "all"])
def test_rows_of_earlier_versions_are_trained_as_they_were(old, tokenizer, anchors):
    rows = [{name: row[name] for name in row if name != VARIANCE} for row in anchors[:old]] + anchors[old:]
    made = AnchoringCollator(DataCollatorForLanguageModeling(tokenizer))(rows)
    output, wanted = make_pooled(BertPooledMLMForMaskedLM, **NO_DROPOUT)(**made), vectors(anchors)
    expected = (output.pooler_output - wanted).square().sum(1) / wanted.square().sum(1)
    torch.testing.assert_close(output.pooler_loss, expected.mean())


def test_a_collator_of_blocks_may_leave_out_mask_and_segments_but_add_nothing_else(anchors):
    def blocks(rows, **more):
        ids = torch.tensor([row["input_ids"] for row in rows])
        return {"input_ids": ids, "labels": ids.clone(), **more}

    rows = [{"input_ids": [2, 9, 9, 3]}, anchors[0], anchors[3]]
    made = AnchoringCollator(blocks)(rows)
    assert made["attention_mask"].tolist()[0] == [1, 1, 1, 1, 0, 0, 0, 0], "padded to the longer anchors"
    assert made["token_type_ids"][0].tolist() == [0] * 8
    assert made["labels"][0].tolist() == [2, 9, 9, 3, -100, -100, -100, -100]
    with pytest.raises(ValueError, match="the MLM rows have position_ids"):
        AnchoringCollator(lambda rows: blocks(rows, position_ids=torch.arange(4)[None]))(rows)


def test_the_collator_offers_what_the_given_one_does(tokenizer, anchors):
    inner = DataCollatorForLanguageModeling(tokenizer, pad_to_multiple_of=6)
    collator = AnchoringCollator(inner)
    assert collator.tokenizer is tokenizer
    assert collator.pad_to_multiple_of == 6
    assert not hasattr(collator, "processing_class")
    assert collator([*rows_of(tokenizer, "word1"), anchors[3]])["input_ids"].shape == (2, 12)
    for again in (copy.deepcopy(collator), pickle.loads(pickle.dumps(collator))):
        assert again.collator.pad_to_multiple_of == 6
    assert not hasattr(AnchoringCollator(lambda rows: rows), "tokenizer")


@pytest.mark.parametrize("lost", [True, False])
def test_targets_that_were_lost_on_the_way_are_told_after_100_batches(lost, tokenizer, anchors, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    rows, inner = rows_of(tokenizer, "word1"), DataCollatorForLanguageModeling(tokenizer)
    dataset = datasets.Dataset.from_list([*rows, *anchors] if lost else rows + anchors)
    loader = DataLoader(torch.utils.data.ConcatDataset([dataset] * 20), collate_fn=AnchoringCollator(inner))
    for _ in itertools.chain(loader, loader, (loader.collate_fn(rows) for _ in range(200))):
        pass
    assert [record.message[:43] for record in caplog.records] == ["AnchoringCollator: no anchor in 100 batches"] * lost


@pytest.mark.parametrize("how", ["from_list", "concatenate", "interleave"])
def test_rows_of_both_kinds_may_be_put_together_with_datasets(how, tokenizer, anchors):
    """The columns of all rows are there, None where a row has none; `Dataset.from_list` takes those of the first."""
    rows = [{"input_ids": row["input_ids"]} for row in rows_of(tokenizer, "word1", "word2", "word3", "word4", "word5")]
    if how == "from_list":
        dataset = datasets.Dataset.from_list(rows + anchors)
    else:
        both = [datasets.Dataset.from_list([*part]) for part in (rows, anchors)]
        dataset = getattr(datasets, f"{how}_datasets")(both)
    collator = AnchoringCollator(DataCollatorForLanguageModeling(tokenizer))
    made = collator([dataset[index] for index in range(len(dataset))])
    read = (made["pooler_targets"] != -100).any(1)
    assert read.tolist() == [False] * 5 + [True] * 5
    torch.testing.assert_close(made["pooler_targets"][read], vectors(anchors))
    assert made[VARIANCE][read].tolist() == pytest.approx([anchors[0][VARIANCE]] * 5)
    plain = collator([row for row in dataset if row["pooler_targets"] is None])
    assert plain.keys() == {"input_ids", "attention_mask", "labels"}
