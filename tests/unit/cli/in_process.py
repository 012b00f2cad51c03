"""The commands' Ratchet, on a world in which attempts are judged in this process."""

from __future__ import annotations

from pathlib import Path

from judged_attempts import CODE, ENVIRONMENT, JudgingWorld

from ratchet.adapters.ledger import SqlLedger
from ratchet.bootstrap import Ratchet
from ratchet.settings import load_settings


class InProcess(Ratchet):
    """The verbs on the judged world's own parts."""

    def __init__(self, world: JudgingWorld) -> None:
        super().__init__(resolver=None, settings=load_settings({"RATCHET_HOME": str(world.folder)}))  # type: ignore[arg-type]
        for part in ("ledger", "store", "features", "registry", "studies"):
            self.__dict__[part] = getattr(world, part)
        self.__dict__["code_digest"] = CODE

    def environment(self) -> dict:
        return dict(ENVIRONMENT)


def new_world(folder: Path) -> JudgingWorld:
    """An empty world on a ledger of its own."""
    template = SqlLedger(f"sqlite:///{folder}/template.db")
    template.migrate()
    template.dispose()
    return JudgingWorld(folder, folder / "template.db")
