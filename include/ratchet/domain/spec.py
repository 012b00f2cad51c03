"""The model spec: all that one model is, as one frozen, closed record that cannot hold a contradiction.

A spec is read from YAML by :mod:`ratchet.adapters.specs`, which adds the file and the line to each problem found
here. Everything that can be checked without data is checked in the constructor: a search space that cannot be sampled
fails when the spec is read, not at trial 17. A key that no landed code obeys is refused with ``not yet supported``,
because a limit that is parsed and ignored is a lie.

Durations are written ``30s``, ``45m``, ``6h``, ``2d``, ``4w`` or a sum such as ``1d12h``; they are
:class:`~datetime.timedelta` here and are written back in the same form, so that
``ModelSpec.model_validate(spec.model_dump(mode="json"))`` equals ``spec``. NaN and infinities are refused everywhere.

This module imports pydantic and nothing heavier: the scheduler parses it with every DAG file.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from difflib import get_close_matches
from functools import cached_property
from typing import Annotated, Any, Literal, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from ratchet.domain.estimators import HIST_GRADIENT_BOOSTING_REGRESSOR, SKLEARN_PARAMETERS
from ratchet.domain.expression import Expression
from ratchet.domain.looks import TOLERANCE
from ratchet.domain.metrics import METRICS, Kind, misfit, unfit
from ratchet.domain.quiet import QuietWindow, leaves_time_awake


@dataclass(frozen=True)
class FittedTo:
    """What an estimator may be fitted to: the parameter that says so, and its values, the one unless the spec says.

    ``quantile`` is the parameter that says which quantile, where the first of the values is to fit one.
    """

    parameter: str
    values: tuple[str, ...]
    quantile: str | None = None


REGRESSORS: Mapping[str, FittedTo] = {
    "xgboost.XGBRegressor": FittedTo(
        "objective", ("reg:quantileerror", "reg:squarederror", "reg:absoluteerror"), "quantile_alpha"
    ),
    HIST_GRADIENT_BOOSTING_REGRESSOR: FittedTo("loss", ("quantile", "squared_error", "absolute_error"), "quantile"),
}
RANKERS: Mapping[str, FittedTo] = {
    "xgboost.XGBRanker": FittedTo("objective", ("rank:ndcg", "rank:map", "rank:pairwise"))
}

# What both of XGBoost's take and a spec may set. Their constructors swallow any other keyword with a warning in a log,
# so a typo would tune nothing. Threads and seeds are Ratchet's own: see OWNED_PARAMETERS.
XGBOOST_PARAMETERS = frozenset(
    {
        "base_score",
        "booster",
        "colsample_bylevel",
        "colsample_bynode",
        "colsample_bytree",
        "gamma",
        "grow_policy",
        "learning_rate",
        "max_bin",
        "max_cat_threshold",
        "max_cat_to_onehot",
        "max_delta_step",
        "max_depth",
        "max_leaves",
        "min_child_weight",
        "n_estimators",
        "num_parallel_tree",
        "reg_alpha",
        "reg_lambda",
        "sampling_method",
        "subsample",
        "tree_method",
    }
)
PARAMETERS: Mapping[str, frozenset[str]] = {
    "xgboost.XGBClassifier": XGBOOST_PARAMETERS | {"scale_pos_weight"},
    "xgboost.XGBRegressor": XGBOOST_PARAMETERS | {"objective", "quantile_alpha"},
    "xgboost.XGBRanker": XGBOOST_PARAMETERS
    | {
        "lambdarank_normalization",
        "lambdarank_num_pair_per_sample",
        "lambdarank_pair_method",
        "lambdarank_score_normalization",
        "objective",
    },
    **SKLEARN_PARAMETERS,
}
ESTIMATORS = tuple(PARAMETERS)
OWNED_PARAMETERS: Mapping[str, str] = {
    "n_jobs": "runtime.threads sets it",
    "nthread": "runtime.threads sets it",
    "random_state": "the seed derives from the attempt",
    "seed": "the seed derives from the attempt",
    "objective": "a decision is binary: binary:logistic",
    "eval_metric": "the study's objective is fixed",
    "early_stopping_rounds": "the number of trees is a parameter like any other",
    "early_stopping": "the number of trees is a parameter like any other",
    "warm_start": "a watched trial decides it",
    "class_weight": "probabilities are calibrated, and the payoff says what a class is worth",
    "enable_categorical": "features decide it",
    "categorical_features": "features decide it",
    "device": "the local engine trains on the processor",
}


def kind_of(estimator: str) -> Kind:
    """Which kind of model an estimator makes."""
    if estimator in REGRESSORS:
        return "regression"
    return "ranking" if estimator in RANKERS else "classifier"


REDELIVERED_FOR = timedelta(days=30)
"""Kafka keeps a record that came in for so long, and may deliver it again; the topics are made so."""

_UNIT_SECONDS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_DECIDED_AT = re.compile(r"([A-Za-z_]\w*)(?:\s*-\s*([0-9wdhms]+))?")
_CRON_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_PINNED_IMAGE = re.compile(r"[a-z0-9][a-z0-9._:/-]*(?::[A-Za-z0-9_][A-Za-z0-9._-]*)?@sha256:[0-9a-f]{64}")
_CRON_PART = re.compile(r"(?:\*|(\d+)(?:-(\d+))?)(?:/(\d+))?")


def parse_duration(text: str) -> timedelta:
    """``"1d12h"`` → 36 hours. Units w, d, h, m, s, in that order, whole numbers. Raises ``ValueError``."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise ValueError(f"a duration is written like 30s, 6h, 2d or 1d12h, but got {text!r}")
    return timedelta(
        seconds=sum(
            int(count) * seconds
            for count, seconds in zip(match.groups(), _UNIT_SECONDS.values(), strict=True)
            if count is not None
        )
    )


def format_duration(value: timedelta) -> str:
    """The shortest form :func:`parse_duration` reads back, never in weeks: 36 hours → ``"1d12h"``, zero → ``"0s"``."""
    rest = int(value.total_seconds())
    parts = []
    for unit in "dhms":
        count, rest = divmod(rest, _UNIT_SECONDS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _to_duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError(
            "duration", "must be a duration like 30s, 6h or 2d, but got {got}", {"got": repr(value)}
        )
    try:
        return parse_duration(value)
    except (ValueError, OverflowError) as error:
        raise PydanticCustomError("duration", "{message}", {"message": str(error)}) from None


def _rule(message: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{message}", {"message": message})


def _not_yet(what: str) -> PydanticCustomError:
    return PydanticCustomError("not_yet_supported", "not yet supported: {what}", {"what": what})


def _at(path: tuple[str | int, ...], message: str) -> ValidationError:
    """A broken rule of several keys, told at the one to change, as seen from the section that checks it."""
    detail = InitErrorDetails(type=_rule(message), loc=path, input=None)
    return ValidationError.from_exception_data("spec", [detail])


def _to_scalar(value: object) -> object:
    if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not math.isfinite(value)):
        raise _rule(f"must be a finite number, a string, true or false, but got {value!r}")
    return value


def _to_window(value: object) -> object:
    if isinstance(value, QuietWindow):
        return value
    try:
        return QuietWindow.parse(str(value))
    except ValueError as error:
        raise _rule(str(error)) from None


def _days_only(value: timedelta) -> timedelta:
    if value % timedelta(days=1):
        raise _rule(f"must be whole days, because days are never split, but got {format_duration(value)}")
    return value


def _to_cron(text: str) -> str:
    fields = text.split()
    if len(fields) != len(_CRON_FIELDS):
        raise _rule(f"must be five cron fields (minute hour day month weekday) of numbers, but got {text!r}")
    for value, (name, lowest, highest) in zip(fields, _CRON_FIELDS, strict=True):
        for part in value.split(","):
            match = _CRON_PART.fullmatch(part)
            bounds = [int(number) for number in match.groups()[:2] if number] if match else []
            if (
                match is None
                or any(not lowest <= number <= highest for number in bounds)
                or bounds != sorted(bounds)
                or match[3] == "0"
            ):
                raise _rule(f"cron field {name} must lie in {lowest}-{highest}, but got {part!r} in {text!r}")
    return text


Duration = Annotated[
    timedelta,
    BeforeValidator(_to_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
]
PositiveDuration = Annotated[Duration, Field(gt=timedelta(0))]
WholeDays = Annotated[PositiveDuration, AfterValidator(_days_only)]
Cron = Annotated[str, AfterValidator(_to_cron)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=63)]
Text = Annotated[str, Field(min_length=1, max_length=1000)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, gt=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=0)]
PositiveCount = Annotated[int, Field(strict=True, ge=1)]
Scalar = Annotated[bool | int | float | str, BeforeValidator(_to_scalar)]
Quiet = Annotated[QuietWindow, BeforeValidator(_to_window), PlainSerializer(str, return_type=str, when_used="json")]


class _Closed(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", serialize_by_alias=True, validate_by_alias=True, allow_inf_nan=False
    )


class Owner(_Closed):
    """Who answers for the model."""

    team: Text
    email: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")]
    escalation: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")] | None = None


class Capacity(_Closed):
    """How many rows of one local day can be acted on at most."""

    at_most: PositiveCount
    per: Literal["day"] = "day"


class Decision(_Closed):
    """The decision a score leads to: act when it reaches the threshold, within the capacity if there is one.

    ``threshold`` is ``payoff`` (the break-even point of the payoff matrix on calibrated probabilities), ``tuned`` (the
    one that earned most on the calibration range) or a number in [0, 1]. A regression has ``act_on: prediction``
    instead, and neither: its decision is the prediction itself. A ranking has ``act_on: rank`` and a capacity: it acts
    on each day's best so many, whatever they score.
    """

    act_when: Literal["score >= threshold"] | None = "score >= threshold"
    threshold: Literal["payoff", "tuned"] | Annotated[float, Field(strict=True, ge=0, le=1)] | None = "payoff"
    capacity: Capacity | None = None
    act_on: Literal["prediction", "rank"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _neither_a_prediction_nor_a_rank_meets_a_threshold(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("act_on") is not None:
            return {"act_when": None, "threshold": None} | dict(given)
        return given

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.act_on is None:
            for name in ("act_when", "threshold"):
                if getattr(self, name) is None:
                    raise _at((name,), "must be given, or left out for its default, but got None")
            return self
        if self.act_on == "rank":
            return self._one_rule_of_ranks()
        for name in ("act_when", "threshold", "capacity"):
            if getattr(self, name) is not None:
                raise _at(
                    (name,),
                    "a decision that acts on the prediction itself is no choice between acting and not: leave "
                    f"{name} out, but got {self.model_dump(mode='json')[name]!r}",
                )
        return self

    def _one_rule_of_ranks(self) -> Self:
        for name in ("act_when", "threshold"):
            if getattr(self, name) is not None:
                raise _at(
                    (name,),
                    "a ranking's scores compare rows of one day and are no probabilities, so no threshold means "
                    f"anything: leave {name} out, but got {getattr(self, name)!r}",
                )
        if self.capacity is None:
            raise _at(("capacity",), "must be given: a ranking acts on each day's best so many, as {at_most: 20}")
        return self

    @field_validator("threshold", mode="before")
    @classmethod
    def _known_threshold(cls, value: object) -> object:
        if value is None or (isinstance(value, str) and value in {"payoff", "tuned"}):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        raise _rule(f"must be payoff, tuned or a number between 0 and 1, but got {value!r}")


def _to_value(value: object) -> object:
    if isinstance(value, str):
        try:
            return Expression(value).text
        except ValueError as error:
            raise _rule(str(error)) from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _rule(f"must be a finite number or an expression such as 0.2 * fare, but got {value!r}")
    return float(value)


OUTCOMES = ("tp", "fp", "fn", "tn")
ERRORS = ("under", "over")
PayoffValue = Annotated[float | str, BeforeValidator(_to_value)]


class Payoff(_Closed):
    """Value of one decision, in ``unit`` per decision; gains are positive, losses negative.

    By outcome (``tp``, ``fp``, ``fn``, ``tn``), or for a regression by unit of error (``under``: the prediction was too
    low; ``over``: too high), each a number or an expression over columns of the row
    (:mod:`ratchet.domain.expression`); or by a ``hook``, a function in a Python file of the model's folder, which reads
    ``columns``. ``sha256`` is that of the file: the reader of the spec fills it in, so that its digest covers the file.
    """

    tp: PayoffValue | None = None
    fp: PayoffValue | None = None
    fn: PayoffValue | None = None
    tn: PayoffValue | None = None
    under: PayoffValue | None = None
    over: PayoffValue | None = None
    hook: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*\.py:[A-Za-z_]\w*$", max_length=200)] | None = None
    columns: tuple[Name, ...] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    unit: Annotated[str, Field(min_length=1, max_length=16)]

    @model_validator(mode="before")
    @classmethod
    def _passing_costs_nothing(cls, given: Any) -> Any:
        """What is not acted on is worth nothing, unless the spec says otherwise."""
        if isinstance(given, Mapping) and all(given.get(name) is None for name in ("hook", *ERRORS)):
            return {"fn": 0.0, "tn": 0.0} | dict(given)
        return given

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.by_error and (self.hook is not None or any(getattr(self, name) is not None for name in OUTCOMES)):
            raise _rule("has under or over, which value every prediction: leave out tp, fp, fn, tn and hook")
        if self.hook is None:
            if self.by_error:
                if self.under is None or self.over is None:
                    raise _rule("needs both under and over: what a unit of each error costs")
            elif self.tp is None or self.fp is None:
                raise _rule("needs tp and fp (values by outcome), or hook, or for a regression under and over")
            if self.columns is not None or self.sha256 is not None:
                raise _rule("columns and sha256 belong to a hook; an expression names its columns itself")
        elif any(getattr(self, name) is not None for name in OUTCOMES):
            raise _rule("has a hook, which values every outcome: leave out tp, fp, fn and tn")
        elif self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise _rule(f"names a column twice: {list(self.columns)}")
        return self

    @model_validator(mode="after")
    def _acting_can_pay(self) -> Self:
        """A rule for numbers; a row on which acting cannot pay is not acted on."""
        tp, fp, fn, tn = self.tp, self.fp, self.fn, self.tn
        if not (isinstance(tp, float) and isinstance(fp, float) and isinstance(fn, float) and isinstance(tn, float)):
            return self
        if not (tp > fn and tn > fp):
            raise _rule(
                "acting must pay on positives (tp > fn) and cost on negatives (tn > fp), or no score is needed; "
                f"got tp {tp:g}, fn {fn:g}, tn {tn:g}, fp {fp:g}"
            )
        return self

    @model_validator(mode="after")
    def _errors_cost(self) -> Self:
        """A rule for numbers; what an expression comes to is known on its row only."""
        for name in ERRORS:
            value = getattr(self, name)
            if isinstance(value, float) and value >= 0:
                why = "where an error costs nothing, the prediction that errs furthest is the best"
                raise _at((name,), f"must be below 0, but got {value:g}: costs are negative, and {why}")
        return self

    @property
    def by_error(self) -> bool:
        """Whether it values the error of a prediction, by numbers or expressions."""
        return any(getattr(self, name) is not None for name in ERRORS)

    @property
    def expressions(self) -> Mapping[str, Expression]:
        """The outcomes or errors that are valued by an expression, by name."""
        given = {name: getattr(self, name) for name in (*OUTCOMES, *ERRORS)}
        return {name: Expression(value) for name, value in given.items() if isinstance(value, str)}

    @property
    def named(self) -> tuple[tuple[tuple[str | int, ...], str], ...]:
        """Each column that the payoff reads, with its place below ``business.payoff``."""
        of_hook = [(("columns", index), name) for index, name in enumerate(self.columns or ())]
        of_formulas = [((cell,), name) for cell, formula in self.expressions.items() for name in formula.columns]
        return (*of_hook, *of_formulas)

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that the payoff reads, each once."""
        return tuple(dict.fromkeys(name for _, name in self.named))


class Business(_Closed):
    """Why the model exists, what a decision is worth, and when both are looked at again."""

    goal: Text
    decision: Decision = Decision()
    payoff: Payoff
    review_by: date

    @property
    def kind(self) -> Kind:
        """What the decision is, and with it the model."""
        kinds: Mapping[str | None, Kind] = {None: "classifier", "prediction": "regression", "rank": "ranking"}
        return kinds[self.decision.act_on]

    @property
    def regression(self) -> bool:
        """Whether the decision is the prediction itself."""
        return self.kind == "regression"

    @property
    def ranking(self) -> bool:
        """Whether each day's best so many are acted on, whatever they score."""
        return self.kind == "ranking"

    @property
    def capacity(self) -> int | None:
        """How many rows of one local day can be acted on at most; None is no limit."""
        return self.decision.capacity.at_most if self.decision.capacity is not None else None

    @model_validator(mode="before")
    @classmethod
    def _an_error_is_of_a_prediction(cls, given: Any) -> Any:
        """A payoff by error says already what the decision is."""
        if isinstance(given, Mapping) and given.get("decision") is None:
            payoff = given.get("payoff")
            if isinstance(payoff, Mapping) and any(payoff.get(name) is not None for name in ERRORS):
                return dict(given) | {"decision": {"act_on": "prediction"}}
        return given

    @model_validator(mode="after")
    def _a_payoff_of_its_decision(self) -> Self:
        payoff = self.payoff
        if payoff.by_error and not self.regression:
            raise _at(
                ("decision",),
                "payoff.under and over value the error of a prediction, but the decision is to act or not: write "
                "{act_on: prediction}, or leave decision out",
            )
        if self.regression and not payoff.by_error and payoff.hook is None:
            raise _at(
                ("payoff",),
                "a decision that acts on the prediction needs under and over (what a unit of error costs), or hook; "
                "tp, fp, fn and tn value acting",
            )
        if payoff.hook is not None and self.decision.threshold == "payoff":
            raise _rule(
                "a hook has no break-even to compute: give decision.threshold as tuned or a number, or for a "
                "regression decision as {act_on: prediction}"
            )
        return self

    @property
    def decided_by_columns(self) -> frozenset[str]:
        """The columns whose values a decision reads, beside the score: they must be known when it is made."""
        return frozenset(self.payoff.reads) if self.decision.threshold == "payoff" else frozenset()


class Spine(_Closed):
    """The labelled entity rows: source dataset, keys, label, and the moment the decision on a row is made.

    ``decided_at`` is a column of the source, or a column less a duration (``"scheduled_departure - 6h"``).
    ``label_delay`` counts from when the outcome is known. ``timezone`` gives the business-local day.
    """

    source: Name
    label: Name
    label_delay: Duration
    min_label_completeness: Annotated[float, Field(strict=True, ge=0, le=1)] = 1.0
    entity: Annotated[tuple[Name, ...], Field(min_length=1)]
    decided_at: str
    timezone: str = "UTC"

    @field_validator("decided_at")
    @classmethod
    def _readable_moment(cls, value: str) -> str:
        match = _DECIDED_AT.fullmatch(value.strip())
        if match is None:
            raise _rule(f"must be a column, or a column less a duration like 'departure - 6h', but got {value!r}")
        if match[2] is not None:
            _to_duration(match[2])
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise _rule(f"must be a time zone of the IANA database like America/New_York, but got {value!r}") from None
        return value

    @field_validator("entity")
    @classmethod
    def _distinct_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise _rule(f"names a key twice: {list(value)}")
        return value

    @property
    def decided_column(self) -> str:
        """The column that ``decided_at`` starts from."""
        match = _DECIDED_AT.fullmatch(self.decided_at.strip())
        assert match is not None  # noqa: S101 - the validator has seen it
        return match[1]

    @property
    def decided_lead(self) -> timedelta:
        """How long before ``decided_column`` the decision is made; zero when nothing is subtracted."""
        match = _DECIDED_AT.fullmatch(self.decided_at.strip())
        assert match is not None  # noqa: S101 - the validator has seen it
        return parse_duration(match[2]) if match[2] else timedelta(0)

    @property
    def zone(self) -> ZoneInfo:
        """The business-local time zone."""
        return ZoneInfo(self.timezone)


class Holdout(_Closed):
    """The newest mature local days, on which both models are compared; clusters are whole days."""

    last: WholeDays
    cluster_by: Literal["day"] = "day"
    min_clusters: Annotated[int, Field(strict=True, ge=2)]

    @model_validator(mode="after")
    def _can_hold_its_minimum(self) -> Self:
        if self.last.days < self.min_clusters:
            raise _rule(
                f"the last {self.last.days} days can never hold min_clusters = {self.min_clusters} day clusters"
            )
        return self


class AllowedSensitive(_Closed):
    """A column tagged ``pii`` or ``secret`` that rows of the model may hold, and why (:mod:`ratchet.domain.sensitive`).

    ``show_values``: dossiers, cards, messages and the model's file may tell its values too.
    """

    column: Name
    reason: Text
    show_values: Annotated[bool, Field(strict=True)] = False

    @field_validator("reason")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip():
            raise _rule("must say why, but is blank")
        return value


class Data(_Closed):
    """What the model learns from. ``window`` is how many days before the holdout training may reach back.

    ``allow_sensitive`` names the columns tagged ``pii`` or ``secret`` that its rows may hold all the same.
    """

    spine: Spine
    features: Name
    window: WholeDays
    holdout: Holdout
    allow_sensitive: tuple[AllowedSensitive, ...] | None = None

    @field_validator("allow_sensitive")
    @classmethod
    def _each_column_once(cls, value: tuple[AllowedSensitive, ...] | None) -> tuple[AllowedSensitive, ...] | None:
        names = [entry.column for entry in value or ()]
        if value == ():
            raise _rule("allows nothing: leave it out")
        if len(set(names)) < len(names):
            raise _rule(f"names a column twice: {names}")
        return value

    def hides(self, columns: Collection[str]) -> bool:
        """Whether one of the columns is sensitive, and its values are to be told nowhere."""
        return any(entry.column in columns and not entry.show_values for entry in self.allow_sensitive or ())

    @model_validator(mode="after")
    def _leaves_days_to_train_on(self) -> Self:
        if self.window <= self.holdout.last + 2 * self.spine.label_delay:
            raise _rule(
                f"window {format_duration(self.window)} must be longer than holdout.last "
                f"{format_duration(self.holdout.last)} plus two label delays, or no day is left to train on"
            )
        return self


class Confirmations(_Closed):
    """Drift counts when at least k of the last n observations of its check are bad, and the newest still is."""

    at_least: PositiveCount = 1
    of_last: PositiveCount = 1

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.at_least > self.of_last:
            raise _rule(f"at_least {self.at_least} of_last {self.of_last} can never be reached")
        return self


class OnDrift(_Closed):
    """Which drift is worth a retrain. Severity runs from 0 to 1."""

    min_severity: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.0
    confirmations: Confirmations = Confirmations()


class OnData(_Closed):
    """Which new data is worth a retrain: ``min_new_rows`` rows of the spine's source since the last run."""

    datasets: Annotated[tuple[Name, ...], Field(min_length=1)]
    min_new_rows: Count = 0


class OnPerformance(_Closed):
    """Performance below its threshold is worth a retrain by itself."""


class On(_Closed):
    """The kinds of events that lead to a retrain; a kind left out is ignored (its events are suppressed)."""

    drift: OnDrift | None = None
    data: OnData | None = None
    performance: OnPerformance | None = None


class Money(_Closed):
    """So much money, at the price of a core hour."""

    amount: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
    core_hour: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
    unit: Annotated[str, Field(min_length=1, max_length=16)]


class Budget(_Closed):
    """How much a model may spend, by business-local day and month.

    A core hour is an hour of a finished step times ``runtime.threads``; each tuning worker is a step of its own. Before
    a run starts its forecast (:mod:`ratchet.domain.forecasting`) must fit into what is left of each limit.
    """

    runs_per_day: PositiveCount
    core_hours_per_day: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = None
    core_hours_per_month: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = None
    money_per_month: Money | None = None

    @property
    def counts_hours(self) -> bool:
        """Whether anything but runs is limited."""
        return (self.core_hours_per_day, self.core_hours_per_month, self.money_per_month) != (None, None, None)


class WhenItPays(_Closed):
    """A run for data or mild drift waits until it pays (:mod:`ratchet.domain.waiting`).

    ``core_hour`` is what one costs, in the unit of the payoff.
    """

    core_hour: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]


class Retrain(_Closed):
    """When to retrain. ``debounce`` runs on the wall clock, everything else on the business clock.

    ``quiet_hours`` are windows of local time (:mod:`ratchet.domain.quiet`). ``priority`` (higher first) and ``group``
    order the fleet (:mod:`ratchet.domain.fleet`). ``on_overload`` says what a run does that the core hours left, or
    the crowd that waits for the fleet's places, have no room for: wait its turn and run whole, or run fewer trials.
    ``urgent`` is the severity of drift that does not wait for a follow-up, or until it pays; None is never.
    """

    on: On
    schedule: Cron | None = None
    debounce: Duration = timedelta(seconds=30)
    cooldown: Duration = timedelta(0)
    max_event_age: PositiveDuration = timedelta(days=30)
    quiet_hours: tuple[Quiet, ...] = ()
    budget: Budget
    on_overload: Literal["defer", "shrink"] = "defer"
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = 5
    group: Name | None = None
    urgent: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None
    when_it_pays: WhenItPays | None = None

    @field_validator("quiet_hours")
    @classmethod
    def _awake_at_times(cls, value: tuple[QuietWindow, ...]) -> tuple[QuietWindow, ...]:
        if not leaves_time_awake(value):
            raise _rule("the windows cover the whole week: nothing would ever start")
        return value

    @model_validator(mode="after")
    def _urgent_is_heard(self) -> Self:
        if self.urgent is None:
            return self
        if self.on.drift is None:
            raise _rule("urgent is a severity of drift, but retrain.on has no drift")
        if self.urgent < self.on.drift.min_severity:
            raise _rule(
                f"urgent {self.urgent:g} lies below min_severity {self.on.drift.min_severity:g}: "
                "all drift that counts would be urgent"
            )
        return self


class Dimension(_Closed):
    """One parameter's search space: exactly one of ``int: [low, high]``, ``float: [low, high]``, ``categorical: […]``.

    Bounds are inclusive. ``log: true`` samples a range on the logarithmic scale and needs ``low > 0``.
    """

    int_range: tuple[Annotated[int, Field(strict=True)], Annotated[int, Field(strict=True)]] | None = Field(
        default=None, alias="int"
    )
    float_range: tuple[Number, Number] | None = Field(default=None, alias="float")
    categorical: tuple[Scalar, ...] | None = None
    log: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _can_be_sampled(self) -> Self:
        given = [part for part in (self.int_range, self.float_range, self.categorical) if part is not None]
        if len(given) != 1:
            raise _rule("needs exactly one of int: [low, high], float: [low, high], categorical: [...]")
        if self.categorical is not None:
            if len({(type(choice), choice) for choice in self.categorical}) < max(len(self.categorical), 1):
                raise _rule(f"needs distinct choices, at least one, but got {list(self.categorical)}")
            if self.log:
                raise _rule("log applies to int and float, not to categorical")
            return self
        if self.low > self.high:
            raise _rule(f"low must not exceed high, but got [{self.low}, {self.high}]")
        if self.log and self.low <= 0:
            raise _rule(f"log needs low > 0, but got [{self.low}, {self.high}]")
        return self

    @property
    def kind(self) -> Literal["int", "float", "categorical"]:
        """Which of the three it is."""
        if self.int_range is not None:
            return "int"
        return "float" if self.float_range is not None else "categorical"

    @property
    def low(self) -> float:
        """Lower bound, inclusive; an ``int`` for kind ``int``. ``ValueError`` for kind ``categorical``."""
        return self._bounds[0]

    @property
    def high(self) -> float:
        """Upper bound, inclusive; an ``int`` for kind ``int``. ``ValueError`` for kind ``categorical``."""
        return self._bounds[1]

    @property
    def choices(self) -> tuple[bool | int | float | str, ...]:
        """The choices of kind ``categorical``, else empty."""
        return self.categorical or ()

    @property
    def _bounds(self) -> tuple[float, float]:
        bounds = self.int_range if self.int_range is not None else self.float_range
        if bounds is None:
            raise ValueError("a categorical dimension has choices, not bounds")
        return bounds


class Tuning(_Closed):
    """How a study spends its trials (:mod:`ratchet.domain.tuning`).

    ``cold`` looks at most proposals on fewer days and fits the survivors on all; ``retune`` first tries what was best
    before, and is ``cold`` where there was nothing. Both stop when more trials cannot gain what the gate counts, or
    when ``core_seconds`` (of fitting and scoring, over all workers) are spent.
    """

    policy: Literal["retune", "cold"] = "retune"
    core_seconds: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = None


class Train(_Closed):
    """How a challenger is made: estimator, fixed parameters, search space, total trials, parallel workers.

    Without ``tuning`` every trial is fitted on all rows, the champion's parameters first.
    With a ``generation`` the study goes by generations of so many trials (:mod:`ratchet.domain.generations`) and finds
    the same for any number of workers; without one its trials are asynchronous.
    """

    estimator: str
    fixed: dict[str, Scalar] = Field(default_factory=dict)
    search_space: Annotated[dict[str, Dimension], Field(min_length=1)]
    trials: PositiveCount
    workers: PositiveCount = 1
    generation: PositiveCount | None = None
    tuning: Tuning | None = None

    @field_validator("estimator")
    @classmethod
    def _known_estimator(cls, value: str) -> str:
        if value not in ESTIMATORS:
            near = get_close_matches(value, ESTIMATORS, n=1, cutoff=0.6)
            meant = f". Did you mean {near[0]!r}?" if near else ""
            raise _not_yet(f"estimator {value!r}; use one of {', '.join(ESTIMATORS)}{meant}")
        return value

    @field_validator("fixed", "search_space")
    @classmethod
    def _known_parameters(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        estimator = info.data.get("estimator", ESTIMATORS[0])
        for name in value:
            if name in PARAMETERS[estimator]:
                continue
            if name in OWNED_PARAMETERS:
                raise _rule(f"{name!r} cannot be set here: {OWNED_PARAMETERS[name]}")
            raise _rule(f"{name!r} is not a parameter of {estimator}.{did_you_mean(name, PARAMETERS[estimator])}")
        return value

    @model_validator(mode="after")
    def _can_be_fitted_to(self) -> Self:
        """What a regression or a ranking is fitted to."""
        fitted = self._fitted_to
        if fitted is None:
            return self
        name, known = fitted.parameter, ", ".join(fitted.values)
        if name in self.search_space:
            raise _at(("search_space", name), f"fix it under train.fixed, as one of {known}")
        value = self.fixed.get(name, fitted.values[0])
        if value not in fitted.values:
            raise _at(("fixed", name), f"must be one of {known}, but got {value!r}")
        if fitted.quantile is None or self._quantiles is None:
            return self
        section, values = self._quantiles
        if not all(isinstance(value, float) and 0 < value < 1 for value in values):
            raise _at((section, fitted.quantile), f"must lie between 0 and 1, without the ends, but got {values}")
        if value != fitted.values[0]:
            raise _at(
                (section, fitted.quantile),
                f"a quantile is what {fitted.values[0]} is fitted to, but train.fixed.{name} is {value!r}",
            )
        return self

    @property
    def _fitted_to(self) -> FittedTo | None:
        return REGRESSORS.get(self.estimator) or RANKERS.get(self.estimator)

    @property
    def _quantiles(self) -> tuple[str, tuple[Any, ...]] | None:
        """The section that names the quantile to fit, if one does, and its value, its choices or its range's ends."""
        name = self._fitted_to.quantile if self._fitted_to is not None else None
        if name is None:
            return None
        if name in self.fixed:
            return "fixed", (self.fixed[name],)
        searched = self.search_space.get(name)
        return None if searched is None else ("search_space", searched.choices or (searched.low, searched.high))

    @property
    def names_its_objective(self) -> bool:
        """Whether the spec says what a regression is fitted to, rather than leave it to its costs."""
        fitted = self._fitted_to
        if fitted is None:
            return False
        return self.fixed.get(fitted.parameter, fitted.values[0]) != fitted.values[0] or self._quantiles is not None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if both := sorted(self.fixed.keys() & self.search_space.keys()):
            raise _rule(f"{both[0]!r} is both fixed and searched; name it once")
        if self.workers > self.trials:
            raise _rule(f"workers {self.workers} must not exceed trials {self.trials}")
        if self.generation is not None and self.workers > self.generation:
            raise _rule(
                f"workers {self.workers} must not exceed generation {self.generation}: the others would always wait"
            )
        return self


class Guardrail(_Closed):
    """What must hold beside the uplift. Which limits a metric takes: :data:`ratchet.domain.metrics.METRICS`.

    - ``expected_calibration_error``: ``max_regression`` over the champion's, and/or an absolute ``max``; in [0, 1].
    - scikit-learn's scorers by name (``roc_auc``, ``neg_log_loss``, ``f1``, …), of which greater is better: at most
      ``max_regression`` below the champion's, and/or at least ``min``.
    - ``ndcg_at_k`` and ``precision_at_k`` of a ranking's best of each day, in the same way.
    - Fairlearn's differences between the groups of column ``by``, in [0, 1]: ``max_regression`` over the champion's,
      and/or ``max``; groups of fewer than ``min_rows`` rows are not compared.
    - ``payoff`` with a ``slice`` (a column, or ``column=value``): no slice of at least ``min_rows`` rows may lose more
      than ``max_regression`` payoff units per decision; ``required: true`` insists that it is there and judged.
    - ``decisions_flipped``: ``max`` share of decisions that differ from the champion's.
    - ``latency_p95_ms``: ``max`` milliseconds of processor time per decision.
    - ``model_size_mb``: ``max`` millions of bytes of the model's files.
    """

    metric: str
    slice: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(=.+)?$", max_length=200)] | None = None
    by: Name | None = None
    max_regression: Annotated[float, Field(strict=True, ge=0)] | None = None
    max: Annotated[float, Field(strict=True, gt=0)] | None = None
    min: Number | None = None
    min_rows: PositiveCount | None = None
    required: Annotated[bool, Field(strict=True)] = False

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        if value not in METRICS:
            raise _rule(f"{value!r} is not a known metric.{did_you_mean(value, METRICS)}")
        return value

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.metric != "payoff" and self.slice is not None:
            raise _not_yet(f"slices of {self.metric}; only payoff is judged by slice")
        if problem := misfit(self.metric, self.model_dump()):
            raise _rule(problem)
        return self

    @property
    def column(self) -> str | None:
        """The column whose values are the slices or the groups; None without one."""
        return self.by if self.slice is None else self.slice.partition("=")[0]


class ApprovalCondition(_Closed):
    """When a person is asked: the lower bound of the uplift, in payoff units per decision, lies below this."""

    lower_bound_below: Number


class Approval(_Closed):
    """Whether people must agree before a challenger serves, and how many (:mod:`ratchet.domain.approval`).

    ``when`` left out is always. ``expires`` runs on the wall clock from the moment of asking. ``two_people_above`` is
    the value at risk, in the payoff's unit, from which on two people must agree; None is never.
    """

    when: ApprovalCondition | None = None
    expires: PositiveDuration = timedelta(days=3)
    two_people_above: Annotated[float, Field(strict=True, ge=0)] | None = None

    @field_validator("when", mode="before")
    @classmethod
    def _always_or_a_condition(cls, value: object) -> object:
        if value == "always":
            return None
        if value is None or isinstance(value, Mapping | ApprovalCondition):
            return value
        raise _rule(f"must be always or a condition like {{lower_bound_below: 0.2}}, but got {value!r}")


class Gate(_Closed):
    """What a challenger must show. ``min_uplift`` and ``target_gain`` are payoff units per decision.

    ``lower`` and ``upper`` are each one-sided at ``confidence``. For ``non_inferiority`` ``min_uplift`` is the margin.
    ``looks`` are the shares of alpha that looks at one challenger may spend, in order (:mod:`ratchet.domain.looks`).
    ``also_judge`` names what is judged beside the tuned challenger, sharing alpha (:mod:`ratchet.domain.candidates`).
    ``deploy`` says what a verdict to promote lets serve: the artifact that was judged, or the same recipe fitted again
    on all mature rows, the judged ones included, under the spec's probation.
    ``shadow`` judges and records, and never promotes: what the gate would have done, before it is trusted to do it.
    """

    mode: Literal["superiority", "non_inferiority"] = "superiority"
    confidence: Annotated[float, Field(strict=True, gt=0.5, lt=1)] = 0.95
    min_uplift: Annotated[float, Field(strict=True, ge=0)] = 0.0
    target_gain: Annotated[float, Field(strict=True, gt=0)] | None = None
    looks: Annotated[tuple[Share, ...], Field(min_length=1)] = (1.0,)
    also_judge: Annotated[tuple[Literal["recalibrated_champion"], ...], Field(min_length=1)] | None = None
    deploy: Literal["judged", "refit"] = "judged"
    shadow: Annotated[bool, Field(strict=True)] = False
    guardrails: tuple[Guardrail, ...] = ()
    approval: Approval | None = None

    @field_validator("approval", mode="before")
    @classmethod
    def _never_always_or_more(cls, value: object) -> object:
        words = {"never": None, "always": Approval()}
        if isinstance(value, str) and value in words:
            return words[value]
        if isinstance(value, Mapping | Approval):
            return value
        raise _rule(
            f"must be never, always or a mapping like {{when: {{lower_bound_below: 0.2}}}}, but got {value!r}."
            + (did_you_mean(value, tuple(words)) if isinstance(value, str) else "")
        )

    @field_serializer("approval", mode="wrap", when_used="json")
    def _as_written(self, value: Approval | None, write: SerializerFunctionWrapHandler) -> object:
        if value is None:
            return "never"
        return "always" if value == Approval() else write(value)

    @field_validator("looks")
    @classmethod
    def _spend_alpha_once(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if sum(value) > 1 + TOLERANCE:
            raise _rule(f"shares of alpha must sum to 1 at most, but {list(value)} sum to {sum(value):g}")
        return value

    @field_validator("also_judge")
    @classmethod
    def _each_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(set(value)) < len(value):
            raise _rule(f"names a challenger twice: {list(value)}")
        return value

    @field_validator("guardrails")
    @classmethod
    def _named_once(cls, value: tuple[Guardrail, ...]) -> tuple[Guardrail, ...]:
        named = [(guardrail.metric, guardrail.slice, guardrail.by) for guardrail in value]
        if len(set(named)) < len(named):
            raise _rule("a metric (and slice or by) may be named once")
        return value


class PodResources(_Closed):
    """What a task's pod asks for, and may use: cores, memory as Kubernetes writes it (``512Mi``, ``4Gi``), whole GPUs.

    ``cpu`` is ``runtime.threads`` where it is not given. GPUs are those that the cluster offers as ``gpu_name``.
    """

    cpu: Annotated[float, Field(strict=True, gt=0, le=1024, allow_inf_nan=False)] | None = None
    memory: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,9}(Ki|Mi|Gi|Ti)$")] | None = None
    gpu: Count = 0
    gpu_name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]{1,253}/[A-Za-z0-9._-]{1,63}$")] = "nvidia.com/gpu"

    @model_validator(mode="after")
    def _something(self) -> PodResources:
        if self.cpu is None and self.memory is None and not self.gpu:
            raise _rule("names none of cpu, memory and gpu; leave it out")
        return self


class Runtime(_Closed):
    """Where and how long the steps run. ``threads`` is per task; ``retries`` per step.

    ``queue`` and ``executor`` are the orchestrator's own, of the steps that do the work. ``resources`` and ``image``
    make pods, so they want an executor that does; a deployment whose executor does not refuses them. ``environment`` is
    a lock file of the model's folder, by which those steps have packages of their own on any executor, and is bound by
    its digest when the spec is read.
    """

    pool: Annotated[str, Field(min_length=1, max_length=63)] = "default_pool"
    queue: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    executor: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    timeout: PositiveDuration = timedelta(hours=2)
    threads: PositiveCount = 1
    retries: Count = 1
    resources: PodResources | None = None
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    environment: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.-]*\.txt$", max_length=200)] | None = None
    environment_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @property
    def makes_pods(self) -> bool:
        """Whether the steps ask for pods of their own."""
        return self.resources is not None or self.image is not None

    @field_validator("image")
    @classmethod
    def _pinned(cls, value: str | None) -> str | None:
        if value is not None and not _PINNED_IMAGE.fullmatch(value):
            raise _rule(
                f"must be pinned by its digest, as name@sha256:…, so that a dossier says what ran, but got {value!r}"
            )
        return value

    @model_validator(mode="after")
    def _one_set_of_packages(self) -> Runtime:
        if self.environment is not None and self.image is not None:
            raise _at(("environment",), "names packages, and so does runtime.image: leave one of them out")
        if self.environment_sha256 is not None and self.environment is None:
            raise _at(("environment_sha256",), "is of runtime.environment, which is not there")
        return self

    @model_validator(mode="after")
    def _room_for_its_threads(self) -> Runtime:
        cpu = self.resources.cpu if self.resources else None
        if cpu is not None and cpu < self.threads:
            raise _at(("resources", "cpu"), f"is {cpu:g}, but each task runs {self.threads} threads (runtime.threads)")
        return self


class LossLimit(_Closed):
    """The loss, over all decisions since the promotion, that is reverted at once; ``unit`` is that of the payoff."""

    amount: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
    unit: Annotated[str, Field(min_length=1, max_length=16)]


class Probation(_Closed):
    """The watch after a promotion over a sitting champion (:mod:`ratchet.domain.probation`), ``for`` whole local days.

    ``revert`` says what follows when the new champion is worse: its predecessor is taken back (``automatic``), or the
    owner is told and decides (``alert``); a loss beyond ``loss_limit`` counts as worse at once. ``on_new_promotion``:
    a challenger that passes meanwhile waits for the end of the watch, or takes over and is watched itself.
    """

    duration: WholeDays = Field(alias="for")
    revert: Literal["automatic", "alert"] = "automatic"
    loss_limit: LossLimit | None = None
    on_new_promotion: Literal["wait", "restart"] = "wait"

    @field_validator("duration")
    @classmethod
    def _days_enough(cls, value: timedelta) -> timedelta:
        if not timedelta(days=7) <= value <= timedelta(days=365):
            raise _rule(
                f"must be between 7d and 365d, or the watch could show nothing, but got {format_duration(value)}"
            )
        return value


Watched = Literal["quality", "features", "predictions", "payoff"]


class Monitor(_Closed):
    """What looks at the champion's new rows between retrains, and asks for one (:mod:`ratchet.workflow.monitoring`).

    A window of the newest whole ``window`` of local days is looked at whenever the data reach ``every`` beyond the last
    one, and by the cron ``schedule`` where there is one. The reference is the champion's own training snapshot.
    ``checks`` are what is looked at: ``quality`` of the data, drift of ``features`` and of ``predictions``, and the
    ``payoff``, realised and expected. ``level`` is the chance that a family of features is called drifted when nothing
    moved; days are taken together by ``block`` (:mod:`ratchet.domain.drift`). Features that are ``seasonal`` move with
    the calendar: they are told and call nothing. Fewer rows than ``min_rows`` say nothing of drift. A dataset that is
    complete no later than ``max_age`` ago is told.
    """

    window: WholeDays = timedelta(days=28)
    every: WholeDays = timedelta(days=7)
    schedule: Cron | None = None
    checks: Annotated[tuple[Watched, ...], Field(min_length=1)] = get_args(Watched)
    level: Annotated[float, Field(strict=True, gt=0, le=0.5)] = 0.05
    block: WholeDays = timedelta(days=7)
    seasonal: tuple[Name, ...] = ()
    min_rows: PositiveCount = 1000
    max_age: PositiveDuration | None = None

    @field_validator("checks", "seasonal")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise _rule(f"names one twice: {list(value)}")
        return value

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        if self.window % self.block:
            raise _rule(
                f"window {format_duration(self.window)} must be whole blocks of {format_duration(self.block)}, or some "
                "of its days would belong to none"
            )
        return self


class Scoring(_Closed):
    """Batch predictions of the champion, by whole local days (:mod:`ratchet.domain.scoring`).

    A day is scored when the watermarks of the spec's datasets reach its end less ``horizon``: so long ahead of its
    event the source lists every row. ``on_data`` starts a run as soon as a day is complete, ``schedule`` at its times.
    ``catch_up`` is how far back from the newest complete day unscored ones are looked for; older ones are scored when a
    person asks. ``shadow: challenger`` scores the newest judged challenger beside.
    """

    on_data: Annotated[bool, Field(strict=True)] = True
    schedule: Cron | None = None
    horizon: Duration = timedelta(0)
    catch_up: WholeDays = timedelta(days=35)
    shadow: Literal["challenger", "none"] = "none"

    @model_validator(mode="after")
    def _something_starts_it(self) -> Self:
        if not self.on_data and self.schedule is None:
            raise _at(("schedule",), "must be given where on_data is false, or nothing would ever start a run")
        return self


class Retention(_Closed):
    """What ``ratchet purge`` leaves of a model's past (:mod:`ratchet.domain.retention`); a rule left out keeps all.

    ``snapshots`` and ``versions``: the newest so many, and whatever the champion, its predecessor, an open attempt or a
    retained version needs. ``studies``, ``predictions`` and ``reports`` (of the monitor): so long, in business time.
    ``events`` (business time) and ``dead_letters`` with the model's name as their key (wall clock): so long, and until
    the month is over (:mod:`ratchet.domain.housekeeping`). ``attempts`` are the rows of the ledger with dossiers,
    evidence and cards.
    """

    snapshots: PositiveCount | None = None
    versions: PositiveCount | None = None
    studies: PositiveDuration | None = None
    predictions: PositiveDuration | None = None
    reports: PositiveDuration | None = None
    events: PositiveDuration | None = None
    dead_letters: PositiveDuration | None = None
    attempts: Literal["forever"] = "forever"

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if all(getattr(self, name) is None for name in RETAINED):
            raise _rule(f"keeps everything: give one of {', '.join(RETAINED)}, or leave it out")
        return self

    @field_validator("dead_letters")
    @classmethod
    def _kafka_forgets_first(cls, value: timedelta | None) -> timedelta | None:
        if value is not None and value < REDELIVERED_FOR:
            raise _rule(
                f"must be {format_duration(REDELIVERED_FOR)} or longer, as long as Kafka may deliver a record again, "
                f"but got {format_duration(value)}"
            )
        return value


RETAINED = ("snapshots", "versions", "studies", "predictions", "reports", "events", "dead_letters")

NoticeKind = Literal[
    "promoted",
    "refused",
    "approval",
    "reverted",
    "rolled_back",
    "failed",
    "self_test",
    "broken_data",
    "stale_data",
]
"""What a model's owner can be told (:mod:`ratchet.domain.notifications`)."""


class Notify(_Closed):
    """What the owner is told, through which of the deployment's channels; left out: everything, its default channels.

    A request for approval goes to ``owner.escalation`` when it has waited for ``escalate_after``, or for half of the
    time until it expires where that is shorter; both run on the wall clock.
    """

    channels: tuple[Name, ...] | None = None
    kinds: tuple[NoticeKind, ...] | None = None
    escalate_after: PositiveDuration = timedelta(hours=24)

    @field_validator("channels", "kinds")
    @classmethod
    def _each_once_and_at_least_one(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value == ():
            raise _rule("names nothing, so that nobody would be told: leave it out, or name one")
        if len(set(value or ())) < len(value or ()):
            raise _rule(f"names one twice: {list(value or ())}")
        return value


class ModelSpec(_Closed):
    """All that one model is (DESIGN §6). Frozen and closed; equal specs have equal digests."""

    model: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=63)]
    owner: Owner
    business: Business
    data: Data
    retrain: Retrain
    train: Train
    gate: Gate
    probation: Probation | None = None
    monitor: Monitor | None = None
    scoring: Scoring | None = None
    retention: Retention | None = None
    notify: Notify | None = None
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        limit, unit = self.probation.loss_limit if self.probation else None, self.business.payoff.unit
        if limit is not None and limit.unit != unit:
            raise _rule(f"probation.loss_limit.unit must be that of business.payoff, {unit!r}, but got {limit.unit!r}")
        return self

    @model_validator(mode="after")
    def _a_recalibrated_champion_serves_as_it_was_judged(self) -> Self:
        if self.gate.also_judge is None:
            return self
        if self.business.kind != "classifier":
            raise _at(
                ("gate", "also_judge"),
                f"a recalibrated champion has another map from scores to probabilities, and a {self.business.kind} has "
                "neither: leave it out",
            )
        if self.gate.deploy == "refit":
            raise _at(
                ("gate", "also_judge"),
                "a recalibrated champion shares the champion's scorer and has no recipe to fit again: write "
                "deploy: judged, or leave it out",
            )
        return self

    @model_validator(mode="after")
    def _a_refit_is_watched(self) -> Self:
        if self.gate.deploy == "refit" and self.probation is None:
            raise _rule(
                "gate.deploy: refit needs a probation: the refit itself is judged by nothing, so it serves under watch "
                "or not at all. Add probation: {for: 28d}, or write deploy: judged"
            )
        return self

    @model_validator(mode="after")
    def _one_kind_of_model(self) -> Self:
        """A classifier's score leads to acting or not, a regression's is the decision, a ranking's orders a day."""
        kind, estimator = self.business.kind, self.train.estimator
        if kind_of(estimator) != kind:
            wanted = [name for name in ESTIMATORS if kind_of(name) == kind]
            of = {
                "classifier": "is to act or not",
                "regression": "acts on the prediction",
                "ranking": "acts on each day's best",
            }[kind]
            raise _at(
                ("train", "estimator"), f"business.decision {of}: use {' or '.join(wanted)}, but got {estimator!r}"
            )
        for index, guardrail in enumerate(self.gate.guardrails):
            if problem := unfit(guardrail.metric, kind):
                raise _at(("gate", "guardrails", index, "metric"), problem)
        payoff, fitted = self.business.payoff, REGRESSORS.get(estimator)
        by_row = payoff.hook is not None or bool(payoff.expressions)
        if fitted is not None and by_row and not self.train.names_its_objective:
            raise _at(
                ("train", "fixed"),
                "where the costs are not the same on every row, they name no quantile to fit: fix or search "
                f"{fitted.quantile}, or fix {fitted.parameter} as one of {', '.join(fitted.values[1:])}",
            )
        return self

    @model_validator(mode="after")
    def _an_event_is_known_for_as_long_as_it_counts(self) -> Self:
        """Told again after its row is gone it is expired at once, and starts nothing."""
        events, counts = self.retention.events if self.retention else None, self.retrain.max_event_age
        if events is not None and events < counts:
            raise _at(
                ("retention", "events"),
                f"must be retrain.max_event_age, {format_duration(counts)}, or longer, or an event that is published "
                f"again would count again, but got {format_duration(events)}",
            )
        return self

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets whose watermarks bound a run: the spine's source first, then those the spec listens to."""
        named = self.retrain.on.data.datasets if self.retrain.on.data else ()
        return tuple(dict.fromkeys((self.data.spine.source, *named)))

    def canonical_json(self) -> str:
        """The spec with all defaults filled in, keys sorted; reads back to an equal spec."""
        return _canonical(self.model_dump(mode="json"))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of :meth:`canonical_json`, hexadecimal: layout, comments and spelled-out defaults do not matter."""
        return digest_of(self.model_dump(mode="json"))


def digest_of(document: Mapping[str, Any]) -> str:
    """The digest of a spec as it was kept: that of its own day, whatever keys specs have been given since."""
    return hashlib.sha256(_canonical(document).encode()).hexdigest()


def _canonical(document: Mapping[str, Any]) -> str:
    return json.dumps(_without_none(document), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Problem:
    """One broken rule: ``path`` as in ``("gate", "guardrails", 0, "metric")`` and a sentence that says what to do."""

    path: tuple[str | int, ...]
    message: str

    @property
    def where(self) -> str:
        """The path as a person writes it: ``gate.guardrails[0].metric``; ``spec`` for the whole."""
        return (
            "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path).removeprefix(".")
            or "spec"
        )

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def explain(error: ValidationError) -> tuple[Problem, ...]:
    """Translate pydantic's report into problems a data scientist can act on, in the order of the spec."""
    return tuple(_problems(error))


def _problems(error: ValidationError) -> Iterator[Problem]:
    for detail in error.errors(include_url=False):
        path = tuple(part for part in detail["loc"] if not _is_union_branch(part))
        kind, got = detail["type"], detail["input"]
        if kind == "extra_forbidden":
            yield Problem(path, _about_unknown_key(path))
        elif kind == "missing":
            yield Problem(path, "is required and missing")
        elif kind in {"rule", "duration", "not_yet_supported"}:
            yield Problem(path, detail["msg"])
        else:
            rule = detail["msg"].removeprefix("Input ").removeprefix("Value ")
            yield Problem(path, f"{rule}, but got {_shown(got)}")


def _is_union_branch(part: int | str) -> bool:
    """Pydantic puts the tried branch of a union into the location; no key of a spec looks like one."""
    return isinstance(part, str) and part.startswith(("literal[", "constrained-", "function-"))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _about_unknown_key(path: tuple[str | int, ...]) -> str:
    *parents, key = path
    pattern = tuple("*" if isinstance(part, int) else part for part in parents)
    return f"{key!r} is not a known key.{did_you_mean(str(key), known_keys(pattern))}"


def known_keys(path: tuple[str, ...]) -> tuple[str, ...]:
    """The keys that a spec may hold at ``path`` (``*`` for a list's items); empty where any may stand."""
    current: type[BaseModel] | None = ModelSpec
    for part in path:
        if current is None:
            return ()
        if part == "*":
            continue
        if current is Dimension or part not in _aliases(current):
            current = Dimension if current is Train or current is Dimension else None
            continue
        current = _model_in(current.model_fields[_aliases(current)[part]].annotation)
    return tuple(_aliases(current)) if current else ()


def _aliases(model: type[BaseModel]) -> dict[str, str]:
    return {field.alias or name: name for name, field in model.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The spec section inside an annotation such as ``OnDrift | None`` or ``tuple[Guardrail, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _model_in(inner)) is not None:
            return found
    return None


def did_you_mean(got: str, known: Iterator[str] | Mapping[str, Any] | frozenset[str] | tuple[str, ...]) -> str:
    """``" Did you mean 'x'?"`` for the nearest known name, else the known names, else nothing."""
    names = sorted(known)
    if near := get_close_matches(got, names, n=1, cutoff=0.6):
        return f" Did you mean {near[0]!r}?"
    return f" Known: {', '.join(names)}." if names else ""
