"""The suite is proved: on a build without a guard its books must not balance, and must say which rule is broken.

python tests/chaos/proof.py break unique                 take the keys out of the running stack's ledger
python tests/chaos/proof.py check unique <chaos.json>    exit code 0 when the report names what must be broken
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sqlalchemy import text

from ratchet.bootstrap import wire

KEYS = {
    "record": "uq_record_cluster_topic_partition_offset",
    "event": "uq_event_source_event_id_model",
}
BROKEN = {
    "unique": {"every_offset_has_one_record", "every_record_is_answered"},
    "epoch": {"nobody_writes_after_being_given_up"},
}


def drop_the_keys() -> None:
    """The ledger's inbox, without what makes a redelivered record or a repeated event one."""
    with wire().ledger.engine.begin() as db:
        for table, key in KEYS.items():
            db.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {key}"))


def check(fault: str, report: Path) -> int:
    """Whether the books named every rule that this fault breaks."""
    found = json.loads(report.read_text())["books"]
    missed = BROKEN[fault] - set(found)
    for rule, cases in found.items():
        print(f"{fault}: {rule}: {cases[0]}")
    if missed:
        print(f"chaos-proof: the {fault} fault was not noticed: {', '.join(sorted(missed))} still hold")
    return 1 if missed else 0


if __name__ == "__main__":
    if sys.argv[1] == "drop-keys":
        drop_the_keys()
    else:
        sys.exit(check(sys.argv[2], Path(sys.argv[3])))
