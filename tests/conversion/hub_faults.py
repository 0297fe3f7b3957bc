"""A Hub that misbehaves, and a fresh process with the real client that converts against it, one command at a time."""

import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from checkpoints import ROOT
from programs import CHILDREN

SLOW = 30  # seconds: longer than any test waits


class Done:
    """What came of a command: its exit code, what it printed, seconds, and the process's peak in MB so far."""

    def __init__(self, code: int, out: str, err: str, seconds: float, peak: float):
        self.code, self.out, self.err, self.seconds, self.peak = code, out, err, seconds, peak

    @property
    def refusal(self) -> str:
        """The one line of a refusal, without what was said on the way."""
        assert self.code == 1, (self.code, self.err)
        *_, last = self.err.splitlines()
        assert last.startswith("error: "), self.err
        assert self.err.count("error: ") == 1, self.err
        return last.removeprefix("error: ")

    @property
    def report(self) -> dict:
        assert self.code == 0, self.err
        return json.loads(self.out)


class Converter:
    """`with Converter(cwd, **env) as converter: converter.run(*argv)`."""

    def __init__(self, cwd: Path, table: tuple[str, ...] = (), **env: str):
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHONPATH"))}
        self.cwd = cwd
        self._process = subprocess.Popen(
            [sys.executable, CHILDREN / "commands.py", ROOT, json.dumps(table)],
            cwd=cwd, env=kept | env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._process.stdin.close()
        self._process.kill()  # what the Hub never answered is still waited for, in threads
        self._process.wait()
        self._process.stdout.close()

    def run(self, *argv, cwd: Path | None = None, **env: str) -> Done:
        order = {"argv": [str(it) for it in argv], "env": env, "cwd": str(cwd or self.cwd)}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return Done(*json.loads(self._process.stdout.readline()))


# Faults, as `HubServer.fault` calls them: each answers the request that a handler has read.


def silent(handler) -> bool:
    time.sleep(SLOW)
    return True


def drips(handler) -> bool:
    """A byte now and then, each well before a client's own time limit, which starts anew with each."""
    _promise(handler)
    return _drip(handler, b"{")


def drips_headers(handler) -> bool:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    return _drip(handler, b"A")


def _promise(handler) -> None:
    """The head of an answer that would be right."""
    head = "200 OK\r\nContent-Length: 2000"
    if found := handler.headers["Range"]:
        first, last = map(int, found.removeprefix("bytes=").split("-"))
        head = f"206 Part\r\nContent-Length: {last + 1 - first}\r\nContent-Range: bytes {first}-{last}/1000000"
    handler.wfile.write(f"HTTP/1.1 {head}\r\n\r\n".encode())


def _drip(handler, byte: bytes) -> bool:
    for _ in range(5 * SLOW):
        time.sleep(0.2)
        handler.wfile.write(byte)
    return True


def endless(handler) -> bool:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 0-7/9\r\n\r\n")
    while True:  # until the client has had enough, and the write fails
        handler.wfile.write(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")


def endless_error(handler) -> bool:
    handler.wfile.write(b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        handler.wfile.write(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")


def reset(handler) -> bool:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    raise ConnectionResetError


def redirects(handler) -> bool:
    return status(307, Location=handler.path)(handler)


def status(number: int, body: bytes = b"", **headers: str):
    """Answers with a status, and with headers whose names have `_` in place of `-`."""

    def fault(handler) -> bool:
        handler._begin(number, len(body), **{name.replace("_", "-"): value for name, value in headers.items()})
        handler.wfile.write(body if handler.command != "HEAD" else b"")
        return True

    return fault


def truncated(handler) -> bool:
    _promise(handler)
    handler.close_connection = True
    return True


def ignores_ranges(handler) -> None:
    """As a proxy that caches whole files does."""
    if handler.headers["Range"]:
        del handler.headers["Range"]


def shifts_ranges(handler) -> None:
    if found := handler.headers["Range"]:
        del handler.headers["Range"]
        first, last = found.removeprefix("bytes=").split("-")
        handler.headers["Range"] = f"bytes={first}-{int(last) + 1}"


def only(path: str, fault):
    """`fault` of the requests whose path ends so."""
    return lambda handler: handler.path.partition("?")[0].endswith(path) and fault(handler)


def times(count: int, fault):
    """`fault` of the first requests."""
    left = [fault] * count
    return lambda handler: left.pop()(handler) if left else False
