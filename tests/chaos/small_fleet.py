"""Models for the chaos suite: the shipped one made as small as the rules allow, under several names.

A verdict takes two fresh days of a tenth of the flights, and always promotes: these runs show that nothing is lost or
doubled, not what a model is worth. ``python tests/chaos/small_fleet.py <models folder> <count>`` writes the specs.
"""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML

SHIPPED = Path(__file__).resolve().parents[2] / "include" / "models" / "flight_delay" / "model.yaml"
FRESH_DAYS = 2
"""How many unused days a verdict needs, and takes."""
FIRST_DAY, FIRST_AS_OF, LAST_DAY = date(2013, 1, 1), date(2013, 2, 25), date(2013, 12, 29)
ONE_OF = 10
"""How many flights one row of the thinned data stands for."""


def names(count: int) -> tuple[str, ...]:
    """The models' names."""
    return tuple(f"chaos_{number}" for number in range(1, count + 1))


def write(models_dir: Path, count: int) -> None:
    """Write one spec per model below ``models_dir``."""
    yaml = YAML()
    for model in names(count):
        spec = yaml.load(SHIPPED.read_text())
        spec["model"] = model
        del spec["monitor"]
        spec["data"]["window"] = "50d"
        spec["data"]["holdout"] |= {"last": f"{FRESH_DAYS}d", "min_clusters": FRESH_DAYS}
        spec["retrain"] |= {"debounce": "1s", "cooldown": "0s", "max_event_age": "30d"}
        spec["retrain"]["on"]["data"]["min_new_rows"] = 100
        spec["retrain"]["budget"]["runs_per_day"] = 50
        spec["train"]["fixed"] |= {"n_estimators": 3, "max_bin": 16}
        spec["train"]["search_space"] = {"max_depth": {"int": [1, 2]}}
        spec["train"] |= {"trials": 1, "workers": 1}
        spec["gate"] |= {"mode": "non_inferiority", "min_uplift": 100_000.0}
        spec["gate"]["guardrails"] = [{"metric": "expected_calibration_error", "max_regression": 1.0}]
        file = models_dir / model / "model.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w") as stream:
            yaml.dump(spec, stream)


def thin(data_dir: Path) -> None:
    """Keep one flight of ``ONE_OF``: an attempt then costs its imports and its processes, not its rows."""
    file = data_dir / "flights.parquet"
    flights = pq.read_table(file)
    pq.write_table(flights.take(pa.array(range(0, flights.num_rows, ONE_OF))), file, compression="zstd")


if __name__ == "__main__":
    if sys.argv[1] == "specs":
        write(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        thin(Path(sys.argv[2]))
