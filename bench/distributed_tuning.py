"""One study on 1, 2 and 4 workers, beside the same fits dealt out beforehand; a killed worker; what storages cost.

Flights of January 2013, the shipped spec, on few rows so that what is not fitting weighs most. The workers are
processes of this machine that share a study in a journal; they have imported what they need before the clock starts.
The peer does the same fits, with the same early stopping, in as many processes, each told beforehand which are its
own: no study, no storage, no waiting for proposals. That is as fast as the machine goes with so many processes.
Contenders take turns. On a machine that others use as well wall times mean little: the speed-up that the generations
allow is therefore also computed, from the CPU seconds of each trial, for workers that have a core each.

The bookkeeping of a trial (eight parameters, three attributes, an objective that sleeps a tenth of a second or two) is
measured beside Optuna's own ``Study.optimize`` on the same storage, and on PostgreSQL in a server of the bench's own.

    python -m bench.distributed_tuning            # rows in bench/results/distributed_tuning.json; ten quiet minutes
    python -m bench.distributed_tuning --quick    # a small one, to see that the bench works
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.reports import machine, write

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / ".ratchet" / "data"
RANGES = ("2013-01-01", "2013-01-17", "2013-01-19", "2013-02-01")
WORKERS = (1, 2, 4)
GENERATION = 8
ROUNDS = 3
SEED = 7
LEASE_SECONDS = 5.0
MOST_OVERHEAD = 1.1
LEAST_OF_LIMIT = 0.8
BOOKKEEPING_TRIALS = 40
PARAMETERS = 8
STUDY = "bench.1"


# -- a worker process: one JSON job per line, one JSON answer per line -------------------------------------------------


def serve(folder: Path) -> None:
    """Answer jobs until the parent closes the pipe."""
    import optuna  # noqa: F401, PLC0415 - imported before the clock starts

    from ratchet.adapters import studies_optuna  # noqa: F401, PLC0415
    from ratchet.adapters.models import XGBoostLearner  # noqa: PLC0415

    learner = XGBoostLearner()
    learner.versions()
    tell({"ready": os.getpid()})
    for line in sys.stdin:
        job = json.loads(line)
        cpu, began = time.process_time(), time.monotonic()
        told = {"tune": tune, "keep": keep}[job.pop("do")](folder, learner, **job)
        tell(told | {"cpu": time.process_time() - cpu, "wall": time.monotonic() - began})


def tell(what: Mapping[str, Any]) -> None:
    """One line to the parent."""
    print(json.dumps(what), flush=True)


def tune(
    folder: Path,
    learner: Any,
    *,
    url: str | None,
    worker: int,
    trials: int,
    generation: int | None,
    alone: bool,
    dealt: list[dict[str, Any]] | None,
    stall_in: int | None,
) -> dict[str, Any]:
    """This worker's share of a study, or the fits dealt to it; stalls for good in a trial, so that it can be killed."""
    from ratchet.adapters.studies_optuna import OptunaStudies  # noqa: PLC0415
    from ratchet.domain.spec import ModelSpec  # noqa: PLC0415
    from ratchet.workflow.training import Columns, Ranges, tune_worker  # noqa: PLC0415

    described = json.loads((folder / "rows.json").read_text())
    spec = described["spec"]
    spec["train"] |= {"generation": generation, "workers": 1, "trials": trials}
    studies: Any = Dealt(dealt) if dealt is not None else OptunaStudies(str(url), lease_seconds=LEASE_SECONDS)
    if stall_in is not None:
        learner = Stalling(learner, stall_in)
    result = tune_worker(
        spec=ModelSpec.model_validate(spec),
        train=str(folder / "rows.parquet"),
        ranges=Ranges(*RANGES),
        columns=Columns.of(described),
        study_name=STUDY,
        worker=worker,
        trials=trials,
        seed=SEED,
        studies=studies,
        learner=learner,
        alone=alone,
    )
    return {"ran": result.trials_run_here, "each": studies.cpu if dealt is not None else []}


class Dealt:
    """Instead of a study: parameters dealt out beforehand, each with what it is compared with while it runs."""

    def __init__(self, hands: list[dict[str, Any]]) -> None:
        self._hands = hands
        self.cpu: list[float] = []

    def run(self, study: str, *, objective: Any, **given: Any) -> int:
        """Evaluate each."""
        from ratchet.ports.studies import Pruned, TrialRecord  # noqa: PLC0415

        del study, given
        for hand in self._hands:
            known = [] if hand["best"] is None else [TrialRecord(0, {}, hand["best"])]
            cpu = time.process_time()
            with contextlib.suppress(Pruned):
                objective(hand["params"], known)
            self.cpu.append(time.process_time() - cpu)
        return len(self._hands)

    def finished(self, study: str) -> list[Any]:
        """Nobody asks what came out."""
        del study
        return []


class Stalling:
    """A learner that says so and stalls in its n-th fit."""

    def __init__(self, learner: Any, nth: int) -> None:
        self._learner, self._left = learner, nth

    def fit(self, *args: Any, **given: Any) -> Any:
        """Fit, or wait to be killed."""
        self._left -= 1
        if self._left == 0:
            tell({"stalled": os.getpid()})
            time.sleep(3600)
        return self._learner.fit(*args, **given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._learner, name)


def keep(folder: Path, learner: Any, *, url: str, worker: int, how: str) -> dict[str, Any]:
    """Nothing but bookkeeping, by Ratchet or by Optuna's own loop."""
    import optuna  # noqa: PLC0415

    from ratchet.adapters.studies_optuna import OptunaStudies  # noqa: PLC0415
    from ratchet.adapters.study_storage import storage_at  # noqa: PLC0415
    from ratchet.domain.spec import Dimension  # noqa: PLC0415

    del folder, learner
    space = {f"p{n}": Dimension(float=(0.0, 1.0)) for n in range(PARAMETERS)}

    def objective(params: Mapping[str, Any], known: Sequence[Any]) -> tuple[float, Mapping[str, Any]]:
        del known
        value = math.fsum((params[name] - 0.3) ** 2 for name in space)
        time.sleep(0.1 + 0.1 * params["p0"])
        return value, {"calibration": [1.0, 0.0], "payoff_per_decision": 1.0, "seconds": 0.0}

    if how != "optuna":
        with closing(OptunaStudies(url)) as studies:
            given = {"space": space, "worker": worker, "starts": [], "seed": SEED, "alone": how == "alone"}
            return {"ran": studies.run(STUDY, trials=BOOKKEEPING_TRIALS, objective=objective, **given)}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = storage_at(url).of(STUDY) if url else None
    sampler = optuna.samplers.TPESampler(seed=SEED + worker)
    study = optuna.create_study(storage=storage, study_name=STUDY, sampler=sampler, load_if_exists=True)

    def plain(trial: optuna.Trial) -> float:
        value, attributes = objective({name: trial.suggest_float(name, 0.0, 1.0) for name in space}, ())
        for name, kept in attributes.items():
            trial.set_user_attr(name, kept)
        return value

    while (done := len(study.get_trials(deepcopy=False))) < BOOKKEEPING_TRIALS:
        study.optimize(plain, n_trials=1)
    return {"ran": done}


# -- the parent --------------------------------------------------------------------------------------------------------


class Crew:
    """Worker processes that have imported what they need."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._processes = [self._hired() for _ in range(size)]

    def together(self, jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Give one job to each of so many workers; wall and CPU seconds until the last has answered."""
        began = time.monotonic()
        for process, job in zip(self._processes, jobs, strict=False):
            self.send(process, job)
        answers = [self.heard(process) for process in self._processes[: len(jobs)]]
        wall = time.monotonic() - began
        return {"wall": wall, "cpu": sum(answer["cpu"] for answer in answers), "each": answers[0].get("each", [])}

    def kill_one(self, jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The same, but the first worker is killed in the trial in which it stalls."""
        victim = self._processes[0]
        began = time.monotonic()
        for process, job in zip(self._processes, jobs, strict=False):
            self.send(process, job)
        assert "stalled" in self.heard(victim)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        answers = [self.heard(process) for process in self._processes[1 : len(jobs)]]
        wall = time.monotonic() - began
        self._processes[0] = self._hired()
        return {"wall": wall, "ran": [answer["ran"] for answer in answers]}

    def close(self) -> None:
        """Let them go."""
        for process in self._processes:
            process.stdin.close()  # type: ignore[union-attr]
            process.wait(timeout=60)

    def send(self, process: subprocess.Popen[str], job: Mapping[str, Any]) -> None:
        """One job."""
        process.stdin.write(json.dumps(job) + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]

    def heard(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """One answer."""
        line = process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"worker {process.pid} ended: see its error above")
        return dict(json.loads(line))

    def _hired(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bench.distributed_tuning", "--serve", str(self._folder)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        assert "ready" in self.heard(process)
        return process


def job(url: str | None, worker: int, workers: int, trials: int, generation: int | None, **more: Any) -> dict[str, Any]:
    """What one worker is asked."""
    plain = {"dealt": None, "stall_in": None, "alone": workers == 1}
    asked = {"do": "tune", "url": url, "worker": worker, "trials": trials, "generation": generation}
    return plain | asked | more


def build_rows(folder: Path) -> int:
    """The flights of two months with their features, as a snapshot would freeze them."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    from ratchet.adapters import flights  # noqa: PLC0415
    from ratchet.adapters.features_feast import FeastFeatures  # noqa: PLC0415
    from ratchet.adapters.specs import load_spec  # noqa: PLC0415

    flights.build(DATA)
    spec = load_spec(ROOT / "include" / "models" / "flight_delay")
    store = FeastFeatures(ROOT / "include" / "feature_repo", DATA)
    days = [date.fromisoformat(day) for day in (RANGES[0], RANGES[-1])]
    spine = store.spine(spec, as_of=datetime(2014, 2, 1, tzinfo=UTC), start=days[0], end=days[1])
    rows, names = store.historical(spec, spine), store.feature_names(spec)
    text = [n for n in names if pa.types.is_string(rows.schema.field(n).type)]
    pq.write_table(rows, folder / "rows.parquet")
    described = {"features": list(names), "categorical": text, "spec": spec.model_dump(mode="json")}
    (folder / "rows.json").write_text(json.dumps(described))
    return int(rows.num_rows)


def outcome(url: str) -> list[dict[str, Any]]:
    """Every trial of the study that was spent, without its seconds."""
    from ratchet.adapters.studies_optuna import OptunaStudies  # noqa: PLC0415

    with closing(OptunaStudies(url)) as studies:
        ended = [asdict(record) for record in studies.ended(STUDY)]
    for record in ended:
        record["attributes"] = {k: v for k, v in record["attributes"].items() if k != "seconds"}
    return ended


def hands(records: Sequence[Mapping[str, Any]], generation: int) -> list[dict[str, Any]]:
    """The fits of a study in generations, each with the best value it was compared with."""
    dealt = []
    for record in records:
        known = record["number"] // generation * generation
        values = [r["value"] for r in records if r["number"] < known and r["state"] == "finished"]
        dealt.append({"params": record["params"], "best": min(values, default=None)})
    return dealt


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A PostgreSQL server of the bench's own; yields its address without a database."""
    import psycopg2  # noqa: PLC0415

    from ratchet.stack import postgres  # noqa: PLC0415

    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    home = folder / "server"
    home.mkdir()
    config: Any = SimpleNamespace(home=home, secrets={"postgres": "bench"}, ports={"postgres": port})
    with (folder / "postgres.log").open("w") as log, (folder / "initdb.log").open("w") as made:
        with redirected(made):
            postgres.initialise(config)
        process = subprocess.Popen(postgres.server_command(config), stdout=log, stderr=log, start_new_session=True)
    address = f"postgresql://ratchet:bench@127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                psycopg2.connect(f"{address}/postgres").close()
                break
            except psycopg2.OperationalError:
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=60)


@contextmanager
def redirected(file: Any) -> Iterator[None]:
    """What initdb prints goes to a file."""
    kept = os.dup(1)
    os.dup2(file.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def fresh_database(address: str, name: str) -> str:
    """A new database on the server, with Optuna's tables: a deployment makes them once."""
    import psycopg2  # noqa: PLC0415

    with closing(psycopg2.connect(f"{address}/postgres")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(f"CREATE DATABASE {name}")
    return f"{address}/{name}"


def median(values: Sequence[float]) -> float:
    """Rounded to what is worth telling."""
    return float(f"{statistics.median(values):.3g}")


def spread(values: Sequence[float]) -> list[float]:
    """Least and most."""
    return [float(f"{min(values):.3g}"), float(f"{max(values):.3g}")]


def race(crew: Crew, folder: Path, trials: int, rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Studies in generations, asynchronous ones and the fits alone, on 1, 2 and 4 workers; rows, and the outcome."""
    kinds = ("generations", "asynchronous", "dealt")
    seen: dict[tuple[str, int], list[dict[str, Any]]] = {(kind, w): [] for kind in kinds for w in WORKERS}
    found: list[dict[str, Any]] = []
    same = dict.fromkeys(WORKERS, True)
    for number in range(rounds):
        for workers in WORKERS:
            for kind in kinds:
                url = f"journal://{folder}/{kind}-{workers}-{number}"
                generation = None if kind == "asynchronous" else GENERATION
                more: list[dict[str, Any]] = [{} for _ in range(workers)]
                if kind == "dealt":
                    dealt = hands(found, GENERATION)
                    more = [{"dealt": dealt[w::workers]} for w in range(workers)]
                jobs = [job(url, w, workers, trials, generation, **more[w]) for w in range(workers)]
                took = crew.together(jobs)
                seen[kind, workers].append(took)
                if kind == "generations":
                    now = outcome(url)
                    found = found or now
                    same[workers] &= now == found
                print(f"round {number + 1}, {workers} workers, {kind}: {took['wall']:.1f} s, {took['cpu']:.1f} CPU s")
    each = [statistics.median(costs) for costs in zip(*(took["each"] for took in seen["dealt", 1]), strict=True)]
    free = {w: sum(each) / on_free_cores(each, w, GENERATION) for w in WORKERS}
    return [row for w in WORKERS for row in raced(seen, w, trials, same=same[w], free=free[w])], found


def on_free_cores(costs: Sequence[float], workers: int, generation: int) -> float:
    """Seconds until the last generation has ended, where each worker has a core and takes what is next."""
    total = 0.0
    for first in range(0, len(costs), generation):
        busy = [0.0] * workers
        for cost in costs[first : first + generation]:
            busy[busy.index(min(busy))] += cost
        total += max(busy)
    return total


def raced(
    seen: Mapping[tuple[str, int], list[dict[str, Any]]], workers: int, trials: int, *, same: bool, free: float
) -> list[dict[str, Any]]:
    """The rows of so many workers."""
    rows = []
    cpus, dealt = ([t["cpu"] for t in seen[kind, workers]] for kind in ("generations", "dealt"))
    named = f"{workers} worker{'s' if workers > 1 else ''}"
    peer = "the same fits, dealt out beforehand"
    rows.append(
        {
            "name": f"one study of {trials} trials in generations, {named}",
            "peer": peer,
            "ours": median(cpus),
            "theirs": median(dealt),
            "ratio": median([d / c for d, c in zip(dealt, cpus, strict=True)]),
            "unit": "CPU s",
            "goal": f"≤ {MOST_OVERHEAD}×, and what one worker finds, to the bit",
            "met": same and median([c / d for d, c in zip(dealt, cpus, strict=True)]) <= MOST_OVERHEAD,
            "same_as_one_worker": same,
            "speed_up_on_free_cores": float(f"{free:.3g}"),
            "spread": {"ours": spread(cpus), "theirs": spread(dealt)},
        }
    )
    limit = [one["wall"] / many["wall"] for one, many in zip(seen["dealt", 1], seen["dealt", workers], strict=True)]
    for kind in ("generations", "asynchronous"):
        walls, fits = ([t["wall"] for t in seen[k, workers]] for k in (kind, "dealt"))
        gained = [one["wall"] / wall for one, wall in zip(seen[kind, 1], walls, strict=True)]
        ratios = [fit / wall for fit, wall in zip(fits, walls, strict=True)]
        rows.append(
            {
                "name": f"one study of {trials} trials, {kind}, {named}",
                "peer": peer,
                "ours": median(walls),
                "theirs": median(fits),
                "ratio": median(ratios),
                "unit": "s",
                "goal": f"≥ {LEAST_OF_LIMIT}× of the limit" if kind == "generations" else "none: reported",
                "met": median(ratios) >= LEAST_OF_LIMIT if kind == "generations" else None,
                "speed_up": median(gained),
                "speed_up_of_the_fits": median(limit),
                "cpu_seconds": median([t["cpu"] for t in seen[kind, workers]]),
                "spread": {"ours": spread(walls), "theirs": spread(fits)},
            }
        )
        print(f"{kind}, {named}: {median(gained)}× one worker; the fits alone {median(limit)}×; same found: {same}")
    return rows


def killed(crew: Crew, folder: Path, trials: int, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Two workers, one of them killed in its second fit."""
    url = f"journal://{folder}/killed"
    jobs = [job(url, w, 2, trials, GENERATION, stall_in=2 if w == 0 else None) for w in range(2)]
    took = crew.kill_one(jobs)
    told = outcome(url)
    lost = sum(record["state"] == "lost" for record in told)
    same = [record for record in told if record["state"] != "lost"] == found
    print(f"kill -9 of one of two workers: {lost} trial lost, the same found: {same}, {took['wall']:.1f} s")
    return {
        "name": "kill -9 of one of two workers, generations",
        "peer": "the study of one worker",
        "ours": lost,
        "theirs": 0,
        "ratio": None,
        "unit": "trials lost",
        "goal": "1, and the same model",
        "met": lost == 1 and same,
        "same_as_one_worker": same,
        "lease_seconds": LEASE_SECONDS,
        "seconds": round(took["wall"], 1),
    }


def bookkeeping(crew: Crew, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """CPU milliseconds of the workers for one trial that costs nothing."""
    from ratchet.adapters.studies_optuna import OptunaStudies  # noqa: PLC0415

    contenders = [("alone", 1), ("shared", 1), ("optuna", 1), ("shared", 4), ("optuna", 4)]
    seen: dict[tuple[str, str, int], list[float]] = {}
    with server(folder) as address:
        for number in range(rounds):
            for storage in ("journal", "sqlite", "PostgreSQL"):
                for how, workers in contenders:
                    name = f"b{number}_{how}_{workers}"
                    urls = {"journal": f"journal://{folder}/{name}", "sqlite": f"sqlite:///{folder}/{name}.db"}
                    url = urls.get(storage) or fresh_database(address, name)
                    with closing(OptunaStudies(url)) as prepared:
                        prepared.prepare()
                    asked = [{"do": "keep", "url": url, "worker": w, "how": how} for w in range(workers)]
                    cpu = 1000 * crew.together(asked)["cpu"] / BOOKKEEPING_TRIALS
                    seen.setdefault((storage, how, workers), []).append(cpu)
                    print(f"round {number + 1}, {storage}, {workers} × {how}: {cpu:.1f} CPU ms per trial")
            limit = crew.together([{"do": "keep", "url": "", "worker": 0, "how": "optuna"}])["cpu"]
            seen.setdefault(("memory", "optuna", 1), []).append(1000 * limit / BOOKKEEPING_TRIALS)
    print(f"in memory: {median(seen['memory', 'optuna', 1])} CPU ms per trial")
    rows = []
    for storage in ("journal", "sqlite", "PostgreSQL"):
        for how, workers in (("alone", 1), ("shared", 1), ("shared", 4)):
            ours, theirs = seen[storage, how, workers], seen[storage, "optuna", workers]
            by = {"alone": "one worker alone", "shared": f"{workers} worker{'s' if workers > 1 else ''} that share"}[
                how
            ]
            rows.append(
                {
                    "name": f"a trial's bookkeeping, {storage}, {by}",
                    "peer": "Optuna's Study.optimize on the same storage",
                    "ours": median(ours),
                    "theirs": median(theirs),
                    "ratio": median([t / o for t, o in zip(theirs, ours, strict=True)]),
                    "unit": "CPU ms",
                    "goal": "≤ 1×",
                    "met": median([o / t for t, o in zip(theirs, ours, strict=True)]) <= 1,
                    "in_memory": median(seen["memory", "optuna", 1]),
                    "spread": {"ours": spread(ours), "theirs": spread(theirs)},
                }
            )
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="one round of eight trials; no results are written")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the server is stopped
    trials, rounds = (GENERATION, 1) if asked.quick else (2 * GENERATION, asked.rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{build_rows(folder):,} flights; {trials} trials, generations of {GENERATION}, {os.cpu_count()} cores")
        with closing(Crew(folder, max(WORKERS))) as crew:
            measured = machine(rounds, "optuna", "xgboost", "sqlalchemy")
            rows, found = race(crew, folder, trials, rounds)
            rows.append(killed(crew, folder, trials, found))
            rows += bookkeeping(crew, folder, rounds)
    for row in rows:
        print(f"{row['name']}: {row['ours']} {row['unit']}, {row['peer']} {row['theirs']}; met: {row['met']}")
    if not asked.quick:
        write("distributed_tuning", rows, measured)


if __name__ == "__main__":
    main()
