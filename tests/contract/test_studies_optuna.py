"""The rules of ``Studies`` on the fake and on Optuna's database, and what only processes can break: kills and races."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from ratchet.adapters.studies_optuna import OptunaStudies
from ratchet.domain.spec import Dimension
from ratchet.errors import Refused, StaleAttempt, Unavailable
from ratchet.ports.studies import InMemoryStudies, Pruned, Studies, best_of

SPACE = {
    "x": Dimension(float=(-1.0, 1.0)),
    "n": Dimension(int=(1, 9)),
    "kind": Dimension(categorical=("a", "b")),
}
START = {"x": 0.5, "n": 3, "kind": "b"}


def square(params) -> tuple[float, dict]:
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
) -> int:
    given = {"space": SPACE, "trials": trials, "worker": worker, "starts": starts, "seed": seed, "until": until}
    return studies.run(study, objective=objective, **given)


def url_of(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture(params=["memory", "sqlite"])
def studies(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "memory":
        yield InMemoryStudies()
        return
    optuna_studies = OptunaStudies(url_of(tmp_path))
    yield optuna_studies
    optuna_studies.close()


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
    def odd_ones_stop(params) -> tuple[float, dict]:
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


def test_a_study_repeats_to_the_bit_and_another_study_differs(studies: Studies, tmp_path: Path):
    run(studies)
    again = InMemoryStudies() if isinstance(studies, InMemoryStudies) else OptunaStudies(f"{url_of(tmp_path)}.again")
    run(again)
    run(studies, study="m.2")
    first, repeated, other = studies.finished("m.1"), again.finished("m.1"), studies.finished("m.2")
    assert [record.params for record in first] == [record.params for record in repeated]
    assert [record.params for record in first[1:]] != [record.params for record in other[1:]]


def test_studies_do_not_see_each_other(studies: Studies):
    run(studies, study="m.1")
    assert studies.finished("m.2") == []
    assert run(studies, study="m.2") == 5


def test_a_refused_trial_is_spent(studies: Studies):
    def picky(params):
        if params["x"] != START["x"]:
            raise Refused("no")
        return square(params)

    assert run(studies, objective=picky) == 1
    assert len(studies.finished("m.1")) == 1


def test_a_study_of_refused_trials_is_refused(studies: Studies):
    def never(params):
        raise Refused("no")

    with pytest.raises(Refused, match="all 5 trials were refused"):
        run(studies, objective=never)


def test_a_value_that_is_not_a_number_is_spent_and_never_best(studies: Studies):
    def broken(params):
        return (float("nan") if params["x"] == START["x"] else square(params)[0]), {}

    run(studies, objective=broken)
    finished = studies.finished("m.1")
    assert len(finished) == 4
    assert best_of(finished) is not None


def test_a_crash_costs_no_budget_and_the_start_is_tried_again(studies: Studies):
    def power_cut(params):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(studies, objective=power_cut)
    assert run(studies) == 5
    assert dict(studies.finished("m.1")[0].params) == START


def test_each_start_that_is_lost_is_tried_again(studies: Studies):
    starts, evaluated = [START, START | {"n": 9}], []

    def second_crashes(params):
        evaluated.append(dict(params))
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return square(params)

    with pytest.raises(KeyboardInterrupt):
        run(studies, starts=starts, objective=second_crashes)
    assert run(studies, starts=starts, trials=3, objective=second_crashes) == 2
    assert evaluated[:3] == [starts[0], starts[1], starts[1]]
    assert evaluated[3] not in starts


def test_the_start_of_a_killed_worker_is_tried_again_by_it_and_once(tmp_path: Path):
    studies = OptunaStudies(url_of(tmp_path))
    leave_running(studies, worker=0)
    run(studies, worker=1, trials=3)
    assert START not in [dict(record.params) for record in studies.finished("m.1")]
    run(studies, worker=0, trials=4)
    run(studies, worker=0, trials=6)
    assert [dict(record.params) for record in studies.finished("m.1")].count(START) == 1


def test_a_trial_left_running_is_replaced_by_its_own_worker_only(tmp_path: Path):
    studies = OptunaStudies(url_of(tmp_path))
    run(studies, worker=0, trials=1)
    leave_running(studies, worker=1)
    assert run(studies, worker=0, trials=4) == 2
    assert run(studies, worker=1, trials=4) == 1
    assert len(studies.finished("m.1")) == 4


def test_a_resumed_worker_does_not_repeat_its_predecessors_points(tmp_path: Path):
    studies = OptunaStudies(url_of(tmp_path))
    run(studies, trials=3)
    run(OptunaStudies(url_of(tmp_path)), trials=6)
    points = [record.params["x"] for record in studies.finished("m.1")]
    assert len(set(points)) == 6


def test_a_worker_presumed_dead_stops_when_its_trial_was_given_up(tmp_path: Path):
    """The orchestrator started the task again while the first process still ran."""

    def taken_over_meanwhile(params):
        run(OptunaStudies(url_of(tmp_path)), trials=4)
        return square(params)

    with pytest.raises(StaleAttempt, match="newer run of this worker"):
        run(OptunaStudies(url_of(tmp_path)), trials=4, objective=taken_over_meanwhile)
    assert len(OptunaStudies(url_of(tmp_path)).finished("m.1")) == 4


def test_a_storage_that_does_not_answer_is_unavailable_and_hides_its_password():
    studies = OptunaStudies("postgres://tuner:secret@127.0.0.1:1/optuna")
    with pytest.raises(Unavailable) as caught:
        studies.finished("m.1")
    assert caught.value.retry_helps
    assert "secret" not in str(caught.value)


def leave_running(studies: OptunaStudies, *, worker: int) -> None:
    """What a worker leaves behind that is killed inside its objective."""
    studies.finished("m.1")
    opened = studies._create("m.1")
    studies._storage.create_new_trial(
        opened._study_id,
        optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs={"worker": worker}),
    )


def work(url: str, worker: int, trials: int, barrier) -> None:
    barrier.wait()
    run(OptunaStudies(url), worker=worker, trials=trials)


def test_workers_that_start_together_share_one_budget(tmp_path: Path):
    """They race to create the tables, the study and its first trial."""
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(3)
    workers = [spawn.Process(target=work, args=(url_of(tmp_path), w, 8, barrier)) for w in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    finished = OptunaStudies(url_of(tmp_path)).finished("m.1")
    assert len(finished) == 8
    assert [dict(record.params) for record in finished].count(START) == 1


VICTIM = """
import sys
from test_studies_optuna import OptunaStudies, run, square
seen = []
def objective(params):
    if len(seen) == 2:
        print("inside", flush=True)
        sys.stdin.read()
    seen.append(params)
    return square(params)
run(OptunaStudies(sys.argv[1]), trials=5, objective=objective)
"""


def test_a_worker_killed_inside_a_trial_leaves_a_study_that_ends_with_its_budget(tmp_path: Path):
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, url_of(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )
    assert victim.stdout is not None
    assert victim.stdout.readline() == "inside\n"
    victim.send_signal(signal.SIGKILL)
    assert victim.wait(timeout=30) == -signal.SIGKILL

    studies = OptunaStudies(url_of(tmp_path))
    assert len(studies.finished("m.1")) == 2
    assert run(studies, trials=5) == 3
    assert len(studies.finished("m.1")) == 5
    states = [trial.state.name for trial in studies._create("m.1").get_trials()]
    assert sorted(states) == ["COMPLETE"] * 5 + ["FAIL"]
