"""A model's folder and its data, made from one file: ``ratchet new``.

The file has one row per decision: its keys, when it is made, the label (or the number to predict), and what was known
then. It becomes two datasets, because a label is known later than the features beside it: ``<model>`` is the spine's
source, and ``<model>_features`` a feature view of its own, each of whose rows is known at its decision; both are listed
in the folder itself. Nothing that is there is overwritten, and nothing is written before everything has been checked.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from pydantic import ValidationError
from ruamel.yaml import YAML

from ratchet.adapters.catalogue import DATASETS_FILE, Catalogue
from ratchet.adapters.storage import write_atomically
from ratchet.domain.holdout import CALIBRATE, MIN_FIT, gap_days
from ratchet.domain.spec import ModelSpec, explain, parse_duration
from ratchet.errors import Refused

LABEL_KNOWN_AT, KNOWN_AT = "label_known_at", "known_at"
RESERVED = frozenset({"day", "label", "decided_at", "event_timestamp", LABEL_KNOWN_AT, KNOWN_AT})
"""Names of which a spine or its join makes use."""
LEAST_HOLDOUT_DAYS, MOST_HOLDOUT_DAYS = 14, 28
MOST_WINDOW_DAYS = 365
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Asked:
    """What a person says of the file; columns by the file's own names.

    ``payoff`` has ``tp`` and ``fp`` (and ``fn``, ``tn``) of a label that is 0 or 1, ``under`` and ``over`` of a number
    to predict; ``leave_out`` are columns that were not known at the decision, or are no features.
    """

    model: str
    source: Path
    keys: tuple[str, ...]
    decided_at: str
    label: str
    label_delay: str
    payoff: Mapping[str, float]
    unit: str
    goal: str
    team: str
    email: str
    review_by: date
    timezone: str = "UTC"
    leave_out: tuple[str, ...] = ()

    @property
    def regression(self) -> bool:
        """Whether the label is a number to predict."""
        return "under" in self.payoff


@dataclass(frozen=True)
class Made:
    """What came of it: rows, local days from the first to the last, features by type, and until when there are rows."""

    spec_file: Path
    data_files: tuple[Path, ...]
    rows: int
    days: int
    features: Mapping[str, str]
    complete_until: datetime


def scaffold(asked: Asked, *, models_dir: Path, repo_dir: Path, data_dir: Path) -> Made:
    """Write two datasets below ``data_dir``, and the model's folder: their entries, then the spec.

    Raises:
        Refused: the file, a column or a value will not do, or something is there already; the message has the remedy.
    """
    _document(asked, MOST_WINDOW_DAYS)  # the words alone are checked first: the name becomes a path
    spec_file = models_dir / asked.model / "model.yaml"
    files = [data_dir / f"{name}.parquet" for name in (asked.model, f"{asked.model}_features")]
    for path in (spec_file.parent, *files):
        if path.exists():
            raise Refused(f"{path} is there already and is not overwritten. Choose another name, or move it away.")
    table = _checked(asked, _read(asked.source))
    features = _features(asked, table)
    first, last = _first_and_last_day(asked, table)
    document = _document(asked, (last - first).days + 1)
    kinds = {name: _kind(features[name].type) for name in features.column_names[len(asked.keys) + 1 : -1]}
    entries = _entries(asked, kinds)
    listed = Catalogue(repo_dir, models_dir, data_dir)
    if there := sorted(name for name in entries if name in listed):
        where = listed[there[0]].where
        raise Refused(f"{where} has a dataset {there[0]!r} already. Choose another name for the model.")
    for path, content in zip(files, (_spine(asked, table), features), strict=True):
        buffer = io.BytesIO()
        pq.write_table(content, buffer, compression="zstd")
        write_atomically(path, buffer.getvalue(), replace=False)
    write_atomically(spec_file.with_name(DATASETS_FILE), _listed_text(asked, entries).encode(), replace=False)
    write_atomically(spec_file, _spec_text(asked, document).encode(), replace=False)
    until = datetime.combine(last + _DAY, time(), ZoneInfo(asked.timezone)).astimezone(UTC)
    return Made(spec_file, tuple(files), table.num_rows, (last - first).days + 1, kinds, until)


def columns_of(source: Path) -> list[str]:
    """The file's columns, in order; raises :class:`Refused` as :func:`scaffold` does where it cannot be read."""
    if source.suffix == ".parquet" and source.is_file():
        try:
            return list(pq.read_schema(source).names)
        except pa.ArrowInvalid as error:
            raise Refused(f"{source} cannot be read as parquet: {error}") from error
    return list(_read(source).column_names)


def _read(source: Path) -> pa.Table:
    """The file's rows."""
    if not source.is_file():
        raise Refused(f"{source} is no file. Name a CSV or Parquet file with one row per decision.")
    try:
        if source.suffix == ".csv":
            return pa_csv.read_csv(source)
        if source.suffix == ".parquet":
            return pq.read_table(source)
    except pa.ArrowInvalid as error:
        raise Refused(f"{source} cannot be read as {source.suffix[1:]}: {error}") from error
    raise Refused(f"{source} must end in .csv or .parquet, but ends in {source.suffix!r}. Convert or rename it.")


def _checked(asked: Asked, table: pa.Table) -> pa.Table:
    """The rows with text keys and UTC decision times, if columns, keys, times and labels are as they must be."""
    _check_names(asked, table)
    for name in (*asked.keys, asked.decided_at, asked.label):
        if missing := table[name].null_count:
            raise Refused(
                f"{asked.source}: {name} must be known on every row, but {missing} have none. Leave them out."
            )
    for name in asked.keys:
        kind = table[name].type
        if not (pa.types.is_integer(kind) or _is_text(kind)):
            raise Refused(f"{asked.source}: key {name} must hold text or whole numbers, but holds {kind}.")
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))
    moments = _moments(asked, table[asked.decided_at])
    table = table.set_column(table.column_names.index(asked.decided_at), asked.decided_at, moments)
    by = [*asked.keys, asked.decided_at]
    if repeated := table.num_rows - table.group_by(by).aggregate([]).num_rows:
        raise Refused(
            f"{asked.source}: {' and '.join(by)} together must name one row, but {repeated} rows repeat another. "
            "Name a further column with --key, or drop the repetitions."
        )
    return table.set_column(table.column_names.index(asked.label), asked.label, _labels(asked, table[asked.label]))


def _check_names(asked: Asked, table: pa.Table) -> None:
    """Every column that is named is there, and for one thing only."""
    wanted = {
        **dict.fromkeys(asked.keys, "--key"),
        asked.decided_at: "--decided-at",
        asked.label: "--target" if asked.regression else "--label",
        **dict.fromkeys(asked.leave_out, "--leave-out"),
    }
    for name, option in wanted.items():
        if name not in table.column_names:
            raise Refused(
                f"{asked.source}: {option} {name!r} is no column; there are: {', '.join(table.column_names)}."
            )
    if len(wanted) < len(asked.keys) + 2 + len(asked.leave_out):
        raise Refused("a column is named for two things: key, decision time, label and what is left out must differ.")
    if not table.num_rows:
        raise Refused(f"{asked.source} has no rows.")
    for name in asked.keys:
        if name in RESERVED:
            raise Refused(f"{asked.source}: {name} is a name that a key cannot have. Rename the column.")


def _moments(asked: Asked, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decision times in UTC; those without a zone are local ones of ``timezone``, in autumn the earlier of two."""
    kind = column.type
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("us"))
    elif not pa.types.is_timestamp(kind):
        raise Refused(
            f"{asked.source}: --decided-at {asked.decided_at!r} must hold moments such as 2013-05-03 14:30:00, but "
            f"holds {kind}."
        )
    column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    if column.type.tz is None:
        column = pc.assume_timezone(column, asked.timezone, ambiguous="earliest", nonexistent="earliest")
    return column.cast(pa.timestamp("us", "UTC"))


def _labels(asked: Asked, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """0 or 1, or of a regression a finite number."""
    kind = column.type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if asked.regression:
        if not number or not pc.all(pc.is_finite(column.cast(pa.float64()))).as_py():
            raise Refused(f"{asked.source}: --target {asked.label!r} must hold finite numbers, but holds {kind}.")
        return column.cast(pa.float64())
    values = pc.unique(column.cast(pa.float64())).to_pylist() if number or pa.types.is_boolean(kind) else ["text"]
    if not set(values) <= {0.0, 1.0}:
        shown = ", ".join(map(str, pc.unique(column).to_pylist()[:5]))
        raise Refused(
            f"{asked.source}: --label {asked.label!r} must hold 0 and 1 (or true and false), but holds {shown}. "
            "A number to predict is named with --target."
        )
    if len(values) < 2:
        raise Refused(f"{asked.source}: --label {asked.label!r} has one value on all rows: there is nothing to learn.")
    return column.cast(pa.float64()).cast(pa.int8())


def _features(asked: Asked, table: pa.Table) -> pa.Table:
    """Keys, decision time, every column that is left, as numbers or text, and when it was known: at the decision."""
    used = {*asked.keys, asked.decided_at, asked.label, *asked.leave_out}
    columns: dict[str, Any] = {name: table[name] for name in (*asked.keys, asked.decided_at)}
    for name in table.column_names:
        if name in used:
            continue
        column, kind = table[name], table[name].type
        if pa.types.is_dictionary(kind):
            column, kind = column.cast(kind.value_type), kind.value_type
        why = ""
        if name in RESERVED or name.endswith("_y") or not name.isidentifier():
            why = "is a name that a feature cannot have: rename the column"
        elif not (_is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind) or _is_decimal(kind)):
            why = f"holds {kind}, which no model reads: make numbers or text of it"
        if why:
            raise Refused(f"{asked.source}: column {name!r} {why}, or leave it out: --leave-out {name}")
        if _is_text(kind):
            columns[name] = column.cast(pa.string())
        elif _is_decimal(kind) or column.null_count:
            columns[name] = column.cast(pa.float64())
        else:
            columns[name] = column.cast(pa.int64())
    if len(columns) == len(asked.keys) + 1:
        raise Refused(f"{asked.source} has no column beside keys, time and label that a model could learn from.")
    return pa.table(columns | {KNOWN_AT: table[asked.decided_at]})


def _spine(asked: Asked, table: pa.Table) -> pa.Table:
    """Keys, decision time, label, and when the label was known: its delay after the decision."""
    delay = pa.scalar(parse_duration(asked.label_delay), pa.duration("us"))
    columns = {name: table[name] for name in (*asked.keys, asked.decided_at, asked.label)}
    return pa.table(columns | {LABEL_KNOWN_AT: pc.add(table[asked.decided_at], delay)})


def _first_and_last_day(asked: Asked, table: pa.Table) -> tuple[date, date]:
    ends = pc.min_max(table[asked.decided_at]).as_py()
    zone = ZoneInfo(asked.timezone)
    return ends["min"].astimezone(zone).date(), ends["max"].astimezone(zone).date()


def _document(asked: Asked, days: int) -> dict[str, Any]:
    """The spec, if it holds and the days suffice for it."""
    try:
        gap = gap_days(parse_duration(asked.label_delay)) // _DAY
    except ValueError as error:
        raise Refused(f"--label-delay: {error}") from None
    room = (MIN_FIT + CALIBRATE) // _DAY + 2 * gap
    spare = days - room - gap
    if spare < LEAST_HOLDOUT_DAYS:
        raise Refused(
            f"{asked.source} reaches over {days} days, but a first champion needs {room + gap + LEAST_HOLDOUT_DAYS}: "
            f"{MIN_FIT.days} to fit, {CALIBRATE.days} to calibrate, {LEAST_HOLDOUT_DAYS} to judge, and the label delay "
            "between and after them. Bring a longer history."
        )
    holdout = min(spare, MOST_HOLDOUT_DAYS)
    document = {
        "model": asked.model,
        "owner": {"team": asked.team, "email": asked.email},
        "business": {
            "goal": asked.goal,
            "payoff": dict(asked.payoff) | {"unit": asked.unit},
            "review_by": asked.review_by.isoformat(),
        },
        "data": {
            "spine": {
                "source": asked.model,
                "label": asked.label,
                "label_delay": asked.label_delay,
                "entity": list(asked.keys),
                "decided_at": asked.decided_at,
                "timezone": asked.timezone,
            },
            "features": f"{asked.model}_v1",
            "window": f"{min(max(days - holdout, room + 1), MOST_WINDOW_DAYS)}d",
            "holdout": {"last": f"{holdout}d", "min_clusters": LEAST_HOLDOUT_DAYS},
        },
        "retrain": {
            "on": {"drift": {"min_severity": 0.3}, "data": {"datasets": [asked.model]}, "performance": {}},
            "cooldown": "6h",
            "budget": {"runs_per_day": 4},
        },
        "train": {
            "estimator": "xgboost.XGBRegressor" if asked.regression else "xgboost.XGBClassifier",
            "fixed": {"tree_method": "hist", "n_estimators": 150, "max_bin": 64},
            "search_space": {
                "max_depth": {"int": [2, 6]},
                "learning_rate": {"float": [0.01, 0.3], "log": True},
                "min_child_weight": {"float": [1.0, 50.0], "log": True},
            },
            "trials": 12,
            "workers": 2,
        },
        "gate": {"mode": "superiority", "confidence": 0.95, "min_uplift": 0.0},
        "scoring": {},
        "runtime": {"pool": "ratchet_training"},
    }
    try:
        ModelSpec.model_validate(document)
    except ValidationError as error:
        told = "; ".join(str(problem) for problem in explain(error))
        raise Refused(f"the spec of {asked.model!r} would not be valid: {told}") from None
    return document


def _spec_text(asked: Asked, document: Mapping[str, Any]) -> str:
    head = f"# Made by ratchet new from {asked.source.name}. Every key: docs/model-spec.md\n"
    return head + f"# Check it with: ratchet validate {asked.model}\n" + _yaml(document)


def _entries(asked: Asked, kinds: Mapping[str, str]) -> dict[str, Any]:
    """What the model's ``datasets.yaml`` lists: the source of its spine, and its features as a view by themselves."""
    both = {"keys": list(asked.keys), "event": asked.decided_at}
    return {
        asked.model: {"location": f"{asked.model}.parquet", **both, "created": LABEL_KNOWN_AT},
        f"{asked.model}_features": {
            "location": f"{asked.model}_features.parquet",
            **both,
            "created": KNOWN_AT,
            "service": f"{asked.model}_v1",
            "features": dict(kinds),
        },
    }


def _listed_text(asked: Asked, entries: Mapping[str, Any]) -> str:
    head = f"# Made by ratchet new from {asked.source.name}. Every key: include/feature_repo/datasets.yaml\n"
    return head + _yaml({"timezone": asked.timezone, "datasets": entries})


def _yaml(document: Mapping[str, Any]) -> str:
    yaml, stream = YAML(), io.StringIO()
    yaml.default_flow_style = None
    yaml.width = 110
    yaml.dump(dict(document), stream)
    return stream.getvalue()


def _kind(kind: pa.DataType) -> str:
    return "float64" if pa.types.is_floating(kind) else "int64" if pa.types.is_integer(kind) else "string"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_decimal(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_decimal(kind))
