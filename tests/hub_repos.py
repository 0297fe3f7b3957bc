"""The repositories of the tests' Hub: files as git and git-lfs hold them, commits, branches, tags."""

import functools
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

LFS_SUFFIXES = (".bin", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors")


class HubError(Exception):
    """An error as the Hub words it: the client chooses its exception by X-Error-Code more than by the status."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": message}
        self.headers = headers | {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


def is_lfs(path: str, size: int) -> bool:
    """The Hub's default .gitattributes, and its limit for what may live in git itself."""
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > 10 * 1024**2)


class Blob:
    """One file: bytes, or a file on disk that is read when it is asked for."""

    def __init__(self, path: str, data: bytes | Path) -> None:
        self.data = data
        self.size = data.stat().st_size if isinstance(data, Path) else len(data)
        self.lfs = is_lfs(path, self.size)

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        stop = self.size if stop is None else stop
        if isinstance(self.data, bytes):
            return self.data[start:stop]
        with self.data.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    @functools.cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for start in range(0, self.size, 2**20):
            digest.update(self.read(start, start + 2**20))
        return digest.hexdigest()

    @functools.cached_property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @functools.cached_property
    def oid(self) -> str:
        """git's name of what git holds: the file, or the pointer to the LFS object."""
        content = self.pointer if self.lfs else self.read()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass
class Commit:
    sha: str
    title: str
    description: str
    files: dict[str, Blob]


@dataclass
class Repo:
    id: str
    private: bool = False
    gated: bool = False
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit:
        """A branch, a tag, or any commit that ever was, by its full sha."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        for commit in self.commits:
            if commit.sha == sha:
                return commit
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, files: dict[str, Blob], title: str, description: str = "", branch: str = "main") -> str:
        names = "".join(f"{path} {blob.oid}\n" for path, blob in sorted(files.items()))
        sha = hashlib.sha1(f"{self.id} {len(self.commits)} {title}\n{names}".encode()).hexdigest()
        self.commits.append(Commit(sha, title, description, files))
        self.branches[branch] = sha
        return sha


@dataclass
class Request:
    """A line of the log; `sent` counts the bytes of the answer's body that went out."""

    method: str
    path: str
    range: str | None
    status: int
    sent: int = 0
