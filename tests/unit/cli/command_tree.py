"""Every command there is, and the examples of its help."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any


def commands(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command by its words; a group that answers by itself is one too."""
    for name, command in group.commands.items():
        words = (*above, name)
        if not hasattr(command, "commands"):
            yield " ".join(words), command
            continue
        if getattr(command, "invoke_without_command", False):
            yield " ".join(words), command
        yield from commands(command, words)


def examples(words: str, command: Any) -> list[list[str]]:
    """What the help shows to type, each in words after ``ratchet``: its paragraphs that call the command."""
    paragraphs = re.split(r"\n\s*\n", command.help or "")
    called = [" ".join(each.split()) for each in paragraphs if re.match(rf"\s*ratchet {words}(\s|$)", each)]
    return [shlex.split(each)[1:] for each in called]
