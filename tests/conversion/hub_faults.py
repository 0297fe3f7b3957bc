"""A user of the Hub at the command line, and ways in which a Hub fails."""

import json
import shutil
import socket
import struct
import time
from pathlib import Path

from checkpoints import state
from grafting import Conversions

SLOW = 10  # seconds: longer than any test waits


class User:
    """Somebody who converts in a folder; where `home` is given, with an empty cache of the Hub's client at first."""

    def __init__(self, conversions: Conversions, place: Path, home: Path | None = None):
        self._conversions, self.place = conversions, place
        if home is not None:
            shutil.rmtree(home / "hf-home", ignore_errors=True)

    def run(self, *argv, table=(), token: str | None = None) -> dict:
        """A command line, where these are the known donors; a name alone has the shape of the fixtures."""
        entries = [entry if isinstance(entry, list) else [entry, 128, 32, 2] for entry in table]
        env = {"HF_TOKEN": token} if token else {}
        return self._conversions.run(*argv, cwd=str(self.place), env=env, table=entries)

    def report(self, *argv, **options) -> dict:
        """Of a conversion that succeeds."""
        done = self.run(*argv, "--json", **options)
        assert done["code"] == 0, done["err"]
        return json.loads(done["out"])

    def error(self, *argv, **options) -> str:
        """The one line in which a conversion fails, with nothing written."""
        before = state(self.place)
        done = self.run(*argv, **options)
        assert done["code"] == 1, done
        *waits, line = done["err"].splitlines()
        assert all(wait.startswith("waiting for ") for wait in waits), done["err"]
        assert line.startswith("error: ")
        assert state(self.place) == before
        return line.removeprefix("error: ")


# Faults, as `HubServer.fault` calls them: each answers the request that a handler has read.


def silent(handler) -> bool:
    time.sleep(SLOW)
    handler.close_connection = True
    return True


def reset(handler) -> bool:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    raise ConnectionResetError


def status(number: int, body: bytes = b"", **headers: str):
    """Answers with a status, and with headers whose names have `_` in place of `-`."""

    def fault(handler) -> bool:
        handler._begin(number, len(body), **{name.replace("_", "-"): value for name, value in headers.items()})
        handler.wfile.write(body if handler.command != "HEAD" else b"")
        return True

    return fault


def ignores_ranges(handler) -> None:
    """As a proxy that caches whole files does."""
    if handler.headers["Range"]:
        del handler.headers["Range"]


def only(path: str, fault):
    """`fault` of the requests whose path ends so."""
    return lambda handler: handler.path.partition("?")[0].endswith(path) and fault(handler)


def times(count: int, fault):
    """`fault` of the first requests."""
    left = [fault] * count
    return lambda handler: left.pop()(handler) if left else False
