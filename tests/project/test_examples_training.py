# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The two examples for training, run as a user runs them: as programs, from another folder, without --cpu."""

import gzip
import json
import random
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bert_pooled_mlm import AnchoredDataset, BertPooledMLMForMaskedLM, anchor_rows, convert
from checkpoints import CODE_FILES, POOLER, ROOT, differing, make_donor, stored, todays, took
from programs import environment, run_python
from safetensors.torch import save_file
from transformers import AutoTokenizer

TEXTS = [
    f"word{n % 7} word{n % 11}\nword{n % 13} word{n % 17} word{n % 5} word3 word{n % 19} word{n}" for n in range(120)
]
ROWS = [(f"word{n % 5} word{10 + n % 3 + 3 * (n % 2)}", ("even", "odd")[n % 2]) for n in range(40)]
FAST = ("--length", 16, "--batch-size", 8, "--save-steps", 2)


def start(example, cwd, *args, **env):
    """Runs an example as a program outside the checkout, offline."""
    return run_python(ROOT / "examples" / f"{example}.py", cwd, *args, **env)


def load_example(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return __import__(name)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n\n".join(TEXTS), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    file = tmp_path_factory.mktemp("table") / "rows.csv"
    lines = ["label,text", *(f'{label},"{text}"' for text, label in ROWS)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


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


# Corpora.


def corpus_of(monkeypatch, cache, tokenizer, *options, eval_files=()):
    module = load_example("continue_pretraining", monkeypatch)
    given = ["--model", "m", "-o", "o", "--length", "16", "--cache-dir", str(cache), "--num-proc", "2", *options]
    if eval_files:
        given += ["--eval", *eval_files]
    return module.load_corpus(module.parse(given), tokenizer)


def words_of(rows):
    return [token for row in rows for token in row["input_ids"] if token > 4]


@pytest.fixture
def tokenizer(donor):
    return AutoTokenizer.from_pretrained(donor)


def test_every_kind_of_file_gives_the_same_blocks_without_losing_a_token(tokenizer, tmp_path, monkeypatch):
    import pyarrow as pa
    from pyarrow import parquet

    content = "\n\n".join(TEXTS)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.txt").write_text(content)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content.encode()))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"id": 1, "text": text}) for text in TEXTS))
    parquet.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    (tmp_path / "held_out.txt").write_text("word1 word2\n\nword3")
    held_out = [str(tmp_path / "held_out.txt")]
    expected = [token for ids in tokenizer(TEXTS, add_special_tokens=False).input_ids for token in ids]
    for name in ("folder", "a.txt.gz", "a.jsonl", "a.parquet", "*.parquet"):
        options = ("--train", str(tmp_path / name))
        corpus = corpus_of(monkeypatch, tmp_path / "cache", tokenizer, *options, eval_files=held_out)
        words = words_of(corpus.train)
        assert words == expected[: len(words)], name
        assert len(words) > len(expected) - 8, "a rest of less than 8 tokens is dropped"
        assert words_of(corpus.held_out) == [6, 7, 8]
        lengths = {len(row["input_ids"]) for row in corpus.train}
        assert max(lengths) == 16
        stream = corpus_of(
            monkeypatch, tmp_path, tokenizer, *options, "--streaming", "--max-steps", "1", eval_files=held_out
        )
        assert sorted(words_of(stream.train)) == sorted(words)
        assert words_of(stream.held_out) == [6, 7, 8]


def test_a_text_is_held_out_by_its_hash_alone(tokenizer, tmp_path, monkeypatch):
    held_out = []
    for name, texts in (("some", TEXTS[:60]), ("all", [*reversed(TEXTS), *TEXTS])):
        (tmp_path / name).write_text("\n\n".join(texts))
        options = ("--train", str(tmp_path / name), "--eval-share", "0.3")
        corpus = corpus_of(monkeypatch, tmp_path / "cache", tokenizer, *options)
        # The last word of each text is its own.
        train, held = ({*words_of(rows)} for rows in (corpus.train, corpus.held_out))
        held_out.append({n for n in range(19, 60) if n + 5 in held and n + 5 not in train})
        singles = [text for text, _ in corpus.sample]
        assert len(singles) == len({*singles}), "without duplicates"
        assert not {*singles} & {TEXTS[n] for n in held_out[-1]}
        for first, second in corpus.sample:
            assert second is None or abs(TEXTS.index(second) - TEXTS.index(first)) <= 1
    assert held_out[0] == held_out[1]
    assert 2 < len(held_out[0]) < 25


def test_content_and_settings_decide_which_cache_is_used(tokenizer, tmp_path, monkeypatch):
    file, cache = tmp_path / "a.txt", tmp_path / "cache"

    def entries(content, *options):
        file.write_text(content)
        corpus_of(monkeypatch, cache, tokenizer, "--train", str(file), *options)
        return len([*cache.glob("*/train.arrow")])

    content = "\n\n".join(TEXTS)
    assert entries(content) == 1
    assert entries(content) == 1, "another time of change, the same content"
    assert entries(content.replace("word3", "word4")) == 2
    assert entries(content, "--line-by-line") == 3
    tokenizer.add_tokens(["word1 word2"])
    assert entries(content) == 4


SLOW_TOKENIZER = """
import sys, time
sys.path.insert(0, {examples!r})
import corpora
call = corpora.Tokenize.__call__
def slow(self, texts):
    print("tokenizing", flush=True)
    time.sleep({seconds})
    return call(self, texts)
corpora.Tokenize.__call__ = slow
import continue_pretraining
sys.exit(continue_pretraining.main(sys.argv[1:]))
"""


def preparing(donor, text, cwd, seconds):
    code = SLOW_TOKENIZER.format(examples=str(ROOT / "examples"), seconds=seconds)
    options = [
        "--model",
        donor,
        "--train",
        text,
        "-o",
        "out",
        "--length",
        "16",
        "--cache-dir",
        "cache",
        "--prepare-only",
    ]
    command = [sys.executable, "-c", code, *map(str, options)]
    env = environment(HF_HOME=str(cwd / "hf-home"))
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_of_two_processes_one_prepares_and_after_a_killed_one_the_next_begins_anew(donor, text, tmp_path):
    killed = preparing(donor, text, tmp_path, seconds=60)
    assert killed.stdout.readline() == "tokenizing\n"
    killed.kill()
    killed.communicate()  # which ends when its workers have ended, too
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [".incomplete"]
    both = [preparing(donor, text, tmp_path, seconds=2) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(output.count("tokenizing") for output in outputs) == [0, 2], "train and held-out texts"
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert {path.name for path in folder.iterdir()} == {"train.arrow", "held_out.arrow", "sample.json"}


def test_a_full_disk_is_an_error_of_one_line_and_leaves_nothing(donor, tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(TEXTS * 200))
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    code = limited + SLOW_TOKENIZER.format(examples=str(ROOT / "examples"), seconds=0)
    options = ("--model", donor, "--train", "text.txt", "-o", "out", "--cache-dir", "cache", "--length", 16)
    done = run_python(code, tmp_path, *options, fresh=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "continue_pretraining.py: error: cache: File too large; the incomplete"
    )
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


# Training.


@pytest.mark.versions
@pytest.mark.parametrize("anchored", [False, True], ids=["", "anchored"])
def test_the_order_of_an_epoch_is_random_resumable_and_groups_similar_lengths(anchored, monkeypatch):
    module = load_example("continue_pretraining", monkeypatch)
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
def test_the_head_runs_on_the_masked_tokens_and_the_loss_is_the_same(sparse, donor, tmp_path, monkeypatch):
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
    ("flags", "options", "expected"),
    [
        ("flags: avx2 avx512_bf16 x", [], "bfloat16 (this CPU supports bfloat16)"),
        ("flags: avx2 amx_bf16", ["--no-bf16"], "float32 (as requested)"),
        ("flags: avx2 avx512f", [], "float32 (this CPU does not support bfloat16)"),
        (None, [], "float32 (this CPU does not support bfloat16)"),
    ],
)
def test_bfloat16_is_used_where_the_cpu_supports_it(flags, options, expected, tmp_path, monkeypatch):
    module = load_example("continue_pretraining", monkeypatch)
    file = tmp_path / "cpuinfo"
    if flags:
        file.write_text(flags)
    monkeypatch.setattr(module, "CPU_FLAGS", file)
    args = module.parse(["--model", "m", "--train", "t", "-o", "o", "--cpu", "--no-sparse-prediction", *options])
    assert module.speed(args) == f"Speed: MLM head on all tokens, {expected}."
    assert args.bf16 is expected.startswith("bfloat16")


@pytest.mark.parametrize(("capability", "able"), [((7, 5), False), ((8, 0), True)])
def test_bfloat16_is_used_where_the_gpu_supports_it(capability, able, monkeypatch):
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
    assert 300 < fit["texts"] < 400, "the training texts"
    assert f"{fit['cosine_before']:.4f} -> {fit['cosine_after']:.4f}" in done.stdout
    assert "Its pooler is calibrated: no longer that of " in done.stdout
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


def test_anchors_are_training_texts_and_pairs_and_calibration_gets_others(donor, tmp_path, monkeypatch):
    module = load_example("continue_pretraining", monkeypatch)
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


def test_a_donor_that_is_not_there_is_named_with_what_to_pass(donor, tmp_path, monkeypatch):
    module = load_example("continue_pretraining", monkeypatch)
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


def in_process(module, *args):
    """Runs a program in this process, and restores the verbosity of transformers."""
    verbosity = module.transformers.logging.get_verbosity()
    try:
        return module.main([str(arg) for arg in args])
    finally:
        module.transformers.logging.set_verbosity(verbosity)
        module.transformers.logging.enable_progress_bar()


def error_of(module, capsys, *args):
    """The only line that a program prints before it stops."""
    try:
        code = in_process(module, *args)
    except SystemExit as stop:
        code = stop.code
    error = re.sub(r"(\rtokenizing.*)+\n", "", capsys.readouterr().err)
    assert code in (1, 2)
    assert error.count("\n") == 1, error
    assert error.startswith(f"{module.__name__}.py: error: ")
    return error


@pytest.fixture
def broken(tmp_path, donor, lost):
    """A folder of invalid inputs."""
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    (tmp_path / "latin1.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "few.txt").write_text("word1\n\nword2\n\nword2\n\nword3", encoding="utf-8")
    (tmp_path / "lines.txt").write_text("word1 word2\n" * 800, encoding="utf-8")
    (tmp_path / "reviews.csv").write_text("Id,Review,Stars\n1,a,x\n", encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt/config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    (tmp_path / "one.csv").write_text("text,label\na,x\nb,x\n", encoding="utf-8")
    (tmp_path / "rare.csv").write_text("text,label\na,x\nb,x\nc,x\nd,x\ne,y\n", encoding="utf-8")
    (tmp_path / "header.csv").write_text("text,label\n", encoding="utf-8")
    (tmp_path / "bad.jsonl").write_text('{"text": "a", "label": 1}\n{"text"\n', encoding="utf-8")
    (tmp_path / "numbers.jsonl").write_text('{"text": 1}\n', encoding="utf-8")
    (tmp_path / "nothing").mkdir()
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
def test_continued_pre_training_fails_in_one_line(args, message, broken, text, monkeypatch, capsys):
    module = load_example("continue_pretraining", monkeypatch)
    monkeypatch.chdir(broken)
    options = args.replace("TEXT", str(text)).split()
    assert message in error_of(module, capsys, "--length", 16, "--cache-dir", "cache", *options)
    assert not (broken / "out").exists()
    assert not [*broken.glob("cache/*.incomplete")]


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch, capsys):
    module = load_example("continue_pretraining", monkeypatch)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    error = error_of(module, capsys, "--model", "m", "--train", "t", "-o", "o")
    assert re.search(r'missing packages: accelerate, bert_pooled_mlm, datasets; .*: pip install "\.\[train\]"', error)


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


def test_classify_reads_every_kind_of_file_without_changing_its_values(table, tmp_path, monkeypatch):
    module = load_example("classify", monkeypatch)
    (tmp_path / "rows.tsv").write_text("\n".join(["label\ttext", *(f"{label}\t{text}" for text, label in ROWS)]))
    rows = (json.dumps({"label": label, "text": text}) for text, label in ROWS)
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "rows[1].csv").write_bytes(
        b'\xef\xbb\xbftext,label,more\r\nNA,01,\r\n1.50,true,null\r\nnull,1,2\r\n"one, two\nthree",x,\r\n'
    )
    files = {path.name: path for path in (table, *tmp_path.iterdir())}
    found = {name: module.read_examples(path, module.parse(["d", "--model", "m"])) for name, path in files.items()}
    spelt = [("NA", "01"), ("1.50", "true"), ("null", "1"), ("one, two\nthree", "x")]
    assert found == {"rows.csv": ROWS, "rows.tsv": ROWS, "rows.jsonl": ROWS, "rows[1].csv": spelt}


def test_scores_are_accuracy_and_macro_f1_of_the_classes_that_occur(monkeypatch):
    module = load_example("classify", monkeypatch)
    labels, predicted = torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1])
    assert module.scores(predicted, labels, 3) == pytest.approx((0.75, (2 / 3 + 4 / 5) / 2))


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
        ("ragged.csv --model donor", "ragged.csv, row 2: more fields than the header has columns"),
        ("one.csv --model donor", "one.csv: the only label is 'x'"),
        ("rare.csv --model donor", "rare.csv: fewer than four examples of 'y'"),
        ("bad.jsonl --model donor", "bad.jsonl, line 2: no JSON"),
        ("one.csv --model donor --label-column y", "no column 'y'; choose one of text, label with --label-column"),
        ("gap.jsonl --model donor", "gap.jsonl, row 2: column 'label' is empty; the row has: text"),
        ("TABLE --model donor --test other.csv", "other.csv: labels that do not occur in TABLE: unheard"),
        ("TABLE --model donor --seeds 1", "expected an integer of at least 2, found '1'"),
        ("TABLE --model lost", "lost has no usable pooler"),
    ],
)
def test_classify_fails_in_one_line(args, message, broken, table, monkeypatch, capsys):
    module = load_example("classify", monkeypatch)
    monkeypatch.chdir(broken)
    error = error_of(module, capsys, *args.replace("TABLE", str(table)).split())
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
