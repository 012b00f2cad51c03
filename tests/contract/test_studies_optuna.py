"""The rules of ``Studies`` on the fake and on each storage, and what only processes can break: kills and races."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import optuna
import psycopg2
import pytest

from ratchet.adapters.studies_optuna import OptunaStudies, _Board
from ratchet.adapters.study_storage import Database
from ratchet.domain.spec import Dimension
from ratchet.errors import Refused, StaleAttempt, Unavailable
from ratchet.ports.studies import MOST_LOSSES, InMemoryStudies, Pruned, Studies, best_of

SPACE = {
    "x": Dimension(float=(-1.0, 1.0)),
    "n": Dimension(int=(1, 9)),
    "kind": Dimension(categorical=("a", "b")),
}
START = {"x": 0.5, "n": 3, "kind": "b"}


def square(params, known=()) -> tuple[float, dict]:
    return params["x"] ** 2, {"seen": params["n"]}


def run(
    studies: Studies,
    *,
    study: str = "m.1",
    worker: int = 0,
    trials: int = 5,
    starts=(START,),
    objective=square,
    seed: int = 1,
    until=None,
    generation=None,
    alone=False,
) -> int:
    given = {"space": SPACE, "trials": trials, "worker": worker, "starts": starts, "seed": seed, "until": until}
    return studies.run(study, objective=objective, generation=generation, alone=alone, **given)


POSTGRES = os.environ.get("RATCHET_TEST_LEDGER_URL", "")
STORAGES = ("sqlite", "journal", pytest.param("postgresql", marks=pytest.mark.stack))
fresh = itertools.count()


def fresh_url(storage: str, tmp_path: Path) -> str:
    """A storage of the kind in which there is no study yet."""
    if storage == "sqlite":
        return f"sqlite:///{tmp_path}/studies{next(fresh)}.db"
    if storage == "journal":
        return f"journal://{tmp_path}/studies{next(fresh)}"
    if not POSTGRES:
        pytest.skip("RATCHET_TEST_LEDGER_URL is not set: scripts/integration-tests sets it")
    server = urlsplit(POSTGRES)._replace(scheme="postgresql")
    with closing(psycopg2.connect(server.geturl())) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("DROP DATABASE IF EXISTS ratchet_contract_studies WITH (FORCE)")
        cursor.execute("CREATE DATABASE ratchet_contract_studies")
    return server._replace(path="/ratchet_contract_studies").geturl()


@pytest.fixture(params=STORAGES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return fresh_url(request.param, tmp_path)


@pytest.fixture(params=["memory", *STORAGES])
def studies(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "memory":
        yield InMemoryStudies()
        return
    with closing(OptunaStudies(fresh_url(request.param, tmp_path))) as optuna_studies:
        yield optuna_studies


def test_a_removed_study_is_gone_and_others_are_not(studies: Studies):
    for study in ("m.1", "m.1.fewer-rows", "m.2"):
        run(studies, study=study, trials=2)
    assert sorted(studies.names()) == ["m.1", "m.1.fewer-rows", "m.2"]
    studies.remove("m.1")
    studies.remove("m.1")
    assert sorted(studies.names()) == ["m.1.fewer-rows", "m.2"]
    assert studies.ended("m.1") == []
    assert len(studies.ended("m.2")) == 2
    assert run(studies, study="m.1", trials=1) == 1, "the name may be used again"


def test_the_first_trial_is_the_start(studies: Studies):
    run(studies, trials=1)
    assert dict(studies.finished("m.1")[0].params) == START


def test_the_first_trials_are_the_starts_and_the_rest_are_sampled(studies: Studies):
    starts = [START, START | {"x": 0.25}, START | {"n": 9}]
    run(studies, starts=starts)
    assert [dict(record.params) for record in studies.finished("m.1")][:3] == starts
    assert dict(studies.finished("m.1")[3].params) not in starts
    run(studies, study="m.2", starts=starts, trials=2)
    assert [dict(record.params) for record in studies.finished("m.2")] == starts[:2]


def test_a_study_without_starts_samples_from_the_first_trial_on(studies: Studies):
    assert run(studies, starts=()) == 5
    assert START not in [dict(record.params) for record in studies.finished("m.1")]


def test_a_stopping_rule_ends_the_study_for_every_worker_and_its_reason_is_kept(studies: Studies):
    asked = []

    def enough(records) -> str | None:
        asked.append([record.number for record in records])
        return "three are enough" if len(records) >= 3 else None

    assert studies.stopped("m.1") is None
    assert run(studies, until=enough) == 3
    assert asked == [[], [0], [0, 1], [0, 1, 2]]
    assert studies.stopped("m.1") == "three are enough"
    assert run(studies, worker=1, until=enough) == 0
    assert run(studies, worker=2) == 0
    assert len(asked) == 4
    assert studies.stopped("m.2") is None


def test_a_study_that_spends_its_budget_was_not_stopped(studies: Studies):
    assert run(studies, until=lambda records: None) == 5
    assert studies.stopped("m.1") is None


def test_exactly_the_budget_is_spent(studies: Studies):
    assert run(studies, trials=5) == 5
    assert [record.number for record in studies.finished("m.1")] == [0, 1, 2, 3, 4]


def test_a_trial_that_was_stopped_early_is_spent_and_never_the_best(studies: Studies):
    def odd_ones_stop(params, known) -> tuple[float, dict]:
        odd_ones_stop.asked += 1
        if odd_ones_stop.asked % 2 == 0:
            raise Pruned(-100.0, 0.5)
        return square(params)

    odd_ones_stop.asked = 0
    assert run(studies, trials=5, objective=odd_ones_stop) == 5
    assert [record.number for record in studies.finished("m.1")] == [0, 2, 4]
    assert best_of(studies.finished("m.1")).value >= 0
    ended = studies.ended("m.1")
    assert [(record.number, record.state) for record in ended] == [
        *((0, "finished"), (1, "stopped"), (2, "finished"), (3, "stopped"), (4, "finished"))
    ]
    assert (ended[1].value, ended[1].attributes["share"]) == (-100.0, 0.5)
    assert run(studies, trials=5) == 0


def test_running_again_spends_nothing(studies: Studies):
    run(studies)
    assert run(studies) == 0
    assert run(studies, worker=1) == 0


def test_every_trial_lies_inside_the_space_and_keeps_its_attributes(studies: Studies):
    run(studies)
    for record in studies.finished("m.1"):
        assert -1 <= record.params["x"] <= 1
        assert record.params["n"] in range(1, 10)
        assert record.params["kind"] in ("a", "b")
        assert record.attributes["seen"] == record.params["n"]


def test_a_study_repeats_to_the_bit_on_any_storage_and_another_study_differs(url: str, tmp_path: Path):
    with closing(OptunaStudies(url)) as first, closing(OptunaStudies(fresh_url("journal", tmp_path))) as repeated:
        for studies in (first, repeated):
            run(studies, trials=14)
        run(first, study="m.2")
        assert first.ended("m.1") == repeated.ended("m.1")
        points = [[record.params["x"] for record in first.finished(study)][1:] for study in ("m.1", "m.2")]
    assert not set(points[0]) & set(points[1])


def test_studies_do_not_see_each_other(studies: Studies):
    run(studies, study="m.1")
    assert studies.finished("m.2") == []
    assert run(studies, study="m.2") == 5


def test_a_refused_trial_is_spent(studies: Studies):
    def picky(params, known):
        if params["x"] != START["x"]:
            raise Refused("no")
        return square(params)

    assert run(studies, objective=picky) == 1
    assert len(studies.finished("m.1")) == 1


def test_a_study_of_refused_trials_is_refused(studies: Studies):
    def never(params, known):
        raise Refused("no")

    with pytest.raises(Refused, match="all 5 trials were refused"):
        run(studies, objective=never)


def test_a_value_that_is_not_a_number_is_spent_and_never_best(studies: Studies):
    def broken(params, known):
        return (float("nan") if params["x"] == START["x"] else square(params)[0]), {}

    run(studies, objective=broken)
    finished = studies.finished("m.1")
    assert len(finished) == 4
    assert best_of(finished) is not None


def test_a_crash_costs_no_budget_and_the_start_is_tried_again(studies: Studies):
    def power_cut(params, known):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(studies, objective=power_cut)
    assert run(studies) == 5
    assert dict(studies.finished("m.1")[0].params) == START


def test_each_start_that_is_lost_is_tried_again(studies: Studies):
    starts, evaluated = [START, START | {"n": 9}], []

    def second_crashes(params, known):
        evaluated.append(dict(params))
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return square(params)

    with pytest.raises(KeyboardInterrupt):
        run(studies, starts=starts, objective=second_crashes)
    assert run(studies, starts=starts, trials=3, objective=second_crashes) == 2
    assert evaluated[:3] == [starts[0], starts[1], starts[1]]
    assert evaluated[3] not in starts


def test_the_start_of_a_killed_worker_is_tried_again_by_it_and_once(url: str):
    studies = OptunaStudies(url)
    leave_running(studies, worker=0)
    run(studies, worker=1, trials=3)
    assert START not in [dict(record.params) for record in studies.finished("m.1")]
    run(studies, worker=0, trials=4)
    run(studies, worker=0, trials=6)
    assert [dict(record.params) for record in studies.finished("m.1")].count(START) == 1


def test_a_trial_left_running_is_replaced_by_its_own_worker_while_its_lease_holds(url: str):
    studies = OptunaStudies(url)
    run(studies, worker=0, trials=1)
    leave_running(studies, worker=1)
    assert run(studies, worker=0, trials=4) == 2
    assert run(studies, worker=1, trials=4) == 1
    assert len(studies.finished("m.1")) == 4


def test_of_two_workers_that_claim_one_trial_at_once_the_first_holds_it_and_the_other_leaves_no_trace(url: str):
    studies = OptunaStudies(url)
    first, second = (_Board(studies._place, "m.1", worker, 45.0) for worker in (0, 1))
    running = optuna.trial.TrialState.RUNNING
    held = first.enter(0, optuna.trial.create_trial(state=running))
    assert held is not None
    assert second.enter(0, optuna.trial.create_trial(state=running)) is None
    assert first._end(held, "lost")
    assert [record.state for record in studies.ended("m.1")] == ["lost"]
    assert first.held() == {}


def test_a_trial_whose_lease_ran_out_is_run_again_by_any_worker_under_its_number(url: str):
    studies = OptunaStudies(url, lease_seconds=0.2)
    leave_running(studies, worker=1, number=1)
    time.sleep(0.3)
    assert run(studies, worker=0, trials=3) == 3
    assert [(record.number, record.state) for record in studies.ended("m.1")] == [
        *((0, "finished"), (1, "lost"), (1, "finished"), (2, "finished"))
    ]


def test_a_trial_that_outlives_its_lease_keeps_it_by_renewing(url: str):
    """A second worker, for which a trial without a renewed lease would be free, finds nothing to do."""
    studies, other = OptunaStudies(url, lease_seconds=1.0), OptunaStudies(url, lease_seconds=1.0)
    ran_by_the_other = []

    def longer_than_the_lease(params, known):
        time.sleep(2.5)
        ran_by_the_other.append(run(other, worker=1, trials=1))
        return square(params)

    assert run(studies, trials=1, objective=longer_than_the_lease) == 1
    assert ran_by_the_other == [0]
    assert [record.state for record in studies.ended("m.1")] == ["finished"]


def test_what_a_paused_worker_wakes_up_with_is_not_kept_and_it_works_on(url: str, monkeypatch: pytest.MonkeyPatch):
    """A process that is stopped renews no lease. Its task was not started again, so it is not refused as a whole."""
    monkeypatch.setattr(threading.Event, "wait", _never_in_time)
    slept = []

    def paused_once(params, known):
        if not slept:
            slept.append(params)
            time.sleep(0.3)
            run(OptunaStudies(url, lease_seconds=0.2), worker=1, trials=1)
            return -1.0, {}
        return square(params)

    assert run(OptunaStudies(url, lease_seconds=0.2), worker=0, trials=3, objective=paused_once) == 3
    ended = OptunaStudies(url).ended("m.1")
    assert [(r.number, r.state) for r in ended if r.number == 0] == [(0, "lost"), (0, "finished")]
    assert min(record.value for record in OptunaStudies(url).finished("m.1")) >= 0


def _never_in_time(self, timeout: float | None = None) -> bool:
    while not self.is_set():
        time.sleep(0.01)
    return True


def test_a_trial_that_takes_its_workers_with_it_is_given_up_for_good(url: str):
    deaths = []

    def deadly(params, known):
        if params == START:
            deaths.append(params)
            raise MemoryError
        return square(params)

    studies = OptunaStudies(url)
    for _ in range(MOST_LOSSES):
        with pytest.raises(MemoryError):
            run(studies, objective=deadly)
    assert run(studies, objective=deadly) == 4
    assert len(deaths) == MOST_LOSSES
    assert [record.state for record in studies.ended("m.1")] == ["lost"] * MOST_LOSSES + ["finished"] * 4


def test_a_resumed_worker_does_not_repeat_its_predecessors_points(url: str):
    run(OptunaStudies(url), trials=3)
    run(OptunaStudies(url), trials=6)
    points = [record.params["x"] for record in OptunaStudies(url).finished("m.1")]
    assert len(set(points)) == 6


@pytest.mark.parametrize("alone", [False, True])
def test_a_worker_presumed_dead_stops_when_a_newer_run_took_over(url: str, alone: bool):
    """The orchestrator started the task again while the first process still ran."""

    def taken_over_meanwhile(params, known):
        run(OptunaStudies(url), trials=4, alone=alone)
        return square(params)

    with pytest.raises(StaleAttempt, match="newer run of this worker"):
        run(OptunaStudies(url), trials=4, objective=taken_over_meanwhile, alone=alone)
    finished = OptunaStudies(url).finished("m.1")
    assert [record.number for record in finished] == [0, 1, 2, 3]


@pytest.mark.parametrize("generation", [None, 3])
def test_a_worker_alone_finds_what_workers_that_share_find(studies: Studies, tmp_path: Path, generation: int | None):
    shared = (
        InMemoryStudies() if isinstance(studies, InMemoryStudies) else OptunaStudies(fresh_url("journal", tmp_path))
    )
    run(studies, trials=14, generation=generation, alone=True)
    run(shared, trials=14, generation=generation)
    assert studies.ended("m.1") == shared.ended("m.1")


def test_a_worker_alone_that_crashes_keeps_what_had_ended(url: str):
    def crashes_in_the_third(params, known):
        if len(known) == 2:
            raise KeyboardInterrupt
        return square(params)

    with pytest.raises(KeyboardInterrupt):
        run(OptunaStudies(url), objective=crashes_in_the_third, alone=True)
    assert len(OptunaStudies(url).finished("m.1")) == 2
    assert run(OptunaStudies(url), alone=True) == 3


def test_trials_of_a_generation_know_earlier_generations_only(studies: Studies):
    known_to = []

    def watching(params, known):
        known_to.append([record.number for record in known])
        return square(params)

    asked = []
    until = lambda records: asked.append(len(records))  # noqa: E731
    run(studies, trials=7, objective=watching, generation=3, until=until)
    assert known_to == [[], [], [], [0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2, 3, 4, 5]]
    assert asked == [len(known) for known in known_to]


def test_asynchronous_trials_know_all_that_has_finished(studies: Studies):
    known_to = []

    def watching(params, known):
        known_to.append([record.number for record in known])
        if len(known_to) == 2:
            raise Refused("no")
        return square(params)

    run(studies, trials=4, objective=watching)
    assert known_to == [[], [0], [0], [0, 2]]


def test_a_generation_spreads_out(tmp_path: Path):
    with closing(OptunaStudies(fresh_url("journal", tmp_path))) as studies:
        run(studies, trials=32, generation=8)
        points = [tuple(record.params.values()) for record in studies.finished("m.1")]
    assert len(set(points)) == 32


def test_a_storage_that_does_not_answer_is_unavailable_and_hides_its_password():
    studies = OptunaStudies("postgres://tuner:secret@127.0.0.1:1/optuna")
    with pytest.raises(Unavailable) as caught:
        studies.finished("m.1")
    assert caught.value.retry_helps
    assert "secret" not in str(caught.value)


def leave_running(studies: OptunaStudies, *, worker: int, number: int | None = None) -> None:
    """What a worker leaves behind that is killed inside its objective."""
    board = _Board(studies._place, "m.1", worker, studies._lease_seconds)
    free = next(n for n in itertools.count() if n not in board.held()) if number is None else number
    assert board.enter(free, optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)) is not None


def work(url: str, worker: int, trials: int, generation: int | None, barrier) -> None:
    barrier.wait()
    run(OptunaStudies(url), worker=worker, trials=trials, generation=generation, objective=slow_square)


def slow_square(params, known=()):
    time.sleep(0.02)
    return square(params)


def together(url: str, *, workers: int, trials: int, generation: int | None = None) -> None:
    """Worker processes that race to create the tables, the study and its first trial."""
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(workers)
    processes = [spawn.Process(target=work, args=(url, w, trials, generation, barrier)) for w in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * workers


@pytest.mark.parametrize("storage", [kind for kind in STORAGES if kind != "journal"])
def test_of_workers_that_find_no_tables_one_makes_them(storage, tmp_path, monkeypatch):
    """Each has looked before any of them makes one."""
    workers, made = 4, []
    looked, begun = threading.Barrier(workers), threading.local()
    look, open_ = Database._has_tables, Database._storage

    def together(self, options):
        found = look(self, options)
        if not vars(begun):
            begun.already = True
            looked.wait(60)
        return found

    def storage_(self, options, *, ready):
        made.append(ready)
        return open_(self, options, ready=ready)

    monkeypatch.setattr(Database, "_has_tables", together)
    monkeypatch.setattr(Database, "_storage", storage_)
    url = fresh_url(storage, tmp_path)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda _: OptunaStudies(url).prepare(), range(workers)))
    assert sorted(made) == [False, True, True, True]


def test_workers_that_start_together_share_one_budget(url: str):
    together(url, workers=3, trials=8)
    finished = OptunaStudies(url).finished("m.1")
    assert [record.number for record in finished] == list(range(8))
    assert [dict(record.params) for record in finished].count(START) == 1


def test_generations_are_the_same_for_one_worker_and_for_three(url: str, tmp_path: Path):
    together(url, workers=3, trials=18, generation=6)
    with closing(OptunaStudies(fresh_url("journal", tmp_path))) as one:
        run(one, trials=18, generation=6, alone=True)
        assert OptunaStudies(url).ended("m.1") == one.ended("m.1")


VICTIM = """
import sys
from test_studies_optuna import OptunaStudies, run, square
seen = []
def objective(params, known):
    if len(seen) == 2:
        print("inside", flush=True)
        sys.stdin.read()
    seen.append(params)
    return square(params)
generation = int(sys.argv[2]) or None
run(OptunaStudies(sys.argv[1], lease_seconds=1.0), trials=14, generation=generation, objective=objective)
"""


def kill_one_inside_its_third_trial(url: str, generation: int | None = None) -> None:
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, url, str(generation or 0)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )
    assert victim.stdout is not None
    assert victim.stdout.readline() == "inside\n"
    victim.send_signal(signal.SIGKILL)
    assert victim.wait(timeout=30) == -signal.SIGKILL


def test_a_worker_killed_inside_a_trial_costs_that_trial_and_its_next_run_goes_on(url: str):
    kill_one_inside_its_third_trial(url)
    studies = OptunaStudies(url)
    assert len(studies.finished("m.1")) == 2
    assert run(studies, trials=14) == 12
    assert [(r.number, r.state) for r in studies.ended("m.1")][:4] == [
        *((0, "finished"), (1, "finished"), (2, "lost"), (2, "finished"))
    ]
    assert [record.number for record in studies.finished("m.1")] == list(range(14))


def test_another_worker_finishes_the_generation_of_a_killed_one_and_finds_the_same(url: str, tmp_path: Path):
    kill_one_inside_its_third_trial(url, generation=4)
    assert run(OptunaStudies(url, lease_seconds=1.0), worker=1, trials=14, generation=4) == 12
    with closing(OptunaStudies(fresh_url("journal", tmp_path))) as undisturbed:
        run(undisturbed, trials=14, generation=4)
        told = OptunaStudies(url).ended("m.1")
        assert [record for record in told if record.state != "lost"] == undisturbed.ended("m.1")
        lost = [record for record in told if record.state == "lost"]
        assert [(r.number, r.params) for r in lost] == [(2, undisturbed.ended("m.1")[2].params)]


def test_a_journal_that_was_cut_is_unavailable_and_says_where(tmp_path: Path):
    url = fresh_url("journal", tmp_path)
    run(OptunaStudies(url))
    (file,) = Path(urlsplit(url).path).glob("*.journal")
    file.write_bytes(file.read_bytes()[:-20] + b"\n{}\n")
    with pytest.raises(Unavailable, match="journal://"):
        OptunaStudies(url).finished("m.1")
