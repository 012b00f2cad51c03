"""Record what ``bench/flight_days.py`` judges, after ``make demo`` of the whole year (minutes):

    python -m bench.record_flight_days

Reads the dossiers and snapshots that the demo left (RATCHET_HOME), each by its digest. Of every attempt that compared
two models the recipe is fitted again with ``2 * PAIRS`` other seeds, and each two of them are compared on the holdout.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.flight_days import FILE
from ratchet.bootstrap import Ratchet, wire
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.ledger import AttemptRow
from ratchet.workflow import dossiers
from ratchet.workflow.attempting import ranges_of
from ratchet.workflow.evaluation import decide, labels
from ratchet.workflow.training import Columns, fit_final
from ratchet.workflow.valuing import worth_of

MODEL = "flight_delay"
PAIRS = 2


def main() -> int:
    """Record; the exit code."""
    ratchet = wire()
    with ratchet.ledger.transaction() as tx:
        judged = [a for a in tx.attempts(model=MODEL, states=("judged", "concluded")) if a.verdict is not None]
    if not judged:
        raise SystemExit("the ledger has no attempt with a verdict: run `make demo` first")
    attempts, pairs = [], []
    began = time.monotonic()
    for number, attempt in enumerate(sorted(judged, key=lambda a: a.judged_at or datetime.min.replace(tzinfo=UTC)), 1):
        try:
            dossier = dossiers.compared(dossiers.read(ratchet.store, attempt))
        except Refused as refused:
            print(f"{attempt.id} left out: {refused}", file=sys.stderr)
            continue
        attempts.append(_judged(ratchet, attempt, dossier))
        pairs += _twins(ratchet, attempt, dossier)
        told = f"{number} of {len(judged)} attempts, {time.monotonic() - began:.0f} s: {attempt.id}"
        print(told, file=sys.stderr, flush=True)
    content = {
        "recorded": {"of": "make demo, the flights of 2013", "at": datetime.now(UTC).isoformat(timespec="seconds")},
        "unit": "USD",
        "attempts": attempts,
        "seed_pairs": pairs,
    }
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(content).replace('{"attempt"', '\n{"attempt"') + "\n")
    print(f"written: {FILE}, {len(attempts)} attempts, {len(pairs)} pairs")
    return 0


def _judged(ratchet: Ratchet, attempt: AttemptRow, dossier: Mapping[str, Any]) -> dict[str, Any]:
    named = dossier["evidence"]
    rows = pq.read_table(io.BytesIO(ratchet.store.get_bytes(named["key"], digest=named["sha256"])))
    champion, challenger = (rows.column(f"{name}_payoff").to_numpy() for name in ("champion", "challenger"))
    return {"attempt": attempt.id} | _by_day(rows, challenger - champion)


def _twins(ratchet: Ratchet, attempt: AttemptRow, dossier: Mapping[str, Any]) -> list[dict[str, Any]]:
    spec = ModelSpec.model_validate(dossier["spec"]["document"])
    manifest = dossier["snapshot"]
    train, holdout = (
        pq.read_table(io.BytesIO(ratchet.store.get_bytes(file["key"], digest=file["sha256"])))
        for file in (manifest["files"][name] for name in ("train", "holdout"))
    )
    worth = worth_of(spec, holdout, labels(holdout))

    def payoff(seed: int) -> Any:
        model = fit_final(
            spec=spec,
            train=train,
            ranges=ranges_of(manifest),
            columns=Columns.of(manifest),
            params=dossier["study"]["params"],
            seed=seed,
            learner=ratchet.models.learner_for(spec.train.estimator),
            threads=2,
        )
        return decide(holdout, model, worth).payoff

    return [
        {"attempt": attempt.id, "seeds": [seed, seed + 1]} | _by_day(holdout, payoff(seed + 1) - payoff(seed))
        for seed in range(1, 2 * PAIRS, 2)
    ]


def _by_day(rows: pa.Table, uplift: Any) -> dict[str, Any]:
    day = rows.column("day").to_numpy(zero_copy_only=False)
    days, codes, counts = np.unique(day, return_inverse=True, return_counts=True)
    totals = np.bincount(codes, uplift)
    return {"days": days.tolist(), "rows": counts.tolist(), "uplift": [round(float(total), 2) for total in totals]}


if __name__ == "__main__":
    raise SystemExit(main())
