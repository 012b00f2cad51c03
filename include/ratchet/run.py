"""One step of a model in the environment of its own, without Airflow: ``python -m ratchet.run <step> <subject>``.

Started by :mod:`ratchet.adapters.own_process`, which says what goes in and what comes out.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

import msgspec

from ratchet import logs
from ratchet.adapters.connections import MappingResolver
from ratchet.adapters.own_process import STEPS, Answer, Request, failed
from ratchet.bootstrap import wire
from ratchet.errors import RatchetError

UNEXPECTED = 70
"""The exit code of a step that failed by nobody's purpose, as of a command."""
logger = logging.getLogger(__name__)


def main(step: str, subject: str) -> None:
    """Do the step, and answer."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what anybody prints is log
    logs.configure("json")
    asked = msgspec.json.decode(sys.stdin.buffer.readline(), type=Request)
    threading.Thread(target=_end_with_the_other, name="ratchet-parent", daemon=True).start()
    arguments = msgspec.convert(asked.arguments, STEPS[step].takes)
    verb = getattr(wire(MappingResolver(asked.connections)), step)
    try:
        answer = Answer(msgspec.Raw(msgspec.json.encode(verb(subject, *arguments))))
    except RatchetError as error:
        answer = failed(error)
    except Exception:
        logger.exception("%s of %s failed", step, subject)
        sys.exit(UNEXPECTED)
    with answers:
        answers.write(msgspec.json.encode(answer))


def _end_with_the_other() -> None:
    """End this process when whoever asked for the step is gone."""
    while os.read(0, 1):  # not by sys.stdin, whose lock an ending interpreter would wait for
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(*sys.argv[1:])
