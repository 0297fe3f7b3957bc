"""continue_pretraining.py, run as a user runs it: as a program, from another folder, without --cpu."""

import json
import random
import re
import shutil
from types import SimpleNamespace

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from bert_pooled_mlm import AnchoredDataset, BertPooledMLMForMaskedLM, anchor_rows, convert
from checkpoints import CODE_FILES, POOLER, differing, stored, todays, took
from example_programs import FAST, error_of, load_example, start
from transformers import AutoTokenizer


@pytest.fixture
def module(monkeypatch):
    return load_example("continue_pretraining", monkeypatch)


@pytest.fixture(scope="module")
def trained(donor, text, tmp_path_factory):
    """From a stock model stored in float16, with the options that change the training."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(donor, folder / "base")
    BertPooledMLMForMaskedLM.from_pretrained(donor).half().save_pretrained(folder / "base")
    options = ("--whole-words", "--bf16", "--gradient-checkpointing", "--accumulate", 2, "--max-steps", 4)
    done = start("continue_pretraining", folder, "--model", "base", "--train", text, "-o", "out", *FAST, *options)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.versions
def test_continued_pre_training_leaves_a_pooled_float32_checkpoint_with_its_tokenizer(trained, donor):
    folder, done = trained
    assert took(folder / "out", folder / "base")
    moved = "bert.encoder.layer.0.output.dense.weight"
    assert stored(folder / "out")[moved].dtype == torch.float32
    assert not torch.equal(stored(folder / "out")[moved], stored(folder / "base")[moved].float()), "it was trained"
    assert {path.name for path in (folder / "out").iterdir()} > {"config.json", *CODE_FILES, "checkpoint-4"}
    assert AutoTokenizer.from_pretrained(folder / "out")("word3").input_ids == [2, 8, 3]
    assert json.loads((folder / "out/config.json").read_text("utf-8"))["sparse_prediction"] is False, "as the donor's"
    lines = done.stdout.strip().splitlines()
    plan = r"\d+ blocks of at most 16 tokens to train on, \d+ held out; 4 steps of 16, 1 process\(es\)\."
    assert re.fullmatch(plan, lines[0])
    assert lines[1] == "Speed: MLM head on the masked tokens, bfloat16 (as requested)."
    before, after = map(float, re.fullmatch(r"Held-out perplexity: ([\d.]+) -> ([\d.]+)", lines[-3]).groups())
    assert 1 < after < before
    assert lines[-2].startswith("Saved: out. Its pooler is bit for bit that of ")
    assert "4/4" in done.stderr, "a progress bar"
    assert "Warning" not in done.stderr


def test_a_second_start_and_a_resumed_run_use_the_cache(trained, text, tmp_path):
    pooled = trained[0] / "out"
    options = ("--model", pooled, "--train", text, "-o", "more", *FAST, "--line-by-line", "--no-bf16")
    first = start("continue_pretraining", tmp_path, *options, "--max-steps", 2)
    assert first.returncode == 0, first.stderr
    assert "tokenizing" in first.stderr
    assert first.stdout.splitlines()[1].endswith("batches of similar length, float32 (as requested).")
    resumed = start("continue_pretraining", tmp_path, *options, "--max-steps", 4, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "tokenizing" not in resumed.stderr
    assert json.loads((tmp_path / "more/checkpoint-4/trainer_state.json").read_text("utf-8"))["global_step"] == 4
    assert took(tmp_path / "more", pooled)


def test_a_loss_that_is_not_finite_stops_the_run_in_one_line(donor, text, tmp_path):
    options = ("--model", donor, "--train", text, "-o", "out", *FAST, "--max-steps", 8, "--lr", "1e30", "--no-bf16")
    done = start("continue_pretraining", tmp_path, *options)
    assert done.returncode == 1
    assert re.search(
        r"^continue_pretraining.py: error: the (eval_)?loss is nan after \d steps; lower --lr", done.stderr, re.M
    )
    assert "Traceback" not in done.stderr
    assert not [*tmp_path.glob("out/checkpoint-*")]


@pytest.mark.versions
@pytest.mark.parametrize("anchored", [False, True], ids=["", "anchored"])
def test_the_order_of_an_epoch_is_random_resumable_and_groups_similar_lengths(anchored, module):
    draw = random.Random(0)
    rows = [{"input_ids": [5] * draw.randrange(3, 40)} for _ in range(800)]
    if anchored:
        anchors = [{"input_ids": [5] * n, "pooler_targets": np.zeros(2, np.float32)} for n in range(3, 60)]
        rows = AnchoredDataset(rows, anchors)
    order = module.ShuffledRows(rows, seed=0, batch_size=16)

    def epoch(number):
        module.SetEpoch(order).on_epoch_begin(None, SimpleNamespace(epoch=number), None)
        return [*order]

    first = epoch(1.0)
    assert sorted(first) == [*range(len(rows))]
    assert epoch(1.4) == first, "the same epoch, resumed"
    assert epoch(2.0) != first
    lengths = torch.tensor([len(rows[index]["input_ids"]) for index in first])
    assert sum(len(it) * it.max() for it in lengths.split(16)) < 1.15 * lengths.sum(), "at random: 1.9"


@pytest.mark.parametrize("sparse", [True, False])
def test_the_head_runs_on_the_masked_tokens_and_the_loss_is_the_same(sparse, donor, tmp_path, module):
    options = ["--length", "16", "--no-bf16", "--cpu"]
    args = module.parse(["--model", str(donor), "--train", "t", "-o", str(tmp_path), *options])
    model = module.load_model(args, donor).eval()
    trainer = module.LossTrainer(model=model, args=module.settings(args, 1), eval_dataset=[{}])
    trainer.all_logits = not sparse
    rows, inputs = [], {"input_ids": torch.arange(5, 25).reshape(2, 10)}
    inputs["labels"] = torch.where(inputs["input_ids"] % 4 == 0, inputs["input_ids"], -100)
    model.cls.register_forward_hook(lambda module, args, scores: rows.append(scores[..., 0].numel()))
    with torch.no_grad():
        assert abs(trainer.compute_loss(model, inputs) - model(**inputs).loss) < 1e-6
    assert rows == [5 if sparse else 20, 20]


@pytest.mark.parametrize(
    ("flags", "options", "expected"),
    [
        ("flags: avx2 avx512_bf16 x", [], "bfloat16 (this CPU supports bfloat16)"),
        ("flags: avx2 amx_bf16", ["--no-bf16"], "float32 (as requested)"),
        ("flags: avx2 avx512f", [], "float32 (this CPU does not support bfloat16)"),
        (None, [], "float32 (this CPU does not support bfloat16)"),
    ],
)
def test_bfloat16_is_used_where_the_cpu_supports_it(flags, options, expected, tmp_path, module, monkeypatch):
    file = tmp_path / "cpuinfo"
    if flags:
        file.write_text(flags)
    monkeypatch.setattr(module, "CPU_FLAGS", file)
    args = module.parse(["--model", "m", "--train", "t", "-o", "o", "--cpu", "--no-sparse-prediction", *options])
    assert module.speed(args) == f"Speed: MLM head on all tokens, {expected}."
    assert args.bf16 is expected.startswith("bfloat16")


@pytest.mark.parametrize(("capability", "able"), [((7, 5), False), ((8, 0), True)])
def test_bfloat16_is_used_where_the_gpu_supports_it(capability, able, module, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    assert module.multiplies_bfloat16(cpu=False) == (able, "Some GPU")
    assert module.multiplies_bfloat16(cpu=True)[1] == "this CPU"


@pytest.mark.versions
def test_continued_pre_training_calibrates_the_pooler_against_the_model_that_it_started_from(donor, tmp_path):
    generator = random.Random(0)
    words = [[f"word{generator.randrange(20)}" for _ in range(generator.randrange(3, 9))] for _ in range(400)]
    (tmp_path / "text.txt").write_text("\n\n".join(map(" ".join, words)), encoding="utf-8")
    options = ("--model", donor, "--train", "text.txt", "-o", "out", *FAST, "--max-steps", 4, "--lr", 1e-2)
    done = start("continue_pretraining", tmp_path, *options, "--calibrate")
    assert done.returncode == 0, done.stderr
    source = json.loads((tmp_path / "out/config.json").read_text("utf-8"))["pooler_source"]
    fit = source["calibration"]
    assert (source["donor"], source["revision"]) == (donor.name, None)
    assert 0.5 < source["lineage_cosine"] < 1
    assert fit["cosine_before"] < fit["cosine_after"]
    assert 300 < fit["texts"] < 400, "the training texts"
    assert f"{fit['cosine_before']:.4f} -> {fit['cosine_after']:.4f}" in done.stdout
    assert "Its pooler is calibrated: no longer that of " in done.stdout
    assert took(tmp_path / "out/checkpoint-4", donor), "premise: the end of the training, before the fit"
    fitted = differing(todays(tmp_path / "out"), todays(tmp_path / "out/checkpoint-4"))
    assert fitted == {*POOLER}, "nothing but the pooler is fitted"

    convert(tmp_path / "out", tmp_path / "stock", format="bert", verify=False)
    assert json.loads((tmp_path / "stock/config.json").read_text("utf-8"))["pooler_source"] == source


@pytest.mark.versions
def test_continued_pre_training_is_anchored_to_the_donor_that_a_pooled_checkpoint_names(
    converted, donor, text, tmp_path
):
    shutil.copytree(converted / "pooled", tmp_path / "first")
    shutil.copytree(donor, tmp_path / "donor")
    (tmp_path / "pairs.jsonl").write_text(
        '{"text": "word1 word2", "text_pair": "word3"}\n{"text": "word4", "text_pair": "word5 word6"}\n'
    )
    options = ("--model", "first", "--train", text, "-o", "out", *FAST, "--max-steps", 4, "--lr", 1e-3)
    anchoring = ("--anchor", "--anchor-texts", "pairs.jsonl", "--anchor-weight", 0.5)
    done = start("continue_pretraining", tmp_path, *options, *anchoring)
    assert done.returncode == 0, done.stderr
    assert f"Anchored: 2 texts with the outputs of {tmp_path / 'donor'}, 20% of the rows." in done.stdout
    assert took(tmp_path / "out", donor)
    assert json.loads((tmp_path / "out/config.json").read_text("utf-8"))["pooler_loss_weight"] == 0.5
    logged = json.loads((tmp_path / "out/checkpoint-4/trainer_state.json").read_text("utf-8"))["log_history"]
    distances = [entry["pooler_loss"] for entry in logged if "pooler_loss" in entry]  # a batch may have no anchor
    assert distances
    assert min(distances) > 0
    assert not [entry for entry in logged if "eval_loss" in entry and "pooler_loss" in entry]
    assert "pooler_loss=" in done.stderr, "beside the loss"


def test_anchors_are_training_texts_and_pairs_and_calibration_gets_others(donor, tmp_path, module):
    plain, sample = ["--model", "m", "--train", "t", "-o", "o"], [(f"text {n}", f"next {n}") for n in range(2000)]
    args = module.parse([*plain, "--anchor"])
    anchors, others = module.pooler_texts(args, sample)
    assert len(anchors) == 2000
    assert {*anchors} | {*others} == {text for text, _ in sample} | {*sample}
    assert not {*anchors} & {*others}
    assert sum(text in sample for text in anchors) == 1000
    few, same = module.pooler_texts(args, sample[:99])
    assert {*few} == {*same} == {text for text, _ in sample[:99]} | {*sample[:99]}
    rows = anchor_rows(donor, AutoTokenizer.from_pretrained(donor), few)
    assert [any(row["token_type_ids"]) for row in rows] == [text in sample for text in few]
    (tmp_path / "anchors.txt").write_text("one\ntwo\n")
    own = module.parse([*plain, "--anchor", "--anchor-texts", str(tmp_path / "anchors.txt")])
    singles = [text for text, _ in sample]
    assert module.pooler_texts(own, sample) == (["one", "two"], singles), "too few to calibrate on"
    assert module.pooler_texts(module.parse(plain), sample) == ([], singles)


def test_a_donor_that_is_not_there_is_named_with_what_to_pass(donor, tmp_path, module):
    args = module.parse(["--model", str(tmp_path / "first"), "--train", "t", "-o", "o", "--anchor", "--length", "16"])
    model = module.load_model(args, donor)
    assert module.donor_of(args, model) == str(tmp_path / "first"), "a stock BERT itself"
    model.config.pooler_source = {"donor": "user/base"}
    assert module.donor_of(args, model) == "user/base"
    model.config.pooler_source = {"donor": "base"}
    with pytest.raises(ValueError, match=r"first: the donor of its pooler, base, is not in .*; pass --anchor-donor "):
        module.donor_of(args, model)
    args.anchor_donor = "elsewhere"
    assert module.donor_of(args, model) == "elsewhere"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--model donor --train nothing.txt -o out", "nothing.txt is not a file"),
        ("--model donor --train nothing -o out", "nothing: no files with one of the suffixes .txt, .jsonl,"),
        ("--model donor --train latin1.txt -o out", "latin1.txt is not UTF-8: invalid continuation byte"),
        ("--model donor --train empty.txt -o out", "empty.txt: too little text: 0 texts; choose a larger"),
        ("--model donor --train lines.txt -o out", "lines.txt: 1 text in 800 lines; is each line a text? --line-by"),
        ("--model donor --train reviews.csv -o out", "reviews.csv has no column 'text'; choose one of Id, Review, St"),
        ("--model donor --train numbers.jsonl -o out", "numbers.jsonl: column 'text' does not hold texts"),
        ("--model donor --train TEXT --streaming -o out", "--streaming needs --max-steps"),
        ("--model donor --train TEXT -o full", "full is not empty; choose another, or pass --resume or --overwrite"),
        ("--model donor --train TEXT -o full --resume", "full has no checkpoint to --resume from"),
        ("--model donor --train TEXT -o empty.txt", "empty.txt is not a folder"),
        ("--model gpt --train TEXT -o out", "gpt "),
        ("--model lost --train TEXT -o out", "lost has no usable pooler"),
        ("--model donor --train TEXT -o out --length 65", "--length 65: donor reads 64 tokens at most"),
        ("--model donor -o out", "pass either --train or --dataset-name"),
        ("--model donor --train TEXT -o out --anchor-share 0.3", "--anchor-share needs --anchor"),
        ("--model donor --train TEXT -o out --mask 1.5", "expected a number above 0 and below 1, found '1.5'"),
        ("--model donor --train few.txt --eval few.txt -o out --calibrate", "3 different texts; at least"),
        ("--model donor --dataset-name nobody/nothing -o out", "nobody/nothing"),
    ],
)
def test_continued_pre_training_fails_in_one_line(args, message, broken, text, module, monkeypatch, capsys):
    monkeypatch.chdir(broken)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    options = args.replace("TEXT", str(text)).split()
    assert message in error_of(module, capsys, "--length", 16, "--cache-dir", "cache", *options)
    assert not (broken / "out").exists()
    assert not [*broken.glob("cache/*.incomplete")]


def test_missing_packages_are_named_with_the_command_that_installs_them(module, monkeypatch, capsys):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    error = error_of(module, capsys, "--model", "m", "--train", "t", "-o", "o")
    assert re.search(r'missing packages: accelerate, bert_pooled_mlm, datasets; .*: pip install "\.\[train\]"', error)


def test_whole_word_masking_masks_words_whole_in_the_shares_of_bert(minilm, module):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    collator = module.WholeWordCollator(tokenizer, mlm_probability=0.3)
    texts = ["unbelievable pretokenizers misinterpret hyperparameters", "a short one"] * 300
    rows = [{"input_ids": ids} for ids in tokenizer(texts).input_ids]
    torch.manual_seed(0)
    batch = collator(rows)
    original = tokenizer.pad({"input_ids": [row["input_ids"] for row in rows]}, return_tensors="pt")["input_ids"]
    chosen = batch["labels"] != -100
    assert torch.equal(batch["labels"][chosen], original[chosen])
    assert not chosen[torch.isin(original, torch.tensor(tokenizer.all_special_ids))].any()
    tokens = tokenizer.convert_ids_to_tokens(original[0])
    pieces = [n for n, token in enumerate(tokens) if token.startswith("##")]
    assert len(pieces) > 3, "premise: there are words in pieces"
    for piece in pieces:
        assert torch.equal(chosen[::2, piece], chosen[::2, piece - 1])
    share = chosen.sum() / (~torch.isin(original, torch.tensor(tokenizer.all_special_ids))).sum()
    masked = (batch["input_ids"] == tokenizer.mask_token_id)[chosen].float().mean()
    kept = (batch["input_ids"] == original)[chosen].float().mean()
    # Some 1,500 draws: a standard deviation of about 0.02.
    assert abs(share - 0.3) < 0.06
    assert abs(masked - 0.8) < 0.06
    assert abs(kept - 0.1) < 0.06
    assert torch.equal(batch["input_ids"][~chosen], original[~chosen])
