"""Results of NannyML, flat: ``result.to_df(multilevel=False)`` as CSV, or as JSON of records.

https://nannyml.readthedocs.io/en/stable/tutorials/working_with_results.html, and what its ``RawFilesWriter`` writes as
CSV. In errors a cell is /record/column in both, the first record 0.

Each chunk of the analysis period is one observation of each family of columns in it; the reference's chunks are passed
over. Chunks are made by time (``chunk_period``), so that each has its window.

- ``univariate_drift``: a column's distance to the reference, by any of NannyML's methods;
- ``multivariate_drift``: reconstruction error, domain classifier;
- ``statistics``: every other column with an alert, such as missing values;
- performance, estimated (CBPE, DLE) or realized: degraded, where a metric left its threshold on the worse side.

Whether a column alerts is NannyML's to say; the feature is the one furthest beyond its threshold.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ratchet.domain.events import PerformanceDegraded
from ratchet.domain.translations import severity
from ratchet.domain.translations.payload import (
    Given,
    Told,
    Untranslatable,
    instant,
    name,
    number,
    observed,
    pointer,
    read,
    uri,
)

_BOUNDED = frozenset({"jensen_shannon", "kolmogorov_smirnov", "hellinger", "l_infinity"})
_METHODS = (*sorted(_BOUNDED), "wasserstein", "chi2")
_MULTIVARIATE = frozenset({"reconstruction_error", "domain_classifier_auroc"})
_HIGHER_IS_BETTER = frozenset(
    {"roc_auc", "average_precision", "f1", "precision", "recall", "specificity", "accuracy", "business_value"}
)
_LOWER_IS_BETTER = frozenset({"mae", "mape", "mse", "msle", "rmse", "rmsle"})
_START, _END, _PERIOD = "chunk_start_date", "chunk_end_date", "chunk_period"
_HOW = "result.to_df(multilevel=False).to_csv(…), or .to_json(…, orient='records')"
_ENDS_OF_CHUNKS = timedelta(milliseconds=1)
"""A chunk's end is the last instant in it, a nanosecond (in JSON a millisecond) before the next begins."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class _Column:
    """One monitored quantity in one chunk. ``series`` is its prefix in the table, like ``temp_jensen_shannon``."""

    series: str
    value: float | None
    upper: float | None
    lower: float | None
    alert: bool
    estimated: bool

    @property
    def family(self) -> str:
        if self.series in _HIGHER_IS_BETTER | _LOWER_IS_BETTER:
            return "performance"
        if self.series in _MULTIVARIATE:
            return "multivariate_drift"
        return "univariate_drift" if self.method else "statistics"

    @property
    def method(self) -> str | None:
        return next((method for method in _METHODS if self.series.endswith(f"_{method}")), None)

    @property
    def feature(self) -> str | None:
        if self.family == "multivariate_drift":
            return None
        return self.series.removesuffix(f"_{self.method}")

    @property
    def severity(self) -> float:
        if self.value is not None and self.lower is not None and self.value < self.lower:
            return severity.below(self.value, self.lower)
        largest = 1.0 if self.method in _BOUNDED or self.series == "domain_classifier_auroc" else None
        return severity.above(self.value, self.upper, largest)


def translate(payload: bytes, given: Given) -> list[Told]:
    """What each chunk tells, in the table's order."""
    given.has_its_own("window_start", "window_end", "check")
    json = payload.lstrip()[:1] in {b"[", b"{"}
    table = read(payload, list[dict[str, Any]]) if json else list(_csv_rows(payload))
    found: list[Told] = []
    judged = False
    for index, row in enumerate(table):
        where = pointer(index)
        for field in (_START, _END):
            if field not in row:
                raise Untranslatable(where, "wrong_shape", f"no {field}", f"write the table by {_HOW}")
        if row.get(_PERIOD) == "reference":
            continue
        start, end = _moment(row[_START], pointer(index, _START)), _moment(row[_END], pointer(index, _END))
        columns = list(_columns(row, index))
        judged = judged or bool(columns)
        found += _of_chunk(columns, given, (start, _closed(end)), where)
    if not judged:
        raise Untranslatable("", "no_verdict", "no chunk with an alert column", f"write the table by {_HOW}")
    return found


def _of_chunk(columns: list[_Column], given: Given, window: tuple[datetime, datetime], where: str) -> Iterator[Told]:
    model, evidence = given.model_of(None, ""), uri(given.evidence_uri)
    for family in ("univariate_drift", "multivariate_drift", "statistics"):
        looked = [column for column in columns if column.family == family]
        if not looked:
            continue
        moved = [column for column in looked if column.alert]
        worst = min(moved, key=lambda column: (-column.severity, column.series), default=None)
        feature = name(worst.feature, where) if worst and worst.feature else None
        data = observed(family, worst.severity if worst else None, window, feature=feature, evidence=evidence)
        yield Told(family, model, data, window[1], where)
    for column in columns:
        if column.family != "performance" or not column.alert or column.value is None:
            continue
        too_low = column.lower is not None and column.value < column.lower
        bound = column.lower if too_low else column.upper
        if bound is None or too_low is not (column.series in _HIGHER_IS_BETTER):
            continue
        metric = f"estimated_{column.series}" if column.estimated else column.series
        degraded = PerformanceDegraded(
            metric=metric, value=column.value, threshold=bound, window_end=window[1], evidence_uri=evidence
        )
        yield Told(metric, model, degraded, window[1], where)


def _columns(row: Row, index: int) -> Iterator[_Column]:
    for key, value in row.items():
        if not isinstance(key, str) or not key.endswith("_alert"):
            continue
        alert = _truth(value)
        if alert is None:
            if value is None or value == "":
                continue
            raise Untranslatable(pointer(index, key), "wrong_shape", repr(value)[:40], "an alert is true or false")
        series = key.removesuffix("_alert")
        yield _Column(
            series,
            value=_figure(row.get(f"{series}_value")),
            upper=_figure(row.get(f"{series}_upper_threshold")),
            lower=_figure(row.get(f"{series}_lower_threshold")),
            alert=alert,
            estimated=f"{series}_realized" in row,
        )


def _csv_rows(payload: bytes) -> Iterator[Row]:
    try:
        table = csv.reader(io.StringIO(payload.decode("utf-8-sig"), newline=""), strict=True)
        header = next(table, [])
        if _END not in header:
            raise Untranslatable(
                "", "wrong_shape", f"a header without {_END}", f"write the table by {_HOW}; chunk it by time"
            )
        for index, row in enumerate(table):
            if len(row) != len(header):
                raise Untranslatable(
                    pointer(index), "not_csv", f"{len(row)} cells under {len(header)} names", "send it whole"
                )
            yield dict(zip(header, row, strict=True))
    except UnicodeDecodeError as error:
        raise Untranslatable("", "not_csv", f"not UTF-8 at byte {error.start}", "write the file in UTF-8") from None
    except csv.Error as error:
        raise Untranslatable("", "not_csv", str(error), f"write the table by {_HOW}") from None


def _truth(value: Any) -> bool | None:
    return (
        value
        if isinstance(value, bool)
        else {"True": True, "true": True, "False": False, "false": False}.get(value if isinstance(value, str) else "")
    )


def _figure(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            return number(float(value))
        except ValueError:
            return None
    return number(value)


def _moment(value: Any, where: str) -> datetime:
    """Text, or milliseconds since 1970 as pandas writes them; without a zone it is UTC."""
    if isinstance(value, str) and value:
        return instant(value, where)
    milliseconds = number(value)
    if milliseconds is None:
        raise Untranslatable(where, "no_window", repr(value)[:40], "chunk by time: chunk_period, timestamp_column_name")
    try:
        return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
    except (OverflowError, ValueError, OSError):
        raise Untranslatable(where, "bad_time", repr(value)[:40], "times lie between 1970 and 2200") from None


def _closed(end: datetime) -> datetime:
    """The moment at which a chunk that ends just before it is over."""
    rest = timedelta(microseconds=end.microsecond)
    if timedelta(seconds=1) - rest > _ENDS_OF_CHUNKS:
        return end
    try:
        return end + (timedelta(seconds=1) - rest)
    except OverflowError:
        return end
