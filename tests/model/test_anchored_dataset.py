"""What anchored training is fed with: anchors mixed into MLM rows, and batches of both."""

import copy
import itertools
import json
import logging
import pickle

import datasets
import pytest
import torch
from bert_pooled_mlm import AnchoredDataset, AnchoringCollator, BertPooledMLMForMaskedLM
from checkpoints import NO_DROPOUT, make_pooled
from family import VARIANCE, vectors
from torch.utils.data import DataLoader, IterableDataset
from transformers import DataCollatorForLanguageModeling

pytestmark = pytest.mark.versions


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
