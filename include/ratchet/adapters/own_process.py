"""A step in the environment of its model: ``python -m ratchet.run <step> <subject>`` there, asked by this process.

What the step needs to know goes to the process's standard input, connections with their secrets among it, and never
into its arguments or variables, which others on the machine can list. Its log comes back by standard error, one JSON
object a line, and is logged here; its answer, or why there is none, by standard output. The input stays open: where
this process dies, however it dies, the step's ends with it.
"""

from __future__ import annotations

import json
import logging
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import IO, Any

import msgspec

from ratchet import errors
from ratchet.adapters.connections import ConnectionInfo
from ratchet.domain.rehearsal import Rehearsal
from ratchet.errors import RatchetError, Unavailable
from ratchet.logs import NAMES, about
from ratchet.records import RunContext
from ratchet.settings import environment

logger = logging.getLogger(__name__)
GRACE_SECONDS = 10.0
"""How long a step that is stopped may take to put its things away."""


@dataclass(frozen=True)
class Signature:
    """What a verb takes beside its subject, and what it returns, as types that JSON is read by."""

    takes: Any = tuple[()]
    returns: Any = dict[str, Any]


STEPS = {
    "snapshot": Signature(),
    "tune": Signature(tuple[int]),
    "judge": Signature(),
    "watch": Signature(),
    "monitor": Signature(tuple[date | None]),
    "score": Signature(tuple[RunContext, tuple[date, date] | None]),
    "rehearse": Signature(returns=tuple[Rehearsal, list[str]]),
}
"""The verbs that learn from rows or load models, by name; the subject is an attempt or a model."""


class Request(msgspec.Struct):
    """What a step is given beside its subject: its other arguments, and where things are."""

    arguments: list[Any]
    connections: dict[str, ConnectionInfo]


class Answer(msgspec.Struct):
    """What came of a step: what its verb returned, or the error that it raised on purpose, by class and words."""

    value: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None
    said: str = ""


def failed(error: RatchetError) -> Answer:
    """The error as an answer: the nearest of its classes that every process knows."""
    kind = next(each.__name__ for each in type(error).__mro__ if vars(errors).get(each.__name__) is each)
    return Answer(error=kind, said=str(error))


def ask(
    python: Path,
    code: Path,
    step: str,
    subject: str,
    arguments: Sequence[Any],
    connections: Mapping[str, ConnectionInfo],
) -> Any:
    """Have the step done by ``python``, with our own code from the folder ``code``; returns what the verb returned.

    Raises:
        RatchetError: what the step raised on purpose, by its own class.
        Unavailable: the process ended without an answer.
    """
    process = subprocess.Popen(
        [str(python), "-m", "ratchet.run", step, subject],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment() | {"PYTHONPATH": str(code)},
        start_new_session=True,  # a Ctrl-C comes to this process, which stops the other
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: S101, PT018
    teller = threading.Thread(target=_tell, args=(process.stderr,), name="ratchet-step-log", daemon=True)
    teller.start()
    try:
        with suppress(BrokenPipeError):  # of a process that has ended; what it said before is told below
            process.stdin.write(msgspec.json.encode(Request(list(arguments), dict(connections))) + b"\n")
            process.stdin.flush()
        told = process.stdout.read()
        ended = process.wait()
    finally:
        _stop(process)
        process.stdout.close()
        teller.join(GRACE_SECONDS)
        if not teller.is_alive():  # what the step left behind may still write, and is read to its end
            process.stderr.close()
    if not told:
        how = f"was killed by signal {-ended}" if ended < 0 else f"ended with {ended}"
        raise Unavailable(f"{step} of {subject}, in the model's own environment, {how} and gave no answer; see its log")
    answer = msgspec.json.decode(told, type=Answer)
    if answer.error is not None:
        raise getattr(errors, answer.error)(answer.said)
    return msgspec.json.decode(answer.value, type=STEPS[step].returns)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tell(lines: IO[bytes]) -> None:
    """Log what the process says: our own lines with what they are about, whatever else it prints as it is."""
    for line in lines:
        text = line.decode(errors="replace").rstrip()
        try:
            told = json.loads(text)
            level, said = logging.getLevelNamesMapping()[told["level"].upper()], str(told["event"])
        except (ValueError, TypeError, KeyError, AttributeError):
            if text:
                logger.info("%s", text)
            continue
        with about(**{name: told[name] for name in NAMES if name in told}):
            logger.log(level, "%s", "\n".join(filter(None, (said, told.get("exception")))))
