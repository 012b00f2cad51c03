"""The deployment's channels for notifications, from ``notifications.yaml``; each problem with its place and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ratchet.adapters.ordinary_yaml import read_ordinary
from ratchet.domain.notifications import Channels
from ratchet.errors import Refused

REMEDY = "See docs/notifications.md"


def load_channels(file: Path) -> Channels:
    """Read the file.

    Raises:
        Refused: there is none, it is no YAML, or it breaks a rule.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Refused(f"{file}: not found; it names the channels of notifications. {REMEDY}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{file}: cannot be read as UTF-8 text: {error}. {REMEDY}") from None
    document = read_ordinary(text)
    try:
        return Channels.model_validate(_careful(text, file) if document is None else document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        said = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'the file'}: {_message(each)}" for each in found)
        raise Refused(f"{file}: {said}. {REMEDY}") from None


def _message(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "is not a known key"
    return str(problem["msg"]).removeprefix("Value error, ")


def _careful(text: str, file: Path) -> Any:
    from ruamel.yaml import YAML  # noqa: PLC0415 - most files are read without it
    from ruamel.yaml.error import YAMLError  # noqa: PLC0415

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise Refused(f"{file}: not valid YAML: {str(error).splitlines()[0]}. {REMEDY}") from None
