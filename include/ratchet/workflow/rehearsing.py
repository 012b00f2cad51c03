"""A small snapshot through the real feature store, without ledger or storage: what ``ratchet validate`` dry-runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ratchet.domain.rehearsal import (
    MOST_ROWS,
    Column,
    Rehearsal,
    choose,
    problems_of_days,
    problems_of_rows,
)
from ratchet.domain.spec import ModelSpec, Problem
from ratchet.errors import NoData, Refused
from ratchet.ports.features import Features

if TYPE_CHECKING:
    import pyarrow as pa


def rehearse(features: Features, spec: ModelSpec, hook: Callable[[ModelSpec], Any]) -> Rehearsal:
    """Try the newest days of the spec's data: spine, join, payoff; nothing is written.

    Whatever is refused on the way is a problem at its key, and ends the trial; what is wrong with what came is found
    together.

    Raises:
        NoData: the source's file is not there; one that a feature view reads is a problem like another.
    """
    trial = None
    at: tuple[str, ...] = ("data", "spine", "source")
    try:
        days = features.days(spec)
        found = choose(spec, days)
        if isinstance(found, Problem):
            return Rehearsal(spec.model, None, 0, (), (found,))
        trial = found
        problems = list(problems_of_days(days, trial))
        spine = _few(features.spine(spec, as_of=trial.as_of, start=trial.start, end=trial.end))
        at = ("data", "features")
        rows = features.historical(spec, spine)
        names = features.feature_names(spec)
        at = ("business", "payoff")
        _value(spec, rows, hook)
    except NoData as missing:
        if trial is None:
            raise
        return Rehearsal(spec.model, trial, 0, (), (Problem(at, str(missing)),))
    except Refused as refused:
        return Rehearsal(spec.model, trial, 0, (), (Problem(at, str(refused)),))
    except Exception as error:  # noqa: BLE001 - whatever a driver raises, a trial is there to find it
        said = f"failed with {type(error).__name__}"
        if not spec.data.allow_sensitive:  # its words may hold a value
            said += f": {next(iter(str(error).splitlines()), '')}"
        return Rehearsal(spec.model, trial, 0, (), (Problem(at, said),))
    tags = {one.column: one.tags for one in features.tagged(spec)}
    columns, positive = _columns(spec, rows, names, tags), _positive(spec, rows)
    problems += problems_of_rows(spec, columns, positive)
    return Rehearsal(spec.model, trial, rows.num_rows, columns, tuple(problems), positive)


def _few(spine: pa.Table) -> pa.Table:
    """At most some thousand rows, spread evenly: a single day may have more."""
    step = -(-spine.num_rows // MOST_ROWS)
    return spine if step <= 1 else spine.take(list(range(0, spine.num_rows, step)))


def _value(spec: ModelSpec, rows: pa.Table, hook: Callable[[ModelSpec], Any]) -> None:
    """What decisions on the rows are worth, for the sake of trying."""
    from ratchet.workflow.evaluation import labels_of  # noqa: PLC0415 - numpy, pyarrow
    from ratchet.workflow.valuing import check_columns, valued  # noqa: PLC0415

    check_columns(spec, rows.schema)
    valued(spec, rows, labels_of(spec, rows), hook(spec))


def _columns(
    spec: ModelSpec, rows: pa.Table, features: tuple[str, ...], tags: Mapping[str, tuple[str, ...]]
) -> tuple[Column, ...]:
    roles = dict.fromkeys(rows.column_names, "carried") | dict.fromkeys(spec.data.spine.entity, "key")
    roles |= {"label": "label", "decided_at": "moment", "day": "day"}
    first = rows.num_columns - len(features)
    return tuple(
        Column(
            name=name,
            role=roles[name] if index < first else "feature",
            kind=str(rows.schema.field(index).type),
            missing=rows.column(index).null_count / rows.num_rows,
            readable=_readable(rows.schema.field(index).type),
            tags=tags.get(spec.data.spine.label if name == "label" else name, ()),
        )
        for index, name in enumerate(rows.column_names)
    )


def _readable(kind: pa.DataType) -> bool:
    import pyarrow as pa  # noqa: PLC0415 - only where rows are handled

    tests = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_string,
        pa.types.is_large_string,
    )
    return any(test(kind) for test in tests)


def _positive(spec: ModelSpec, rows: pa.Table) -> float | None:
    import pyarrow.compute as pc  # noqa: PLC0415 - only where rows are handled

    return None if spec.business.regression else float(pc.mean(rows["label"]).as_py())
