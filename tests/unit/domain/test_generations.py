"""In which order trials begin and what they know, whoever runs them, in whatever order, and whoever is killed."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ratchet.domain.generations import Begin, Wait, next_trial

BUDGET = st.integers(1, 30)
SIZE = st.integers(1, 12)


def simulated(chance: Random, *, trials: int, workers: int, generation: int | None, losses: int = 10) -> list[Begin]:
    """Every beginning, while idle workers ask at random moments and trials end, or are lost, in any order."""
    running: set[int] = set()
    ended: set[int] = set()
    log: list[Begin] = []
    while len(ended) < trials:
        turn = next_trial(begun=running | ended, ended=ended, trials=trials, generation=generation)
        if isinstance(turn, Begin) and len(running) < workers and chance.random() < 0.5:
            assert turn.number not in running | ended
            running.add(turn.number)
            log.append(turn)
        elif running:
            number = chance.choice(sorted(running))
            running.remove(number)
            if losses and chance.random() < 0.5:
                losses -= 1
            else:
                ended.add(number)
    assert next_trial(begun=ended, ended=ended, trials=trials, generation=generation) is None
    return log


@given(st.randoms(use_true_random=False), BUDGET, st.integers(1, 6), SIZE)
def test_what_a_trial_knows_depends_on_its_number_only(chance: Random, trials: int, workers: int, size: int):
    log = simulated(chance, trials=trials, workers=workers, generation=size)
    assert {turn.number for turn in log} == set(range(trials))
    assert all(turn.known == turn.number // size * size for turn in log)


@given(BUDGET, SIZE, st.data())
def test_no_trial_begins_before_all_that_it_knows_has_ended(trials: int, size: int, data):
    ended = data.draw(st.sets(st.integers(0, trials - 1)))
    begun = ended | data.draw(st.sets(st.integers(0, trials - 1)))
    turn = next_trial(begun=begun, ended=ended, trials=trials, generation=size)
    if isinstance(turn, Begin):
        assert turn.number not in begun
        assert set(range(turn.known)) <= ended
    elif isinstance(turn, Wait):
        assert begun - ended
    else:
        assert ended == set(range(trials))


@given(st.randoms(use_true_random=False), BUDGET, st.integers(1, 6))
def test_asynchronous_workers_never_wait_and_spend_the_budget(chance: Random, trials: int, workers: int):
    log = simulated(chance, trials=trials, workers=workers, generation=None)
    assert {turn.number for turn in log} == set(range(trials))
    assert all(turn.known == trials for turn in log)


def test_an_asynchronous_worker_leaves_when_others_run_all_that_is_left():
    assert next_trial(begun={0, 1, 2}, ended={0}, trials=3, generation=None) is None


def test_a_worker_of_a_generation_waits_for_what_others_run_to_replace_what_is_lost():
    assert next_trial(begun={0, 1, 2}, ended={0}, trials=3, generation=3) == Wait()
    assert next_trial(begun={0, 2}, ended={0}, trials=3, generation=3) == Begin(1, 0)
