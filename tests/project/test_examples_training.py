"""The two examples for training, run as a user runs them: as programs, from another folder."""

import itertools
import json
import os
import random
import re
import shutil

import pytest
import torch
from bert_pooled_mlm import AnchoredDataset, anchor_rows, convert
from checkpoints import CODE_FILES, POOLER, ROOT, differing, make_donor, stored, todays, took
from programs import run_python
from safetensors.torch import save_file
from transformers import AutoTokenizer

TEXT = "\n\n".join(
    f"word{n % 7} word{n % 11}\nword{n % 13} word{n % 17} word{n % 5} word3 word{n % 19}" for n in range(60)
)
ROWS = [(f"word{n % 5} word{10 + n % 3 + 3 * (n % 2)}", ("even", "odd")[n % 2]) for n in range(40)]


def start(example, cwd, *args):
    """An example as a program, in a folder that is not the checkout, with no way to the Hub."""
    return run_python(ROOT / "examples" / f"{example}.py", cwd, *args)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    file = tmp_path_factory.mktemp("table") / "rows.csv"
    lines = ["label,text", *(f'{label},"{text}"' for text, label in ROWS)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


FAST = ("--length", 16, "--batch-size", 8, "--save-steps", 2, "--cpu")


@pytest.fixture(scope="module")
def trained(donor, text, tmp_path_factory):
    """From a stock base model, with every option that changes the way of training."""
    folder = tmp_path_factory.mktemp("run")
    options = ("--whole-words", "--bf16", "--gradient-checkpointing", "--accumulate", 2)
    done = start(
        "continue_pretraining", folder, "--model", donor, "--train", text, "-o", "out", *FAST, *options,
        "--max-steps", 4,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.versions
def test_continued_pre_training_leaves_a_pooled_checkpoint_with_its_tokenizer(trained, donor):
    folder = trained[0]
    assert took(folder / "out", donor)
    moved = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.equal(stored(folder / "out")[moved], stored(donor)[moved]), "it trained"
    files = {path.name for path in (folder / "out").iterdir()}
    assert files > {"config.json", *CODE_FILES, "checkpoint-4"}
    assert AutoTokenizer.from_pretrained(folder / "out")("word3").input_ids == [2, 8, 3]
    assert json.loads((folder / "out/config.json").read_text("utf-8"))["sparse_prediction"] is False, "as the donor's"


@pytest.mark.versions
def test_continued_pre_training_says_what_it_did_and_how_to_load_it(trained):
    lines = trained[1].stdout.strip().splitlines()
    assert re.fullmatch(
        r"\d+ blocks of at most 16 tokens to train on, \d+ held out; 4 steps of 16, 1 process\(es\)\.", lines[0]
    )
    assert lines[1] == "Speed: MLM head on the labelled tokens, bfloat16 (as asked for)."
    before, after = map(float, re.fullmatch(r"Held-out perplexity: ([\d.]+) -> ([\d.]+)", lines[-3]).groups())
    assert 1 < after < before
    assert lines[-2].startswith("Saved: out. Its pooler is bit for bit that of ")
    assert lines[-1].strip() == "AutoModel.from_pretrained('out', trust_remote_code=True)"
    assert "4/4" in trained[1].stderr, "a progress bar"
    assert "Traceback" not in trained[1].stderr
    assert "Warning" not in trained[1].stderr


def test_continued_pre_training_resumes_from_a_pooled_checkpoint_line_by_line(trained, text, tmp_path):
    """Starts from what the run above left; then goes on from its own checkpoint, to more steps."""
    pooled = trained[0] / "out"
    options = ("--model", pooled, "--train", text, "--eval", text, "-o", "more", *FAST, "--line-by-line", "--no-bf16")
    first = start("continue_pretraining", tmp_path, *options, "--max-steps", 2)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert lines[0].startswith("120 texts of at most 16 tokens to train on, 120 held out; 2 steps of 8")
    assert lines[1] == "Speed: MLM head on the labelled tokens, batches of like length, float32 (as asked for)."
    resumed = start("continue_pretraining", tmp_path, *options, "--max-steps", 4, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"Resumed from more{os.sep}checkpoint-2." in resumed.stdout
    assert json.loads((tmp_path / "more/checkpoint-4/trainer_state.json").read_text("utf-8"))["global_step"] == 4
    assert took(tmp_path / "more", pooled)


@pytest.mark.versions
@pytest.mark.parametrize("anchored", [False, True], ids=["", "anchored"])
def test_line_by_line_batches_are_of_like_length(anchored, donor, tmp_path, monkeypatch):
    module = load_example("continue_pretraining", monkeypatch)
    options = ["--line-by-line", "--length", "16", "--no-bf16", "--cpu"]
    args = module.parse(["--model", str(donor), "--train", "t", "-o", str(tmp_path), *options])
    rows = [{"input_ids": [5] * draw.randrange(3, 40)} for draw in [random.Random(0)] for _ in range(800)]
    if anchored:
        rows = AnchoredDataset(rows, [{"input_ids": [5] * n, "pooler_targets": 0} for n in range(3, 60)])
    trainer = module.LossTrainer(
        model=module.load_model(args, donor),
        args=module.settings(args, 10),
        data_collator=lambda batch: {"lengths": torch.tensor([len(row["input_ids"]) for row in batch])},
        train_dataset=rows,
        eval_dataset=rows,
    )

    def epoch(number):
        trainer.state.epoch = number
        module.SeededEpochs().on_epoch_begin(trainer.args, trainer.state, trainer.control)
        return [batch["lengths"] for batch in trainer.get_train_dataloader()]

    lengths = epoch(1.0)
    assert sum(map(len, lengths)) == len(rows)
    torch.rand(5)  # as another process, or the run that this one resumes, may have drawn
    assert torch.equal(torch.cat(epoch(1.4)), torch.cat(lengths)), "the same epoch, resumed"
    assert not torch.equal(torch.cat(epoch(2.0)), torch.cat(lengths)), "another one"
    assert sum(len(it) * it.max() for it in lengths) < 1.15 * sum(it.sum() for it in lengths), "at random: 1.9"


@pytest.mark.parametrize("sparse", [True, False])
def test_the_head_runs_on_the_labelled_tokens_and_the_loss_is_the_same(sparse, donor, tmp_path, monkeypatch):
    module = load_example("continue_pretraining", monkeypatch)
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
    ("flags", "asked", "said"),
    [
        ("flags: avx2 avx512_bf16 x", [], "bfloat16 (this CPU multiplies bfloat16)"),
        ("flags: avx2 amx_bf16", ["--no-bf16"], "float32 (as asked for)"),
        ("flags: avx2 avx512f", [], "float32 (this CPU has no bfloat16)"),
        ("flags: avx2", ["--bf16"], "bfloat16 (as asked for)"),
        (None, [], "float32 (this CPU has no bfloat16)"),
    ],
)
def test_bfloat16_is_taken_where_the_cpu_multiplies_it(flags, asked, said, tmp_path, monkeypatch):
    module = load_example("continue_pretraining", monkeypatch)
    told = tmp_path / "cpuinfo"
    if flags:
        told.write_text(flags)
    monkeypatch.setattr(module, "CPU_FLAGS", told)
    needed = ["--model", "m", "--train", "t", "-o", "o"]
    args = module.parse([*needed, "--cpu", "--no-sparse-prediction", *asked])
    assert module.speed(args) == f"Speed: MLM head on all tokens, {said}."
    assert args.bf16 is said.startswith("bfloat16")


@pytest.mark.parametrize(("capability", "able"), [((7, 5), False), ((8, 0), True)])
def test_bfloat16_is_taken_where_the_gpu_multiplies_it(capability, able, monkeypatch):
    module = load_example("continue_pretraining", monkeypatch)
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
    assert 300 < fit["texts"] < 400, "the texts trained on, without those held out"
    assert f"{fit['cosine_before']:.4f} -> {fit['cosine_after']:.4f}" in done.stdout
    assert "Its pooler is calibrated to it: no longer that of " in done.stdout
    assert took(tmp_path / "out/checkpoint-4", donor), "premise: the end of the training, before the fit"
    fitted = differing(todays(tmp_path / "out"), todays(tmp_path / "out/checkpoint-4"))
    assert fitted == {*POOLER}, "nothing but the pooler is fitted"

    convert(tmp_path / "out", tmp_path / "stock", format="bert", verify=False)
    assert json.loads((tmp_path / "stock/config.json").read_text("utf-8"))["pooler_source"] == source
    changed = stored(tmp_path / "out")
    changed["bert.pooler.dense.bias"] += 1
    save_file(changed, tmp_path / "out/model.safetensors", {"format": "pt"})
    shutil.rmtree(tmp_path / "out/2_Dense")  # another pooler than the model's would be refused
    convert(tmp_path / "out", tmp_path / "trained", format="bert", verify=False)
    assert "pooler_source" not in json.loads((tmp_path / "trained/config.json").read_text("utf-8")), "premise: checked"


@pytest.mark.versions
def test_continued_pre_training_is_anchored_to_the_donor_that_a_pooled_checkpoint_names(
    converted, donor, text, tmp_path
):
    shutil.copytree(converted / "pooled", tmp_path / "first")
    shutil.copytree(donor, tmp_path / "donor")
    (tmp_path / "pairs.tsv").write_text("text\ttext_pair\n" + "word1 word2\tword3\n" * 2 + "word4\tword5 word6\n")
    options = ("--model", "first", "--train", text, "-o", "out", *FAST, "--max-steps", 4, "--lr", 1e-3)
    anchoring = ("--anchor", "--anchor-texts", "pairs.tsv", "--anchor-weight", 0.5)
    done = start("continue_pretraining", tmp_path, *options, *anchoring)
    assert done.returncode == 0, done.stderr
    assert f"Anchored: 2 texts as {tmp_path / 'donor'} reads them, 20% of the rows." in done.stdout
    assert took(tmp_path / "out", donor)
    assert json.loads((tmp_path / "out/config.json").read_text("utf-8"))["pooler_loss_weight"] == 0.5
    logged = json.loads((tmp_path / "out/checkpoint-4/trainer_state.json").read_text("utf-8"))["log_history"]
    distances = [entry["pooler_loss"] for entry in logged if "pooler_loss" in entry]  # a batch may have no anchor
    assert distances
    assert all(0 < distance < 2 for distance in distances)
    assert not [entry for entry in logged if "eval_loss" in entry and "pooler_loss" in entry]
    assert "pooler_loss=" in done.stderr, "beside the loss"


def test_texts_and_their_neighbours_are_the_anchors_and_others_of_both_kinds_are_calibrated_on(
    donor, tmp_path, monkeypatch
):
    module = load_example("continue_pretraining", monkeypatch)
    plain, texts = ["--model", "m", "--train", "t", "-o", "o"], [f"text {n}" for n in range(2000)]
    args = module.parse([*plain, "--anchor"])
    pairs = {*itertools.pairwise(texts)}
    anchors, others = module.texts_of_the_pooler(args, texts)
    assert len(anchors) == 2000
    assert {*anchors} | {*others} == {*texts} | pairs
    assert not {*anchors} & {*others}
    for kind in (anchors, others):
        assert abs(sum(text in pairs for text in kind) - len(kind) / 2) <= 1
    few, same = module.texts_of_the_pooler(args, texts[:99])
    assert {*few} == {*same} == {*texts[:99], *itertools.pairwise(texts[:99])}
    rows = anchor_rows(donor, AutoTokenizer.from_pretrained(donor), few)
    assert [any(row["token_type_ids"]) for row in rows] == [text in pairs for text in few]
    (tmp_path / "anchors.txt").write_text("one\ntwo\n")
    own = module.parse([*plain, "--anchor", "--anchor-texts", str(tmp_path / "anchors.txt")])
    assert module.texts_of_the_pooler(own, texts) == (["one", "two"], texts), "too few to calibrate on"
    assert module.texts_of_the_pooler(module.parse(plain), texts) == ([], texts)


def test_a_donor_that_is_not_there_is_named_with_what_to_pass(donor, tmp_path, monkeypatch):
    module = load_example("continue_pretraining", monkeypatch)
    args = module.parse(["--model", str(tmp_path / "first"), "--train", "t", "-o", "o", "--anchor", "--length", "16"])
    model = module.load_model(args, donor)
    assert module.donor_of(args, model) == str(tmp_path / "first"), "of a stock BERT: itself"
    model.config.pooler_source = {"donor": "user/base"}
    assert module.donor_of(args, model) == "user/base"
    model.config.pooler_source = {"donor": "base"}
    with pytest.raises(ValueError, match=r"first names its pooler's donor, base, and .*: pass --anchor-donor, or"):
        module.donor_of(args, model)
    args.anchor_donor = "elsewhere"
    assert module.donor_of(args, model) == "elsewhere"


def load_example(name, monkeypatch):
    """An example as a module: its refusals need no process each."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return __import__(name)


def refusal(module, capsys, *args):
    """The one line that a program says before it stops."""
    verbosity = module.transformers.logging.get_verbosity()
    try:
        code = module.main([str(arg) for arg in args])
    except SystemExit as stop:
        code = stop.code
    finally:
        module.transformers.logging.set_verbosity(verbosity)
        module.transformers.logging.enable_progress_bar()
    error = capsys.readouterr().err
    assert code in (1, 2)
    assert error.count("\n") == 1, error
    assert error.startswith(f"{module.__name__}.py: error: ")
    return error


@pytest.fixture
def broken(tmp_path, donor, lost):
    """A folder with something of every kind that can be wrong."""
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    (tmp_path / "latin1.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "few.txt").write_text("word1\n\nword2\n\nword2\n\nword3", encoding="utf-8")
    (tmp_path / "lines.txt").write_text("word1 word2\n" * 800, encoding="utf-8")
    (tmp_path / "five.txt").write_text("word1\nword2\n\n" * 5, encoding="utf-8")
    (tmp_path / "reviews.csv").write_text("Id,Review,Stars\n1,a,x\n", encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt/config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    (tmp_path / "one.csv").write_text("text,label\na,x\nb,x\n", encoding="utf-8")
    (tmp_path / "rare.csv").write_text("text,label\na,x\nb,x\nc,x\nd,x\ne,y\n", encoding="utf-8")
    (tmp_path / "header.csv").write_text("text,label\n", encoding="utf-8")
    (tmp_path / "bad.jsonl").write_text('{"text": "a", "label": 1}\n{"text"\n', encoding="utf-8")
    (tmp_path / "list.jsonl").write_text("[1]\n", encoding="utf-8")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "gap.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b"}\n', encoding="utf-8")
    (tmp_path / "ragged.csv").write_text("text,label\na,x\nb,c,x\n", encoding="utf-8")
    (tmp_path / "other.csv").write_text("text,label\na,unheard\n", encoding="utf-8")
    (tmp_path / "donor").symlink_to(donor)
    (tmp_path / "lost").symlink_to(lost)
    return tmp_path


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--model donor --train nothing.txt -o out", "nothing.txt is not a file"),
        ("--model donor --train latin1.txt -o out", "latin1.txt is not UTF-8: invalid continuation byte at byte 2"),
        ("--model donor --train empty.txt -o out", "empty.txt: too little text: 0 paragraphs; hold out a larger"),
        ("--model donor --train lines.txt -o out", "lines.txt: 1 paragraph in 800 lines; is each line a text? --line"),
        (
            "--model donor --train five.txt -o out",
            "five.txt: 5 paragraphs in 10 lines; is each line a text? --li",
        ),
        (
            "--model donor --train few.txt -o out --line-by-line",
            "few.txt: too little text: 4 lines; hold out a",
        ),
        ("--model donor --train TEXT -o full", "full is not empty; name another, or pass --resume or --overwrite"),
        ("--model donor --train TEXT -o full --resume", "full has no checkpoint to --resume from"),
        ("--model donor --train TEXT -o empty.txt", "empty.txt is not a folder"),
        ("--model gpt --train TEXT -o out", "gpt is not a BERT: its model_type is 'gpt2'"),
        ("--model lost --train TEXT -o out --length 16", "lost has no usable pooler"),
        ("--model donor --train TEXT -o out --length 65", "--length 65: donor reads 64 tokens at most"),
        ("--model donor -o out", "give either --train or --dataset-name"),
        ("--model donor --train TEXT -o out --anchor-share 0.3", "--anchor-share needs --anchor"),
        ("--model donor --train TEXT -o out --anchor --anchor-share 1", "expected a number above 0 and below 1"),
        ("--model donor --train TEXT -o out --mask 1.5", "expected a number above 0 and below 1, found '1.5'"),
        ("--model donor --train few.txt --eval few.txt -o out --length 16 --calibrate", "3 different texts; at least"),
        ("--model donor --dataset-name x -o out", "--dataset-name needs the datasets library"),
    ],
)
def test_continued_pre_training_refuses_in_one_line(args, message, broken, text, monkeypatch, capsys):
    module = load_example("continue_pretraining", monkeypatch)
    monkeypatch.chdir(broken)
    find_spec = module.importlib.util.find_spec
    monkeypatch.setattr(
        module.importlib.util, "find_spec", lambda name, *rest: None if name == "datasets" else find_spec(name, *rest)
    )
    assert message in refusal(module, capsys, *args.replace("TEXT", str(text)).split())
    assert not (broken / "out").exists()


def test_packing_cuts_full_blocks_and_loses_no_token(pooled, monkeypatch):
    module = load_example("continue_pretraining", monkeypatch)
    tokenizer = AutoTokenizer.from_pretrained(pooled)
    args = module.parse(["--model", "m", "--train", "t", "-o", "o", "--length", "16"])
    texts = TEXT.split("\n\n")[:40]
    blocks = [row["input_ids"] for row in module.encode(texts, tokenizer, args)]
    assert {len(block) for block in blocks[:-1]} <= {15, 16}
    assert all(block[0] == tokenizer.cls_token_id and block[-1] == tokenizer.sep_token_id for block in blocks)
    words = [token for block in blocks for token in block if token > 4]
    assert words == [token for ids in tokenizer(texts, add_special_tokens=False).input_ids for token in ids]


def test_whole_word_masking_masks_words_whole_in_the_shares_of_bert(minilm, monkeypatch):
    module = load_example("continue_pretraining", monkeypatch)
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


# classify.py


@pytest.mark.versions
def test_classify_compares_the_four_vectors(pooled, table, tmp_path):
    done = start(
        "classify", tmp_path, table, "--model", pooled, "--length", 16, "--seeds", 3, "--cpu", "--json", "figures.json"
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    names = ["own pooler", "raw [CLS]", "mean of the tokens", "random pooler"]
    figures = json.loads((tmp_path / "figures.json").read_text("utf-8"))
    assert (figures["train"], figures["test"], figures["labels"]) == (30, 10, ["even", "odd"])
    assert list(figures["runs"]) == names
    for runs in figures["runs"].values():
        assert len(runs) == 3
        assert all(0 <= score <= 1 for run in runs for score in run)
    assert "Most frequent label: accuracy 0.500, macro-F1 0.333." in done.stdout
    lines = done.stdout.splitlines()[-4:]
    for line, name in zip(lines, names, strict=True):
        assert re.fullmatch(re.escape(name) + r" +\d\.\d{3}( \d\.\d{3}){3} +\d\.\d{3}( \d\.\d{3}){3}", line.rstrip())
        accuracies = [run[0] for run in figures["runs"][name]]
        assert line.removeprefix(name).split()[0] == f"{sum(accuracies) / 3:.3f}"


def in_process(module, *args):
    """Without the cost of another process; leaves transformers as verbose as it was."""
    verbosity = module.transformers.logging.get_verbosity()
    try:
        return module.main([str(arg) for arg in args])
    finally:
        module.transformers.logging.set_verbosity(verbosity)
        module.transformers.logging.enable_progress_bar()


@pytest.mark.versions
def test_classify_learns_what_can_be_learnt_by_fine_tuning(donor, table, tmp_path, monkeypatch, capsys):
    """From a stock BERT, on a test file of its own."""
    module = load_example("classify", monkeypatch)
    options = ("--finetune", "--seeds", 2, "--epochs", 12, "--lr", 3e-3, "--batch-size", 8, "--length", 8, "--cpu")
    file = tmp_path / "figures.json"
    assert in_process(module, table, "--model", donor, "--test", table, *options, "--json", file) == 0
    runs = json.loads(file.read_text("utf-8"))["runs"]
    assert list(runs) == ["own pooler", "raw [CLS]", "random pooler"]
    assert max(accuracy for accuracy, _ in runs["raw [CLS]"]) > 0.9
    assert "whole model trained" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["tsv", "jsonl"])
def test_classify_reads_the_same_from_every_kind_of_file(ending, table, tmp_path, monkeypatch):
    module = load_example("classify", monkeypatch)
    file = tmp_path / f"rows.{ending}"
    if ending == "tsv":
        lines = ["Kind\tWords", *(f"{label}\t{text}" for text, label in ROWS)]
    else:
        lines = [json.dumps({"Kind": label, "Words": text}) for text, label in ROWS]
    file.write_text("\n".join(lines), encoding="utf-8")
    args = module.parse([str(file), "--model", "m", "--text-column", "Words", "--label-column", "Kind"])
    assert module.read_examples(file, args) == ROWS
    assert module.read_examples(table, module.parse([str(table), "--model", "m"])) == ROWS


def test_classify_keeps_a_quoted_line_break_in_a_text(tmp_path, monkeypatch):
    module = load_example("classify", monkeypatch)
    (tmp_path / "rows.csv").write_bytes(b'\xef\xbb\xbftext,label\r\n"one, two\nthree",x\r\n')
    args = module.parse([str(tmp_path / "rows.csv"), "--model", "m"])
    assert module.read_examples(args.data, args) == [("one, two\nthree", "x")]


def test_classify_reads_a_table_as_it_is_spelt(tmp_path, monkeypatch):
    module = load_example("classify", monkeypatch)
    (tmp_path / "rows[1].csv").write_text("text,label,more\nNA,01,\n1.50,true,null\nnull,1,2\n", encoding="utf-8")
    args = module.parse([str(tmp_path / "rows[1].csv"), "--model", "m"])
    assert module.read_examples(args.data, args) == [("NA", "01"), ("1.50", "true"), ("null", "1")]
    assert list(tmp_path.iterdir()) == [args.data]


@pytest.mark.parametrize(
    ("guessed", "labels", "accuracy", "f1"),
    [
        ([0, 1, 2], [0, 1, 2], 1.0, 1.0),
        ([0, 0, 0, 0], [0, 0, 1, 1], 0.5, 1 / 3),
        ([0, 0, 1, 1], [0, 1, 1, 1], 0.75, (2 / 3 + 4 / 5) / 2),  # class 2 does not occur
    ],
)
def test_scores_are_accuracy_and_macro_f1(guessed, labels, accuracy, f1, monkeypatch):
    sklearn = pytest.importorskip("sklearn.metrics")  # comes with sentence-transformers
    module = load_example("classify", monkeypatch)
    found = module.scores(torch.tensor(guessed), torch.tensor(labels), 3)
    assert found == pytest.approx((accuracy, f1))
    assert found[1] == pytest.approx(sklearn.f1_score(labels, guessed, average="macro"))


def test_a_split_keeps_the_shares_of_the_labels_and_differs_by_seed(monkeypatch):
    module = load_example("classify", monkeypatch)
    labels = [0] * 40 + [1] * 8 + [2] * 2
    train, test = module.split(labels, 0.25, 0)
    assert sorted(train + test) == list(range(50))
    assert [sum(labels[i] == label for i in test) for label in range(3)] == [10, 2, 1]
    assert module.split(labels, 0.25, 0) == (train, test)
    assert module.split(labels, 0.25, 1) != (train, test)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("nothing.csv --model donor", "nothing.csv is not a file"),
        ("latin1.txt --model donor", "latin1.txt is not UTF-8"),
        ("empty.txt --model donor", "empty.txt: expected .csv, .tsv or .jsonl, found .txt"),
        ("header.csv --model donor", "header.csv has no rows"),
        ("empty.jsonl --model donor", "empty.jsonl has no rows"),
        ("ragged.csv --model donor", "ragged.csv: Error tokenizing data. C error: Expected 2 fields in line 3, saw 3"),
        ("one.csv --model donor", "one.csv: the only label is 'x'"),
        ("rare.csv --model donor", "rare.csv: fewer than four examples of 'y'"),
        ("bad.jsonl --model donor", "bad.jsonl, line 2: no JSON"),
        ("list.jsonl --model donor", "list.jsonl, line 1: expected an object, found [1]"),
        ("one.csv --model donor --label-column y", "no column 'y'; choose one of text, label with --label-column"),
        (
            "reviews.csv --model donor",
            "no column 'text'; choose one of Id, Review, Stars with --text-column",
        ),
        (
            "reviews.csv --model donor --text-column Review",
            "reviews.csv: no column 'label'; choose one of Id, Review, Stars with --label-column",
        ),
        ("gap.jsonl --model donor", "gap.jsonl, row 2: column 'label' is empty; the row has: text"),
        ("TABLE --model donor --test other.csv", "other.csv: labels that do not occur in TABLE: unheard"),
        ("TABLE --model donor --length 65", "--length 65: donor reads 64 tokens at most"),
        ("TABLE --model donor --seeds 1", "expected a integer of at least 2, found '1'"),
        ("TABLE --model lost", "lost has no usable pooler"),
    ],
)
def test_classify_refuses_in_one_line(args, message, broken, table, monkeypatch, capsys):
    module = load_example("classify", monkeypatch)
    monkeypatch.chdir(broken)
    error = refusal(module, capsys, *args.replace("TABLE", str(table)).split())
    assert message.replace("TABLE", str(table)) in error


def test_a_new_pooler_is_as_transformers_makes_it_and_another_for_each_seed(monkeypatch):
    module = load_example("classify", monkeypatch)
    pooler = make_donor(hidden_size=128).bert.pooler
    weights = []
    for seed in range(2):
        module.randomize_pooler(pooler, 0.02, seed)
        weights.append(pooler.dense.weight.clone())
        assert not pooler.dense.bias.any()
        assert abs(pooler.dense.weight.std() - 0.02) < 0.001
    assert not torch.equal(*weights)
