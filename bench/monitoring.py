"""Does the monitor keep its level on real days, and what does it see? The flights of 2013, by whole weeks.

*A/A*: weeks of the year are drawn by lot, without repetition, into a reference and a window of new rows. Nothing has
moved, so that whatever alarms is false. Each world is asked four ways: the monitor (``ratchet.domain.drift.compare``);
a row-wise test (``scipy.stats.ks_2samp`` and ``chi2_contingency`` at level / features, Bonferroni), on fewer worlds,
for it reads every row, and on four halves: each quarter's weeks in two by lot; and fixed bounds, those that a drift
report usually ships with: Wasserstein's distance in standard deviations, or Jensen-Shannon's, of at least 0.1.

*Power*: in the same worlds one feature of the new rows is moved by a quarter, half and one standard deviation (of a
category: as many rows take the most frequent value as move its indicator by that). Beside it stands an *oracle*: it is
told which feature moved and how, looks at the difference of that feature's day means alone, and its critical value is
the true one, taken from other A/A worlds. Once at the feature's own level, once at that of the whole family (its
critical value that of the largest difference over all features). The monitor is told nothing.

*Months*: what the monitor would have said of the year as it happened: the four weeks up to each month's end beside the
rows that a first champion of the first of April is trained on, with no season declared and with the weather's.

    python -m bench.monitoring           # about two minutes of one processor; rows go to bench/results/monitoring.json
    python -m bench.monitoring --quick   # a few worlds, written nowhere
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats

from bench.reports import machine, write
from ratchet.domain.drift import (
    BLOCK_DAYS,
    Profile,
    arrangements,
    compare,
    distances,
    of_categories,
    of_numbers,
    p_values,
    score,
)
from ratchet.domain.holdout import NotEnoughFreshDays, plan_holdout

LEVEL = 0.05
MOST_ALARMS = 0.07
NEAR = 0.10
REFERENCE_WEEKS, NEW_WEEKS = 26, 4
SHIFTS = (0.25, 0.5, 1.0)
FIXED_BOUND = 0.1
FIRST = date(2013, 1, 1)
SEASONAL = ("temperature_f", "dew_point_f", "humidity_percent", "wind_mph", "gust_mph", "visibility_miles")
ORACLE_WORLDS = 1_000
QUICK, WHOLE = (100, 10, 5), (1_000, 100, 20)
"""A/A worlds, worlds with planted shifts, and worlds that the row-wise tests are asked."""
Floats = npt.NDArray[np.float64]
Row = dict[str, Any]


@dataclass(frozen=True)
class Feature:
    """One feature of the year's whole weeks: its rows, its weeks as they are and as moved by each shift, its days."""

    name: str
    values: npt.NDArray[Any]
    plain: Profile
    moved: dict[float, Profile]
    totals: Floats
    known: Floats
    moved_by: dict[float, Floats]

    def in_world(self, weeks: npt.NDArray[np.intp], shift: float = 0.0) -> Profile:
        """Its profile in the world of these weeks, the new ones first, moved in them."""
        if not shift:
            return Profile(self.name, self.plain.counts[weeks], self.plain.bins, self.plain.levels)
        profile = self.moved[shift]
        n_weeks = self.plain.counts.shape[0]
        rows = np.concatenate([weeks[:NEW_WEEKS] + n_weeks, weeks[NEW_WEEKS:]])
        return Profile(self.name, profile.counts[rows], profile.bins, profile.levels)

    def day_means(self, weeks: npt.NDArray[np.intp], shift: float = 0.0) -> float:
        """The difference of the mean of day means, new weeks less the reference's."""
        days = (weeks[:, None] * BLOCK_DAYS + np.arange(BLOCK_DAYS)).ravel()
        totals = self.totals[days]
        if shift:
            totals = totals.copy()
            totals[: NEW_WEEKS * BLOCK_DAYS] += self.moved_by[shift][days[: NEW_WEEKS * BLOCK_DAYS]]
        with np.errstate(invalid="ignore"):
            means = totals / self.known[days]
        new, old = means[: NEW_WEEKS * BLOCK_DAYS], means[NEW_WEEKS * BLOCK_DAYS :]
        return float(np.nanmean(new) - np.nanmean(old))


def year() -> tuple[pa.Table, tuple[str, ...]]:
    """The flights of 2013 with their features as known at the decision."""
    from ratchet.adapters.features_feast import FeastFeatures  # noqa: PLC0415 - six seconds
    from ratchet.adapters.specs import load_spec  # noqa: PLC0415
    from ratchet.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    features = FeastFeatures(settings.feature_repo_dir, settings.data_dir)
    spec = load_spec(settings.models_dir / "flight_delay" / "model.yaml")
    features.apply()
    spine = features.spine(spec, as_of=datetime(2014, 6, 1, tzinfo=UTC), start=date(2013, 1, 1), end=date(2014, 1, 1))
    return features.historical(spec, spine), features.feature_names(spec)


def read(table: pa.Table, names: tuple[str, ...]) -> tuple[list[Feature], npt.NDArray[np.intp], int]:
    """The features by week and by day, which day of the year each row is of, and how many whole weeks there are."""
    day = (np.asarray(table.column("day").to_pylist(), dtype="datetime64[D]") - np.datetime64("2013-01-01")).astype(
        np.intp
    )
    n_weeks = int(day.max() + 1) // BLOCK_DAYS
    kept = day < n_weeks * BLOCK_DAYS
    day = day[kept]
    week = day // BLOCK_DAYS
    features = []
    for turn, name in enumerate(names, start=1):
        progress(f"reading {name}", turn, len(names))
        column = table.column(name)
        if pa.types.is_string(column.type):
            values = np.asarray(column.to_pylist(), dtype=object)[kept]
            features.append(_category(name, values, day, week, n_weeks))
        else:
            values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)[kept]
            features.append(_number(name, values, day, week, n_weeks))
    return features, day, n_weeks


def _number(name: str, values: Floats, day: Any, week: Any, n_weeks: int) -> Feature:
    known, n_days = np.isfinite(values), n_weeks * BLOCK_DAYS
    spread = float(values[known].std())
    count = np.bincount(day[known], minlength=n_days).astype(np.float64)
    moved = {
        shift: of_numbers(
            name, np.concatenate([values, values + shift * spread]), np.concatenate([week, week + n_weeks]), 2 * n_weeks
        )
        for shift in SHIFTS
    }
    return Feature(
        name=name,
        values=values,
        plain=of_numbers(name, values, week, n_weeks),
        moved=moved,
        totals=np.bincount(day[known], weights=values[known], minlength=n_days).astype(np.float64),
        known=count,
        moved_by={shift: shift * spread * count for shift in SHIFTS},
    )


def _category(name: str, values: npt.NDArray[Any], day: Any, week: Any, n_weeks: int) -> Feature:
    random, n_days = np.random.default_rng(7), n_weeks * BLOCK_DAYS
    found, rows = np.unique(values.astype(str), return_counts=True)
    common = found[int(rows.argmax())]
    is_common = values == common
    share = float(is_common.mean())
    count = np.bincount(day, minlength=n_days).astype(np.float64)
    moved, moved_by = {}, {}
    for shift in SHIFTS:
        # Each other row takes the frequent value with the chance that moves the share by the shift; all, if it must.
        taken = min(1.0, shift * (share * (1 - share)) ** 0.5 / (1 - share))
        turned = ~is_common & (random.random(values.size) < taken)
        other = np.where(turned, common, values)
        moved[shift] = of_categories(
            name, np.concatenate([values, other]), np.concatenate([week, week + n_weeks]), 2 * n_weeks
        )
        moved_by[shift] = np.bincount(day[turned], minlength=n_days).astype(np.float64)
    return Feature(
        name=name,
        values=values,
        plain=of_categories(name, values, week, n_weeks),
        moved=moved,
        totals=np.bincount(day[is_common], minlength=n_days).astype(np.float64),
        known=count,
        moved_by=moved_by,
    )


def months(features: list[Feature], day: npt.NDArray[np.intp]) -> list[Row]:
    """The look at the end of each month from April on: severity and what moved, without and with declared seasons."""
    planned = plan_holdout(
        as_of=datetime(2013, 4, 1, 4, tzinfo=UTC),
        timezone="America/New_York",
        label_delay=timedelta(days=2),
        window=timedelta(days=180),
        last=timedelta(days=28),
        min_clusters=14,
        train_floor=FIRST,
    )
    if isinstance(planned, NotEnoughFreshDays):
        raise TypeError("three months hold a holdout")
    trained = (planned.calibrate_end - FIRST).days
    first_block = trained % BLOCK_DAYS
    rows = []
    for month in range(5, 13):
        end = (date(2013, month, 1) - FIRST).days
        blocks = np.full(day.size, -1, dtype=np.intp)
        old = (day >= first_block) & (day < trained)
        new = (day >= end - NEW_WEEKS * BLOCK_DAYS) & (day < end)
        blocks[new] = (day[new] - end) // BLOCK_DAYS + NEW_WEEKS
        blocks[old] = NEW_WEEKS + (day[old] - first_block) // BLOCK_DAYS
        kept = blocks >= 0
        is_new = np.arange(int(blocks.max()) + 1) < NEW_WEEKS
        profiles = [
            (of_categories if f.plain.levels is None else of_numbers)(f.name, f.values[kept], blocks[kept], is_new.size)
            for f in features
        ]
        said: Row = {"up_to": date(2013, month, 1).isoformat()}
        for name, left_out in (("all", ()), ("seasons declared", SEASONAL)):
            found = compare([p for p in profiles if p.feature not in left_out], is_new, level=LEVEL)
            moved = [f"{f.feature} {f.severity:.2f}" for f in found.drifted]
            said[name] = {"p": round(found.p_value, 3), "severity": round(found.severity, 3), "moved": moved}
        rows.append(said)
        progress("months", month - 4, 8)
    return rows


def worlds(n_weeks: int, count: int, seed: int) -> list[tuple[int, npt.NDArray[np.intp]]]:
    """A/A worlds, numbered from 1: the weeks of each, the new ones first."""
    random = np.random.default_rng(seed)
    return [(i + 1, random.permutation(n_weeks)[: REFERENCE_WEEKS + NEW_WEEKS]) for i in range(count)]


def oracle_bounds(features: list[Feature], n_weeks: int) -> tuple[Floats, Floats]:
    """Critical values of the day-mean oracle, (n_features,) each: at each one's own level, and at the family's."""
    asked = worlds(n_weeks, ORACLE_WORLDS, seed=3)
    found = np.array([[abs(f.day_means(weeks)) for f in features] for _, weeks in asked])
    spread = found.mean(axis=0)
    varies = spread > 0
    family = float(np.quantile((found[:, varies] / spread[varies]).max(axis=1), 1 - LEVEL))
    return np.quantile(found, 1 - LEVEL, axis=0), family * spread


def row_wise(features: list[Feature], week: npt.NDArray[np.intp], weeks: tuple[Any, Any]) -> bool:
    """Whether the test that takes rows for independent alarms on new and old weeks, Bonferroni over features."""
    new, old = (np.isin(week, side) for side in weeks)
    smallest = 1.0
    for feature in features:
        if feature.plain.levels is None:
            table = np.stack([feature.plain.counts[side].sum(axis=0) for side in weeks])
            p = float(stats.chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue)
        else:
            after, before = (feature.values[side] for side in (new, old))
            p = float(stats.ks_2samp(after[np.isfinite(after)], before[np.isfinite(before)], method="asymp").pvalue)
        smallest = min(smallest, p)
        if smallest <= LEVEL / len(features):
            return True
    return False


def progress(what: str, done: int, of: int) -> None:
    """One line on a terminal, a line for each tenth elsewhere."""
    if sys.stderr.isatty():
        print(f"\r{what:<40} {done}/{of}", end="" if done < of else "\n", file=sys.stderr, flush=True)
    elif done == of or done % max(1, of // 10) == 0:
        print(f"{what} {done}/{of}", file=sys.stderr, flush=True)


def alarms(features: list[Feature], asked: list[tuple[int, npt.NDArray[np.intp]]]) -> Floats:
    """How many of these A/A worlds alarm: by the monitor, by its features one by one, by fixed bounds; CPU seconds."""
    is_new = np.arange(REFERENCE_WEEKS + NEW_WEEKS) < NEW_WEEKS
    monitor = fixed = single = 0
    began = time.process_time()
    for turn, weeks in asked:
        found = compare([f.in_world(weeks) for f in features], is_new, level=LEVEL, seed=turn)
        monitor += bool(found.drifted)
        single += any(f.p_value <= LEVEL for f in found.features)
        fixed += any((f.distance if f.shift is None else f.shift) >= FIXED_BOUND for f in found.features)
        progress("A/A worlds", turn, asked[-1][0])
    return np.array([monitor, single, fixed, time.process_time() - began])


def powers(features: list[Feature], bounds: tuple[Floats, Floats], asked: list[tuple[int, Any]]) -> Floats:
    """In how many of these worlds each planted shift is seen, (n_features, n_shifts, 4).

    By the monitor and by the oracle with its critical values ``bounds``, each at the feature's own level and at the
    family's.
    """
    is_new = np.arange(REFERENCE_WEEKS + NEW_WEEKS) < NEW_WEEKS
    seen = np.zeros((len(features), len(SHIFTS), 4))
    for turn, weeks in asked:
        new = arrangements(is_new, seed=turn)
        still = np.stack([score(*distances(f.in_world(weeks), new)) for f in features])
        for place, feature in enumerate(features):
            for which, shift in enumerate(SHIFTS):
                scores = still.copy()
                scores[place] = score(*distances(feature.in_world(weeks, shift), new))
                own, family = p_values(scores)
                oracle = abs(feature.day_means(weeks, shift))
                seen[place, which] += (
                    own[place] <= LEVEL,
                    oracle > bounds[0][place],
                    family[place] <= LEVEL,
                    oracle > bounds[1][place],
                )
        progress("planted shifts, worlds", turn, asked[-1][0])
    return seen


def halves(features: list[Feature], week: npt.NDArray[np.intp], n_weeks: int, count: int) -> tuple[int, float]:
    """How many of the four quarters' halves alarm row-wise, and the share of ``count`` A/A worlds."""
    random, alarmed = np.random.default_rng(4), 0
    for quarter in range(4):
        weeks = random.permutation(n_weeks // 4) + quarter * (n_weeks // 4)
        half = weeks.size // 2
        alarmed += row_wise(features, week, (weeks[:half], weeks[half:]))
    in_worlds = 0
    for turn, weeks in worlds(n_weeks, count, seed=1):
        in_worlds += row_wise(features, week, (weeks[:NEW_WEEKS], weeks[NEW_WEEKS:]))
        progress("row-wise, worlds", turn, count)
    return alarmed, in_worlds / count


def level_rows(found: Floats, count: int, row_wise_share: float, row_wise_worlds: int, of_four: int) -> list[Row]:
    """What came of the A/A worlds (:func:`alarms`), and of the row-wise tests."""
    monitor, single, fixed = (float(share) for share in found[:3] / count)
    rows: list[Row] = [
        {
            "name": f"A/A, {REFERENCE_WEEKS} weeks against {NEW_WEEKS}: share that alarms",
            "peer": peer,
            "ours": round(monitor, 4),
            "theirs": round(theirs, 4),
            "ratio": round(theirs / monitor, 1) if monitor else None,
            "unit": f"share of {count:,} worlds at level {LEVEL:g}",
            "goal": f"<= {MOST_ALARMS:g}",
            "met": monitor <= MOST_ALARMS,
        }
        for peer, theirs in (
            (f"row-wise tests, Bonferroni ({row_wise_worlds} worlds)", row_wise_share),
            (f"fixed bounds of {FIXED_BOUND:g} on any feature", fixed),
            ("the same permutations, one feature at a time", single),
        )
    ]
    halves_row: Row = {
        "name": "A/A halves of the four quarters that a row-wise test calls drifted",
        "peer": "row-wise tests, Bonferroni",
        "ours": None,
        "theirs": of_four,
        "ratio": None,
        "unit": "halves of 4",
        "goal": ">= 3: shows that it fails",
        "met": of_four >= 3,
    }
    return [*rows, halves_row]


def power_rows(features: list[Feature], seen: Floats, count: int) -> list[Row]:
    """What came of the planted shifts (:func:`powers`): per shift and level the mean, and who is furthest behind."""
    rows: list[Row] = []
    for which, shift in enumerate(SHIFTS):
        for first, of in ((0, "its own level"), (2, "the family's level")):
            ours, oracle = (seen[:, which, first + i] / count for i in (0, 1))
            worst = int(np.argmax(oracle - ours))
            rows.append(
                {
                    "name": f"power at {shift:g} SD in one feature of the new rows, {of}",
                    "peer": "day-mean oracle, told which feature",
                    "ours": round(float(ours.mean()), 3),
                    "theirs": round(float(oracle.mean()), 3),
                    "ratio": round(float(oracle.mean() / ours.mean()), 2),
                    "unit": f"mean over {len(features)} features, {count} worlds each",
                    "goal": f"each feature within {NEAR:g} of its oracle",
                    "met": bool(oracle[worst] - ours[worst] <= NEAR),
                    "furthest_behind": {
                        "feature": features[worst].name,
                        "ours": float(ours[worst]),
                        "oracle": float(oracle[worst]),
                    },
                    "by_feature": {f.name: [float(ours[i]), float(oracle[i])] for i, f in enumerate(features)},
                }
            )
    return rows


def main() -> None:
    """Measure, print, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few worlds; nothing is written")
    quick = parser.parse_args().quick
    count, planted, rowwise = QUICK if quick else WHOLE
    features, day, n_weeks = read(*year())
    by_month = months(features, day)
    of_four, of_worlds = halves(features, day // BLOCK_DAYS, n_weeks, rowwise)
    found = alarms(features, worlds(n_weeks, count, seed=1))
    seen = powers(features, oracle_bounds(features, n_weeks), worlds(n_weeks, planted, seed=2))
    rows = level_rows(found, count, of_worlds, rowwise, of_four) + power_rows(features, seen, planted)
    say(rows, by_month)
    print(f"one comparison of {len(features)} features: {found[3] / count:.2f} CPU s")
    if not quick:
        more = {"cpu_seconds_each": round(float(found[3]) / count, 3), "months": by_month}
        write("monitoring", rows, machine(count, "numpy", "scipy"), **more)


def say(rows: list[Row], by_month: list[Row]) -> None:
    """Print what was found."""
    for month in by_month:
        print(f"up to {month['up_to']}: {month['all']}\n    seasons declared: {month['seasons declared']}")
    for row in rows:
        print(f"{row['name']}: {row['ours']} beside {row['peer']} {row['theirs']} ({row['goal']}: {row['met']})")
        if "furthest_behind" in row:
            print(f"    furthest behind: {row['furthest_behind']}")


if __name__ == "__main__":
    main()
