"""A loopback server in the place of the Hugging Face Hub, for its real client.

The repositories live in memory, or in the folders that they were added from. What it answers: hub_protocol.py.
"""

import functools
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hub_protocol import Handler
from hub_repos import Blob, Commit, Repo, Request


class HubServer:
    """`with HubServer() as server:` answers at `server.url`, which is the client's HF_ENDPOINT.

    `TOKEN` belongs to "user", who may read and write everything; `STRANGER` is a valid token without any access.
    `cut_after = n` closes the connection after n bytes of the next file body that is longer, `cut_times` times;
    `fault`, called with the handler of each request, answers it in its own way if it returns true. After the `with`
    the port refuses connections.
    """

    TOKEN = "hf_loopback"
    STRANGER = "hf_stranger"

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """As new, at the same address."""
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.log: list[Request] = []
        self.cut_after: int | None = None
        self.cut_times = 1
        self.fault: Callable[[BaseHTTPRequestHandler], object] | None = None

    def __enter__(self) -> "HubServer":
        self._http = _Http(("127.0.0.1", 0), functools.partial(Handler, self))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        # The default poll of half a second would be what __exit__ takes.
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._http.shutdown()
        self._http.server_close()

    def add_repo(
        self, repo_id: str, files: Path | dict[str, bytes], private: bool = False, gated: bool = False
    ) -> str:
        """Makes the repository, or moves its `main` to these files. Returns the commit's sha."""
        if isinstance(files, Path):
            files = {path.relative_to(files).as_posix(): path for path in files.rglob("*") if path.is_file()}
        repo = self.repos.setdefault(repo_id, Repo(repo_id))
        repo.private, repo.gated = private, gated
        return repo.commit({path: Blob(path, data) for path, data in files.items()}, "Upload folder")

    def add_tag(self, repo_id: str, tag: str, revision: str = "main") -> None:
        self.repos[repo_id].tags[tag] = self.repos[repo_id].at(revision).sha

    def commits(self, repo_id: str) -> list[Commit]:
        """Oldest first; a repository made by the client starts with the Hub's own "initial commit"."""
        return self.repos[repo_id].commits

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        return {path: blob.read() for path, blob in self.repos[repo_id].at(revision).files.items()}

    def bytes_sent(self, path_suffix: str = "") -> int:
        return sum(request.sent for request in self.log if request.path.endswith(path_suffix))

    def environment(self, folder: Path, token: str | None = None) -> dict[str, str]:
        """For a fresh process with its cache in `folder`: the client reads these variables while it is imported."""
        variables = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(folder / "hf-home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            # Given only bins, transformers would ask a Space outside HF_ENDPOINT to convert them.
            "DISABLE_SAFETENSORS_CONVERSION": "true",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        return variables | ({"HF_TOKEN": token} if token else {})


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        """Clients that go away are what some tests are about; a mistake of this file is not."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)
