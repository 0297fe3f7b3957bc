# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The verification process: loads output folders as users do, and reports whether anything in them is random.

It reads one request a line from stdin, as JSON: `folder`, `answer` (the file that the result is written to), `errors`
(the file for stderr), `tokenizer` (a folder with copies of the input's tokenizer, without code; or null), `classes`
(the Auto classes to load with; the first one loads twice) and `pooler` (for weight and bias, the file that stores it
and its name there). Each folder and the exit code of its load are printed as one line of JSON.

On Linux, the imports are done once, and each request is handled by a fork: no weights, modules or caches of one load
reach another. Elsewhere the process handles one request, and the converter starts another process for the next.
"""

import gc
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

if os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
    del sys.path[0]  # the modules in this folder have names that other packages may have as well

FORKS = sys.platform == "linux"
PARALLEL = 2  # loads at a time: the converter itself takes the rest of two cores
# Cases and accents, scripts with and without spaces, composed and decomposed, special tokens, unknown characters.
TEXTS = (
    "The Quick brown fox; it's 3.14159 % of 1,000,000!",
    "Ça va? Émile naïvely ate a jalapeño in Zürich, Łódź, Ørsted and İstanbul: ﬁne",
    "e\u0301cole A\u030angstro\u0308m unbelievably",
    "今天天气很好,我们去公园吧。漢字と仮名",
    "東京は日本の首都です。カタカナﾊﾝｶｸ ひらがな",
    "오늘은 날씨가 좋습니다",
    "السلام عليكم، كيف حالُكَ؟",
    "Привет, мир! Ёлка Ελλάς και ά",
    "नमस्ते दुनिया สวัสดีชาวโลก",
    "👩‍💻 🎉 ½ © ™ \u200b\xad\ufffd\t\n x",
    "Paris is the [MASK] of France. [CLS] [SEP] [PAD] [UNK] <mask>",
    "",
)
# transformers imports these where they are installed, though nothing that loads a BERT needs them.
UNNEEDED = ("accelerate", "scipy", "sklearn", "torchvision")
# 4.x does not store these, and ties them after loading: under `torchscript`, it reports them as missing.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def load_twice(folder: str, classes: list[str], pooler_files: dict[str, list[str]]) -> dict:
    """What each class leaves missing, whether the pooler is the stored one, and whether two loads give the same."""
    import torch
    import transformers
    from safetensors import safe_open

    torch.set_num_threads(1)  # the converter uses the other core
    found: dict = {"missing": [], "mismatched": [], "pooler_equal": True, "loads_equal": True}
    dense = {}
    for part, (file, name) in pooler_files.items():
        with safe_open(Path(folder, file), "pt") as stored:
            dense[part] = stored.get_tensor(name)

    def check(auto_class: str, times: int) -> None:
        """In a function of its own, so that one model at a time is in memory."""
        outputs, model = [], None
        for _ in range(times):
            del model
            model, info = getattr(transformers, auto_class).from_pretrained(
                folder, trust_remote_code=True, output_loading_info=True
            )
            if times == 1:  # there is nothing to compare
                break
            ids = torch.arange(min(model.config.vocab_size, model.config.max_position_embeddings, 16))[None]
            with torch.no_grad():
                output = model.eval()(ids, attention_mask=torch.ones_like(ids), return_dict=True)
            outputs.append([value for value in output.values() if isinstance(value, torch.Tensor)])
        state = model.state_dict()
        tied = {copy for copy, it in TIED.items() if copy in state and torch.equal(state[copy], state[it])}
        found["missing"] += sorted({*info["missing_keys"]} - tied - {*found["missing"]})
        found["mismatched"] += sorted(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])
        for one, other in zip(*outputs, strict=True):
            found["loads_equal"] &= torch.equal(one, other)
        pooler = getattr(getattr(model, "bert", model), "pooler", None)
        if pooler is not None:  # stock BertForMaskedLM has none
            parameters = dict(pooler.dense.named_parameters())
            found["pooler_equal"] &= all(
                torch.equal(parameters[it], dense[it].to(parameters[it].dtype)) for it in dense
            )

    for number, auto_class in enumerate(classes):
        check(auto_class, 1 if number else 2)
    return found


def compare_tokens(folder: str, copies: str) -> dict:
    """Why a tokenizer could not be loaded, and the texts that the two tokenize differently."""
    from transformers import AutoTokenizer

    read, failed, texts = [], [], list(TEXTS)
    for place, trusted in ((copies, False), (folder, True)):
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=trusted)
            if not read:  # words of its own vocabulary: to a small one, most of those texts are unknown
                words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
                known = " ".join(words[:: len(words) // 500 + 1])
                texts += [known, known.swapcase(), known.replace(" ", "")]
            ids = [[*tokenizer(text)["input_ids"], *tokenizer(text, "x")["input_ids"]] for text in texts]
            read.append([*ids, [len(tokenizer), *sorted(tokenizer.all_special_ids)]])
            failed.append(None)
        except Exception as error:  # whatever a class and its libraries raise
            failed.append((str(error).strip() or type(error).__name__).splitlines()[0])
    pairs = zip((*texts, "their sizes and special tokens"), *read, strict=True) if len(read) == 2 else ()
    differing = [text for text, one, other in pairs if one != other]
    return {"input": failed[0], "output": failed[1], "differing": differing, "texts": len(texts)}


def handle(request: dict) -> int:
    """Loads one output, and writes what was found; returns the exit code."""
    with open(request["errors"], "w", encoding="utf-8", errors="replace") as errors:
        os.dup2(errors.fileno(), 2)
        try:
            answer = load_twice(request["folder"], request["classes"], request["pooler"])
            copies = request["tokenizer"]
            answer["tokens"] = compare_tokens(request["folder"], copies) if copies else None
            Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")
            return 0
        except BaseException:
            traceback.print_exc(file=errors)
            return 1


def report(request: dict, code: int) -> None:
    print(json.dumps({request["folder"]: code}), flush=True)


def serve() -> None:
    """Handles requests until stdin ends; loads that are then under way end with it."""
    received, waiting = b"", []
    # A descriptor that is at its end when the fork is -> process id, request.
    running: dict[int, tuple[int, dict]] = {}
    while True:
        while waiting and len(running) < PARALLEL:
            pid, ended = fork(waiting[0])
            running[ended] = pid, waiting.pop(0)
        ready = select.select([0, *running], [], [])[0]
        for ended in running.keys() & set(ready):
            pid, request = running.pop(ended)
            os.close(ended)
            report(request, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        if 0 in ready:
            if not (data := os.read(0, 1 << 16)):  # the converter has ended
                for pid, _ in running.values():
                    os.kill(pid, signal.SIGKILL)
                return
            *lines, received = (received + data).split(b"\n")
            waiting += map(json.loads, lines)


def fork(request: dict) -> tuple[int, int]:
    """Handles a request in a fork; returns its process id and a descriptor that is at its end when the fork is."""
    ended, held = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ended)
        os._exit(handle(request))  # taking the interpreter down in order would take half a second
    os.close(held)
    return pid, ended


def import_all() -> None:
    """Does what every load begins with: imports, and tables that the first load builds. Each fork has them."""
    for name in UNNEEDED:
        sys.modules.setdefault(name, None)  # as if it were not installed
    gc.disable()  # all that is imported stays; looking for garbage takes a sixth of the imports' time
    import transformers

    for name in ("AutoTokenizer", "BertTokenizerFast", *sys.argv[1:]):
        getattr(transformers, name)
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    with tempfile.TemporaryDirectory() as folder:
        transformers.BertModel(transformers.BertConfig(**dict.fromkeys(sizes, 1))).save_pretrained(folder)
        transformers.AutoModel.from_pretrained(folder)
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    import_all()
    if FORKS:
        serve()
        # The converter removes this folder itself, unless it was killed.
        shutil.rmtree(Path(os.environ["HF_MODULES_CACHE"]).parent, ignore_errors=True)
    elif line := sys.stdin.readline():
        report(json.loads(line), handle(json.loads(line)))
    os._exit(0)
