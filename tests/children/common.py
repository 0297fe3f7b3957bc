"""What the programs of this folder share. They run in fresh processes, without the tests on their path."""

import json

import transformers

transformers.logging.set_verbosity_error()


def trusted(format: str) -> dict[str, bool]:
    """The option that a format of the converter's needs to be loaded."""
    return {"trust_remote_code": True} if format == "pooled" else {}


def outcome(load, *args, **kwargs) -> str:
    """What a load gives: the name of the class, or the error that it ends with."""
    try:
        return type(load(*args, **kwargs)).__name__
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def say(found) -> None:
    print(json.dumps(found))
