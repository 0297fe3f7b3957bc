"""The Hub's HTTP protocol, as far as its real client asks for it. Each docstring says which behaviour it follows.

What differs on purpose: LFS files are answered in place, not by a redirect to a storage host, there is no Xet
(`HubServer.environment` turns it off), a listing has one page, and any model card is valid.
"""

import base64
import hashlib
import json
import re
import socket
from http.server import BaseHTTPRequestHandler
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from hub_repos import LFS_SUFFIXES, Blob, Commit, HubError, Repo, Request, is_lfs

DATE = "2026-01-01T00:00:00.000Z"
# One part for old names ("bert-base-chinese"), two for all others.
REPO = r"(?P<repo>[^/]+(?:/(?!(?:refs|resolve|revision|tree)(?:/|$))[^/]+)?)"
REVISION = r"(?P<revision>[^/]+)"
# Which method answers, and may therefore be asked for by anyone; `write_…` needs the right to write.
ROUTES = {
    rf"/api/models/{REPO}(?:/revision/{REVISION})?": "info",
    rf"/api/models/{REPO}/tree/{REVISION}(?:/(?P<path>.+))?": "tree",
    rf"/{REPO}/resolve/{REVISION}/(?P<path>.+)": "resolve",
    r"/api/validate-yaml": "validate_yaml",
    r"/api/repos/create": "create",
    rf"/api/models/{REPO}/preupload/{REVISION}": "write_preupload",
    rf"/{REPO}\.git/info/lfs/objects/batch": "lfs_batch",
    r"/lfs/(?P<oid>[0-9a-f]{64})": "upload",
    r"/lfs/(?P<oid>[0-9a-f]{64})/verify": "verify",
    rf"/api/models/{REPO}/commit/{REVISION}": "write_commit",
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, hub, *args) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, *args) -> None:
        """Quiet: the log is `HubServer.log`."""

    def _handle(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.fault is not None and self.hub.fault(self):
            return
        try:
            answer = self._route(url.path)
        except HubError as error:
            self._send(error.status, error.body, **error.headers)
        else:
            if answer is not None:
                self._send(200, answer)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _route(self, path: str) -> dict | list | None:
        """What to answer; None if the answer is out already."""
        for pattern, name in ROUTES.items():
            if match := re.fullmatch(pattern, path):
                found = {key: unquote(value) for key, value in match.groupdict().items() if value}
                if "repo" in found:
                    write = name.startswith("write_") and "create_pr" not in self.query
                    found["repo"] = self._repo(found["repo"], write)
                return getattr(self, name)(**found)
        raise HubError(404, "Sorry, we can't find the page you are looking for.")

    def _begin(self, status: int, size: int, **headers: str) -> Request:
        request = Request(self.command, urlsplit(self.path).path, self.headers.get("Range"), status)
        self.hub.log.append(request)
        self.send_response(status)
        for name, value in {"Content-Length": str(size), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        return request

    def _send(self, status: int, answer: dict | list, **headers: str) -> None:
        body = json.dumps(answer).encode()
        request = self._begin(status, len(body), **{"Content-Type": "application/json", **headers})
        if self.command != "HEAD":
            request.sent = len(body)
            self.wfile.write(body)

    # Rights

    def _token(self, needed: bool = False) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        if token not in (None, self.hub.TOKEN, self.hub.STRANGER):
            raise HubError(401, "Invalid credentials in Authorization header")
        if token is None and needed:
            raise HubError(401, "Invalid username or password.")
        return token

    def _repo(self, repo_id: str, write: bool) -> Repo:
        """The Hub doesn't tell whether a private repository exists: 404 to a stranger, 401 to the anonymous.

        (By 401 alone the client takes it for not found at https addresses only: hence the code.)
        """
        token = self._token()
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and token != self.hub.TOKEN):
            raise HubError(404 if token else 401, "Repository not found", "RepoNotFound")
        if write and self._token(needed=True) != self.hub.TOKEN:
            raise HubError(403, "Forbidden: you have no right to write here")
        return repo

    # Reading

    def info(self, repo: Repo, revision: str = "main") -> dict:
        """Public also for a gated repository."""
        commit = repo.at(revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        state = {"private": repo.private, "gated": "auto" if repo.gated else False, "disabled": False}
        # huggingface_hub 0.23 asks for both counts.
        facts = {"lastModified": DATE, "createdAt": DATE, "downloads": 0, "likes": 0}
        return {"id": repo.id, "modelId": repo.id, "sha": commit.sha, "siblings": siblings, "tags": []} | state | facts

    def _entries(self, commit: Commit) -> list[dict]:
        """Folders too, as git has them."""
        folders = {str(parent) for path in commit.files for parent in PurePosixPath(path).parents} - {"."}
        entries = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders]
        for path, blob in commit.files.items():
            entries.append({"type": "file", "path": path, "oid": blob.oid, "size": blob.size})
            if blob.lfs:
                entries[-1]["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
        return sorted(entries, key=lambda entry: entry["path"])

    def tree(self, repo: Repo, revision: str, path: str = "") -> list[dict]:
        entries = self._entries(repo.at(revision))
        if path and not any((entry["path"], entry["type"]) == (path, "directory") for entry in entries):
            raise HubError(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
        prefix = path + "/" if path else ""
        below = [entry for entry in entries if entry["path"].startswith(prefix)]
        if self.query.get("recursive", "").lower() == "true":
            return below
        return [entry for entry in below if "/" not in entry["path"].removeprefix(prefix)]

    def resolve(self, repo: Repo, revision: str, path: str) -> None:
        """The file, whole or by range, with the headers that the client's cache is built on.

        A gated repository refuses its files to whoever has no access: 401 to the anonymous, 403 to a stranger.
        """
        if repo.gated and self._token() != self.hub.TOKEN:
            status = 403 if self._token() else 401
            raise HubError(status, f"Access to model {repo.id} is restricted.", "GatedRepo")
        commit = repo.at(revision)
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.sha})
        blob = commit.files[path]
        headers["ETag"] = f'"{blob.etag}"'
        if blob.lfs:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(blob.size)}
        start, stop, status = 0, blob.size, 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = match.groups()
            start = int(first)
            stop = min(int(last) + 1, blob.size) if last else blob.size
            if start >= stop:
                raise HubError(416, "Range not satisfiable", **{"Content-Range": f"bytes */{blob.size}"})
            status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{blob.size}"
        request = self._begin(status, stop - start, **headers)
        if self.command != "HEAD":
            self._send_file(request, blob, start, stop)

    def _send_file(self, request: Request, blob: Blob, start: int, stop: int) -> None:
        cut = self.hub.cut_after is not None and self.hub.cut_after < stop - start
        if cut:
            stop = start + self.hub.cut_after
            self.hub.cut_times -= 1
            if self.hub.cut_times == 0:
                self.hub.cut_after, self.hub.cut_times = None, 1
        for position in range(start, stop, 2**20):
            chunk = blob.read(position, min(position + 2**20, stop))
            request.sent += len(chunk)
            self.wfile.write(chunk)
        if cut:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    # Writing

    def validate_yaml(self) -> dict:
        return {"errors": [], "warnings": []}

    def create(self) -> dict:
        """Private by `private` or, from newer clients, by `visibility`; 409 and its address if it exists."""
        wanted = json.loads(self.body)
        repo = Repo(f"{wanted.get('organization') or 'user'}/{wanted['name']}")
        if self._token(needed=True) != self.hub.TOKEN:
            raise HubError(403, f"You don't have the rights to create a model under the namespace of {repo.id}")
        if repo.id in self.hub.repos:
            error = HubError(409, "You already created this model repo")
            error.body["url"] = f"{self.hub.url}/{repo.id}"
            raise error
        repo.private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        rules = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repo.commit({".gitattributes": Blob(".gitattributes", rules.encode())}, "initial commit")
        self.hub.repos[repo.id] = repo
        return {"url": f"{self.hub.url}/{repo.id}", "name": repo.id}

    def write_preupload(self, repo: Repo, revision: str) -> dict:
        """Which way each file goes, and what is there now, so that the client leaves out what hasn't changed."""
        present, files = repo.at(revision).files, []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            files.append({"path": path, "uploadMode": "regular", "shouldIgnore": False})
            if is_lfs(path, file["size"]):
                files[-1]["uploadMode"] = "lfs"
            if path in present:
                files[-1]["oid"] = present[path].etag
        return {"files": files}

    def lfs_batch(self, repo: Repo) -> dict:
        """git-lfs' batch API with its "basic" transfer; no actions for an object that is there already.

        Open to every token: who may open a pull request brings its files this way too.
        """
        self._token(needed=True)
        objects = json.loads(self.body)["objects"]
        for wanted in objects:
            if wanted["oid"] not in self.hub.objects:
                href = f"{self.hub.url}/lfs/{wanted['oid']}"
                wanted["actions"] = {"upload": {"href": href}, "verify": {"href": href + "/verify"}}
        return {"transfer": "basic", "objects": objects}

    def upload(self, oid: str) -> dict:
        """A PUT without a token, as to the storage host's signed address."""
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "The content does not match its sha256")
        self.hub.objects[oid] = self.body
        return {}

    def verify(self, oid: str) -> dict:
        if len(self.hub.objects.get(oid, b"")) != json.loads(self.body)["size"]:
            raise HubError(404, "Object not found")
        return {}

    def write_commit(self, repo: Repo, revision: str) -> dict:
        """One commit out of lines of JSON: a header, small files in base64, LFS files by their sha256.

        With `create_pr` it goes to a branch of its own, and needs a token, but no right to write.
        """
        self._token(needed=True)
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        head = repo.at(repo.branches.get(revision, revision))
        if header["value"].get("parentCommit", head.sha) != head.sha:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for operation in operations:
            key, value = operation["key"], operation["value"]
            path = value["path"].rstrip("/")
            if key == "file":
                files[path] = Blob(path, base64.b64decode(value["content"]))
            elif key == "lfsFile" and value["oid"] in self.hub.objects:
                files[path] = Blob(path, self.hub.objects[value["oid"]])
            elif key in ("deletedFile", "deletedFolder"):
                files = {name: blob for name, blob in files.items() if not (name + "/").startswith(path + "/")}
            else:
                raise HubError(400, f"Invalid operation {key!r} on {path}")
        number = sum(name.startswith("refs/pr/") for name in repo.branches) + 1
        branch = f"refs/pr/{number}" if "create_pr" in self.query else revision
        sha = repo.commit(files, header["value"]["summary"], header["value"].get("description", ""), branch)
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo.id}/commit/{sha}"}
        if branch != revision:
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo.id}/discussions/{number}"
        return answer
