"""``python -m ratchet.stack <run folder>``: become the supervisor of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

from ratchet.stack.supervisor import main

main(Path(sys.argv[1]))
