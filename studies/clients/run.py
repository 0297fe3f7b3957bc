# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What do the clients that people use make of a converted folder: the pooler's vector, or another one?

Each client is installed in an environment of its own, opens the folders as its users open them (the line of code is in
clients.py, and is what runs), and encodes a few sentences. What it gives is compared with what stock BertModel
gives for the same weights. The table of docs/clients.md comes from the record, studies/results/clients.json.

    python studies/clients/run.py                  # all clients: two hours on two cores, one environment at a time
    python studies/clients/run.py KeyBERT flair    # some of them; the record keeps what it has of the others
    python studies/clients/run.py --show           # the table of the record; --page writes it into docs/clients.md

Run it from the environment of the tests (`pip install ".[test]"`), with pip and npm at hand. Where torch has a GPU
build by default, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves gigabytes in each environment.
"""

import argparse
import functools
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "benchmarks"))
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import documents
import torch
from clients import CLIENTS, FORMATS, Client
from environments import environment, last_error, ran
from records import RESULTS, read_json, versions, write_json
from texts import minilm
from training import quiet
from transformers import AutoTokenizer, BertForMaskedLM, BertForPreTraining, BertModel

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs" / "clients.md"
RECORD = RESULTS / "clients.json"
TEXTS = [
    "A sentence.",
    "Another one.",
    "The pooler reads the state of the first token and nothing else.",
    "What was the donor of this checkpoint?",
    "北京是中国的首都。",
    "Iterators return their items one at a time, and raise StopIteration when there are none left to return.",
    "1, 2, 3: go!",
    "Continued pre-training on domain text moves the encoder; the pooler, which no masked token reaches, stays where "
    "it was, so that the two drift apart, slowly at first, and faster the higher the learning rate is.",
]
TOLERANCE = 1e-5  # of a float32 vector: kernels, batches and exported graphs round differently
LINE = 160  # characters of an error that are quoted


# Folders to open.


def grafted(folder: Path) -> None:
    """The real encoder and tokenizer of MiniLM, converted to each format.

    Its own pooler was never trained, and it has no MLM head: both are drawn at random here. Who reads the pooler shows
    with any pooler, as long as it is not one that gives almost the same vector for all texts.
    """
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    torch.manual_seed(0)
    donor = BertForPreTraining.from_pretrained(minilm())
    with torch.no_grad():
        donor.bert.pooler.dense.weight.normal_(std=0.1)
        donor.bert.pooler.dense.bias.normal_(std=0.1)
    donor.save_pretrained(folder / "donor")
    BertForMaskedLM.from_pretrained(folder / "donor").save_pretrained(folder / "lost")
    for name in ("donor", "lost"):
        tokenizer.save_pretrained(folder / name)
    for name in FORMATS:
        command = [ROOT / "convert.py", "lost", "--pooler-from", "donor", "--format", name, "-o", name, "-q"]
        subprocess.run([sys.executable, *command], cwd=folder, check=True)
    BertModel.from_pretrained(folder / "bert").save_pretrained(folder / "bare")
    tokenizer.save_pretrained(folder / "bare")


@functools.cache
@torch.no_grad()
def references(folder: Path) -> dict[str, torch.Tensor]:
    """What a client can mean by the vectors of TEXTS, each also normalized, by stock BertModel."""
    inputs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(TEXTS, padding=True, return_tensors="pt")
    output = BertModel.from_pretrained(folder).eval()(**inputs)
    states, mask = output.last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
    return {
        "pooler_output": output.pooler_output,
        "raw [CLS]": states[:, 0],
        "mean of the tokens": (states * mask).sum(1) / mask.sum(1),
    }


@functools.cache
@torch.no_grad()
def splade(folder: Path) -> torch.Tensor:
    """SPLADE's vectors of TEXTS, one number for each word of the vocabulary, by stock BertForMaskedLM."""
    inputs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(TEXTS, padding=True, return_tensors="pt")
    weights = BertForMaskedLM.from_pretrained(folder).eval()(**inputs).logits.relu().log1p()
    return (weights * inputs["attention_mask"].unsqueeze(-1)).amax(1)


def judged(vectors: list[list[float]], known: dict[str, torch.Tensor]) -> dict:
    """Which of the references the vectors are; where they are none, which one is nearest in direction."""
    found = torch.tensor(vectors)
    known = {name: reference for name, reference in known.items() if reference.shape == found.shape}
    if not known:
        return {"gives": f"neither: vectors of the shape {tuple(found.shape)}"}
    differences = {}
    for name, reference in known.items():
        differences[name, False] = (found - reference).abs().max().item()
        differences[name, True] = (found - torch.nn.functional.normalize(reference)).abs().max().item()
    (name, normalized), difference = min(differences.items(), key=lambda item: item[1])
    if difference <= TOLERANCE:
        return {"gives": name, "normalized": normalized, "difference": difference}
    cosines = {name: torch.cosine_similarity(found, reference).min().item() for name, reference in known.items()}
    name = max(cosines, key=cosines.get)
    if cosines[name] < 0.5:
        return {"gives": f"**other vectors**: cosines to the nearest from {cosines[name]:.2f}"}
    return {"gives": f"near {name}", "normalized": bool((found.norm(dim=1) - 1).abs().max() < 1e-3),
            "difference": differences[name, False], "cosine": cosines[name]}  # fmt: skip


# Clients.


def installed(client: Client, folder: Path) -> tuple[list, dict[str, str]]:
    """The command that runs the client's program in a new environment, and the versions in it."""
    if client.program.endswith(".mjs"):
        folder.mkdir(parents=True, exist_ok=True)
        ran(["npm", "install", "--ignore-scripts", "--no-save", "--prefix", folder, *client.packages], folder)
        manifests = [folder / "node_modules" / name / "package.json" for name in client.packages]
        shutil.copy(HERE / "programs" / client.program, folder)  # node looks for packages beside the program
        read = [json.loads(path.read_text(encoding="utf-8")) for path in manifests]
        return ["node", folder / client.program], {package["name"]: package["version"] for package in read}
    python, versions = environment(folder, *client.packages, without=client.without, alone=client.alone)
    shown = {re.split(r"[=<>\[]", package)[0] for package in client.packages}
    shown |= {"sentence-transformers", "torch", "transformers"}
    shown = {name: versions[name] for name in sorted(shown & versions.keys())}
    return [python, HERE / "programs" / client.program], shown


def shortened(message: str, folders: Path) -> str:
    """What an error says, in one line that is the same wherever the folders lie."""
    message = last_error(message)
    message = re.sub(rf"{re.escape(str(folders))}/\w+(?=/)?", "FOLDER", message).replace(str(Path.home()), "~")
    return message if len(message) <= LINE else message[:LINE].rsplit(" ", 1)[0] + " …"


def asked(name: str, folders: Path, keep: bool) -> dict:
    """What one client makes of its folders, in an environment beside them."""
    client, home = CLIENTS[name], folders / "environments" / re.sub(r"\W+", "-", name).lower()
    result = {"packages": list(client.packages)}
    try:
        command, result["versions"] = installed(client, home)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return result | {"not_run": f"cannot be installed: {shortened(str(error), folders)}"}
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch, "runs.json")
        opened = [run for run in client.runs for _ in range(2 if run[0] in client.twice else 1)]
        runs.write_text(json.dumps({"texts": TEXTS, "runs": [(str(folders / f), call) for f, call in opened]}))
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": scratch, "TOKENIZERS_PARALLELISM": "false"}
        try:
            printed = ran([*command, runs], Path(scratch), **offline)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            return result | {"not_run": f"does not start: {shortened(str(error), folders)}"}
        said = [json.loads(line) for line in printed.splitlines() if line.startswith(('{"vectors"', '{"error"'))]
        answered = [*zip(opened, said, strict=True)]
        result["runs"] = [
            {"format": run[0], "call": run[1], **heard([answer for of, answer in answered if of == run], folders)}
            for run in client.runs
        ]
    if not keep:
        shutil.rmtree(home)
    return result


def heard(answers: list[dict], folders: Path) -> dict:
    """What the vectors of a run are. Where two loads give two answers, they are random."""
    answer = answers[0]
    if "error" in answer:
        return {"error": shortened(answer["error"], folders)}
    loads = [torch.tensor(it["vectors"]) for it in answers]
    if len(loads) == 2 and (loads[0] - loads[1]).abs().max() > TOLERANCE:
        cosines = torch.cosine_similarity(*loads)
        return {"gives": f"**random**: cosines of two loads {cosines.min():.2f} to {cosines.max():.2f}"}
    folder = Path(answer.get("weights", folders / "bert"))
    known = references(folder)
    if loads[0].shape[1] > known["pooler_output"].shape[1]:
        known = {"SPLADE": splade(folder)}
    return judged(answer["vectors"], known)


# The record and the page.


def outcome(run: dict) -> list[str]:
    if "error" in run:
        return [f"**fails**: {run['error']}", "", ""]
    if "difference" not in run:
        return [run["gives"], "", ""]
    near = f"{run['difference']:.0e}" if run["difference"] else "0"
    near += f", cosine {run['cosine']:.4f}" if "cosine" in run else ""
    return [run["gives"], "yes" if run["normalized"] else "no", near]


def alike(run: dict) -> tuple:
    """What puts two folders into one line of the table."""
    return run["call"], run.get("gives"), run.get("normalized"), run.get("error"), "cosine" in run


def table(record: dict) -> str:
    lines = []
    for name in CLIENTS:
        found = record["clients"].get(name)
        if found is None or "not_run" in found:
            why = found["not_run"] if found else "not yet"
            lines.append([name, "", "", f"not run: {why}", "", ""])
            continue
        package = re.split(r"[=<>\[]", CLIENTS[name].packages[0])[0]
        shown = f"{name} {found['versions'][package]}"
        if re.search(r" \d", name):
            shown = f"{package} {found['versions'][package]}"
        groups = {}
        for run in found["runs"]:
            groups.setdefault(alike(run), []).append(run)
        for runs in groups.values():
            worst = max(runs, key=lambda run: run.get("difference", 0))
            cells = [shown, ", ".join(run["format"] for run in runs), f"`{worst['call']}`", *outcome(worst)]
            lines.append([cell.replace("|", "\\|") for cell in cells])
    return documents.markdown_table(["client", "format", "opened by", "gives", "normalized", "difference"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"default: all. {', '.join(CLIENTS)}")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave folders and environments there, to use again")
    parser.add_argument("--show", action="store_true", help="print the table of the record, run nothing")
    parser.add_argument("--page", action="store_true", help="write it into docs/clients.md, run nothing")
    args = parser.parse_args()
    if unknown := {*args.clients} - CLIENTS.keys():
        parser.error(f"no such client: {', '.join(sorted(unknown))}")
    if args.show or args.page:
        text = table(read_json(RECORD))
        print(text)
        if args.page:
            documents.update(PAGE, "studies/clients/run.py", {"table": text})
        return
    quiet(2)
    with tempfile.TemporaryDirectory() as temporary:
        folders = (args.keep or Path(temporary)).resolve()
        if not (folders / FORMATS[-1]).exists():
            grafted(folders)
        for name in args.clients or CLIENTS:
            found = asked(name, folders, keep=bool(args.keep))
            print(name, json.dumps(found, indent=1, ensure_ascii=False), flush=True)
            record = read_json(RECORD) | {"references": versions(), "tolerance": TOLERANCE, "texts": TEXTS}
            answers = record["clients"] | {name: found}
            record["clients"] = {name: answers[name] for name in CLIENTS if name in answers}
            write_json(RECORD, record)


if __name__ == "__main__":
    main()
