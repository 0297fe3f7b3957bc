# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The verification's fresh process: loads a folder through the user's own doors, and says whether anything is random.

    python load_twice.py FOLDER ANSWER.json TOKENIZER AutoModel [AutoModelForMaskedLM]

The first door is gone through twice. TOKENIZER holds copies of the input's tokenizer, without code; "" for none.
"""

import gc
import json
import os
import sys
import threading
from pathlib import Path

if os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
    del sys.path[0]  # this folder's modules have names that others may have as well

# Cases and accents, scripts with and without spaces, composed and decomposed, specials, what no vocabulary has.
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
# transformers imports these where it finds them, for nothing that loads a BERT: a quarter of the whole process's time.
UNNEEDED = ("accelerate", "scipy", "sklearn", "torchvision")
# What 4.x does not store, and ties when it has loaded: under `torchscript`, it reports it as missing.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def load_twice(folder: str, doors: list[str]) -> dict:
    """What each door leaves missing, whether the pooler is the one that is stored, and whether two loads agree."""
    import torch
    import transformers
    from safetensors import safe_open

    torch.set_num_threads(1)  # the other process compares tensors meanwhile
    found: dict = {"missing": [], "mismatched": [], "pooler_equal": True, "loads_equal": True}
    with safe_open(Path(folder, "2_Dense", "model.safetensors"), "pt") as stored:
        dense = {name: stored.get_tensor(f"linear.{name}") for name in ("weight", "bias")}

    def check(door: str, times: int) -> None:
        """In a function: of the models, one is in memory at a time."""
        outputs, model = [], None
        for _ in range(times):
            del model
            model, info = getattr(transformers, door).from_pretrained(
                folder, trust_remote_code=True, output_loading_info=True
            )
            ids = torch.arange(min(model.config.vocab_size, model.config.max_position_embeddings, 16))[None]
            with torch.no_grad():
                output = model.eval()(ids, attention_mask=torch.ones_like(ids), return_dict=True)
            outputs.append([value for value in output.values() if isinstance(value, torch.Tensor)])
        state = model.state_dict()
        tied = {copy for copy, it in TIED.items() if copy in state and torch.equal(state[copy], state[it])}
        found["missing"] += sorted({*info["missing_keys"]} - tied - {*found["missing"]})
        found["mismatched"] += sorted(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])
        found["loads_equal"] &= all(
            torch.equal(one, other) for one, other in zip(outputs[0], outputs[-1], strict=True)
        )
        pooler = getattr(getattr(model, "bert", model), "pooler", None)
        if pooler is not None:  # stock BertForMaskedLM has none
            parameters = dict(pooler.dense.named_parameters())
            found["pooler_equal"] &= all(
                torch.equal(parameters[it], dense[it].to(parameters[it].dtype)) for it in dense
            )

    for number, door in enumerate(doors):
        check(door, 1 if number else 2)
    return found


def compare_tokens(folder: str, copies: str) -> dict:
    """What each tokenizer could not be loaded for, and the texts of which the two say different things."""
    from transformers import AutoTokenizer

    said, failed, texts = [], [], list(TEXTS)
    for place, trusted in ((copies, False), (folder, True)):
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=trusted)
            if not said:  # words that its vocabulary has: of a small one, most of those texts are unknown
                words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
                known = " ".join(words[:: len(words) // 500 + 1])
                texts += [known, known.swapcase(), known.replace(" ", "")]
            read = [[*tokenizer(text)["input_ids"], *tokenizer(text, "x")["input_ids"]] for text in texts]
            said.append([*read, [len(tokenizer), *sorted(tokenizer.all_special_ids)]])
            failed.append(None)
        except Exception as error:  # whatever a class and its libraries raise
            failed.append((str(error).strip() or type(error).__name__).splitlines()[0])
    pairs = zip((*texts, "their sizes and special tokens"), *said, strict=True) if len(said) == 2 else ()
    differing = [text for text, one, other in pairs if one != other]
    return {"input": failed[0], "output": failed[1], "differing": differing, "texts": len(texts)}


written = threading.Event()


def listen() -> None:
    """To the parent: a line says that the folder is written; when the other end is closed, this process ends."""
    while os.read(0, 1):
        written.set()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=listen, daemon=True).start()
    for name in UNNEEDED:
        sys.modules.setdefault(name, None)  # as if it were not installed
    gc.disable()  # what is imported stays: looking for what does not is a sixth of the imports' time
    import transformers

    for door in ("AutoTokenizer", "BertModel", *sys.argv[4:]):
        getattr(transformers, door)  # imports it
    gc.freeze()
    gc.enable()
    written.wait()
    answer = load_twice(sys.argv[1], sys.argv[4:])
    answer["tokens"] = compare_tokens(sys.argv[1], sys.argv[3]) if sys.argv[3] else None
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")
    os._exit(0)  # taking apart all that was imported takes Python half a second, for which the other process waits
