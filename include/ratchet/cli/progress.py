"""What is said while something takes its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

PATIENCE_SECONDS = 2.0
"""How long a command may say nothing."""
LOOK_SECONDS = 0.5

Tell = Callable[[str], None]


class Teller:
    """Says what happens: a line that changes on a terminal, a line for each change elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str, style: str = "") -> None:
        """One line that stays."""
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def during(self, what: str, began: float | None = None) -> Iterator[Tell]:
        """While the block runs, show what it says, with the seconds since it (or at ``began``, monotonic) began."""
        began = time.monotonic() if began is None else began
        if self.console.is_terminal:
            with self.console.status(what) as status:
                yield lambda text: status.update(f"{_joined(what, text)} ({time.monotonic() - began:.0f} s)")
            return
        last = ""
        self.say(f"  … {what}")

        def tell(text: str) -> None:
            nonlocal last
            if text != last:
                last = text
                self.say(f"  … {_joined(what, text)} ({time.monotonic() - began:.0f} s)")

        yield tell


def _joined(what: str, text: str) -> str:
    return f"{what}: {text}" if text else what


@contextmanager
def working(what: str) -> Iterator[Tell]:
    """Tell on standard error what is done in the block, and how far it is, once it has taken two seconds.

    What is quick so says nothing, and standard output stays the answer's. The block itself prints nothing.
    """
    ended, latest, began = threading.Event(), [""], time.monotonic()

    def watch() -> None:
        if ended.wait(PATIENCE_SECONDS):
            return
        with Teller(Console(stderr=True)).during(what, began) as tell:
            while not ended.wait(LOOK_SECONDS):
                tell(latest[0])

    def hear(text: str) -> None:
        latest[0] = text

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield hear
    finally:
        ended.set()
        watcher.join()
