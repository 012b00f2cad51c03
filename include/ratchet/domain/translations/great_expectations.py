"""Validation results of Great Expectations 1.x: ``validation_result.to_json_dict()`` as JSON, or a list of them.

https://docs.greatexpectations.io/docs/core/trigger_actions_based_on_results/choose_a_result_format/ and
https://docs.greatexpectations.io/docs/reference/api/core/expectationvalidationresult_class

The verdict is over the whole suite: drift when an expectation failed, else an all-clear. Severity is the share of the
expectations that failed; where only those of severity ``info`` did, it is mild. An expectation that raised an
exception was not judged: it neither fails nor lets the suite pass, and the exception is for the sender to mend. The
check is the suite's name (or the caller's), the feature the column of the gravest failure.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from ratchet.domain.translations import severity
from ratchet.domain.translations.payload import Given, Told, Untranslatable, instant, name, observed, pointer, read, uri

_GRAVEST_FIRST = ("critical", "warning", "info")


class _Configuration(Struct):
    type: str
    kwargs: dict[str, Any] = {}
    severity: Literal["critical", "warning", "info"] = "critical"


class _Result(Struct):
    success: bool | None
    expectation_config: _Configuration
    exception_info: dict[str, Any] | None = None

    @property
    def raised(self) -> bool:
        """Said of the expectation as a whole, or of each metric that it needs."""
        info = self.exception_info or {}
        each = [part for part in info.values() if isinstance(part, dict)]
        return any(part.get("raised_exception") is True for part in (info, *each))


class _RunId(Struct):
    run_time: str | None = None


class _Meta(Struct):
    validation_time: str | None = None
    run_id: _RunId | None = None
    validation_id: str | None = None


class _Validation(Struct):
    results: list[_Result]
    suite_name: str
    meta: _Meta


def translate(payload: bytes, given: Given) -> list[Told]:
    """What each validation tells."""
    read_as = read(payload, list[_Validation] | _Validation)  # type: ignore[arg-type]  # a union is no type to mypy
    several = read_as if isinstance(read_as, list) else None
    found = []
    for index, validation in enumerate(several if several is not None else [read_as]):
        found += _told(validation, given, pointer(index) if several is not None else "")
    return found


def _told(validation: _Validation, given: Given, where: str) -> list[Told]:
    judged = [result for result in validation.results if not result.raised and result.success is not None]
    if not judged:
        raise Untranslatable(
            f"{where}/results", "no_verdict", "no expectation that was judged", "mend the exceptions in exception_info"
        )
    failed = sorted(
        (result for result in judged if not result.success),
        key=lambda result: _GRAVEST_FIRST.index(result.expectation_config.severity),
    )
    if not failed and len(judged) < len(validation.results):
        return []
    check = name(given.check or validation.suite_name, f"{where}/suite_name")
    made, at = _made(validation.meta, f"{where}/meta")
    window = given.window(made, at)
    how_bad, feature = None, None
    if failed:
        grave = sum(result.expectation_config.severity != "info" for result in failed)
        how_bad = severity.of_share(grave / len(judged)) if grave else severity.MILD
        column = failed[0].expectation_config.kwargs.get("column")
        feature = name(column, f"{where}/results") if isinstance(column, str) and column else None
    data = observed(check, how_bad, window, feature=feature, evidence=uri(given.evidence_uri))
    return [Told(check, given.model_of(None, where), data, window[1], where)]


def _made(meta: _Meta, where: str) -> tuple[datetime | None, str]:
    """When the validation ran, and where that is said."""
    if meta.validation_time:
        return instant(meta.validation_time, at := f"{where}/validation_time"), at
    if meta.run_id and meta.run_id.run_time:
        return instant(meta.run_id.run_time, at := f"{where}/run_id/run_time"), at
    return None, where
