"""What users of the Hub do, with its real client; the arguments are the name of a function here and its own."""

import json
import sys
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError

api = HfApi()


def outcome(call):
    """What a call gives, or the name of what it raises."""
    try:
        return call()
    except EntryNotFoundError:
        return "EntryNotFoundError"  # newer clients raise a subclass
    except Exception as error:
        return type(error).__name__


def download(repo, *names, revision=None):
    return [Path(hf_hub_download(repo, name, revision=revision)).read_bytes().decode("latin-1") for name in names]


def snapshot(repo, *names):
    return [snapshot_download(repo), *(hf_hub_download(repo, name) for name in names)]


def revisions(*names):
    return [download("user/repo", "config.json", revision=name)[0] for name in names]


def listings(repo):
    info, refs = api.model_info(repo, files_metadata=True), api.list_repo_refs(repo)
    return [
        [info.id, info.sha, info.private, info.gated],
        {file.rfilename: file.size for file in info.siblings},
        sorted(file.path for file in api.list_repo_tree(repo)),
        sorted(api.list_repo_files(repo, revision="v1")),
        [
            (file.path, file.lfs and file.lfs.size)
            for file in api.get_paths_info(repo, ["config.json", "model.safetensors", "none"])
        ],
        [(ref.name, ref.target_commit) for ref in refs.branches + refs.tags],
    ]


def ranges(*pairs):
    with HfFileSystem().open("user/repo/model.safetensors", cache_type="none") as file:
        found = []
        for start, length in (map(int, pair.split("+")) for pair in pairs):
            file.seek(start)
            found.append(list(file.read(length)))
    return found


def upload(repo, folder):
    api.create_repo(repo, private=True)
    api.create_repo(repo, exist_ok=True)
    urls = [api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Pooled").commit_url for _ in "12"]
    api.create_tag(repo, tag="v1")
    api.create_branch(repo, branch="next")
    api.delete_file("README.md", repo, revision="next")
    return [api.whoami()["name"], urls, outcome(lambda: api.create_repo(repo))]


def create_and_upload(repo, file):
    api.create_repo(repo)
    return outcome(lambda: api.upload_file(path_or_fileobj=file, path_in_repo=file, repo_id=repo))


def read(repo):
    return [
        outcome(lambda: api.model_info(repo).id),
        outcome(lambda: download(repo, "config.json")[0]),
        outcome(lambda: HfFileSystem().open(f"{repo}/config.json", cache_type="none").read(2).decode()),
    ]


def access(*repos):
    return [read(repo) for repo in repos]


def write(repo, new):
    return [outcome(lambda: api.create_repo(new)), outcome(lambda: api.delete_file("config.json", repo))]


def missing(repo):
    return [
        outcome(lambda: api.model_info(repo, revision="none")),
        outcome(lambda: download(repo, "config.json", revision="none")),
        outcome(lambda: download(repo, "none")),
    ]


def renamed(repo):
    return [api.model_info(repo).id, *download(repo, "config.json"), Path(snapshot_download(repo)).is_dir()]


def whole(repo, name):
    """The client's version, and the size of a file that it downloaded."""
    return [huggingface_hub.__version__, outcome(lambda: Path(hf_hub_download(repo, name)).stat().st_size)]


print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
