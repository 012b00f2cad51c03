"""What a shell completes beside commands and options."""

from __future__ import annotations

from ratchet.adapters.specs import SPEC_FILE
from ratchet.errors import RatchetError
from ratchet.settings import load_settings


def known_models(incomplete: str) -> list[str]:
    """The models of this checkout whose names begin so; none where that cannot be told, for completion says no errors.

    The ledger is not asked: it may be far away, and a shell waits for this at each tab.
    """
    try:
        names = sorted(file.parent.name for file in load_settings().models_dir.glob(f"*/{SPEC_FILE}"))
    except (OSError, ValueError, RatchetError):
        return []
    return [name for name in names if name.startswith(incomplete)]
