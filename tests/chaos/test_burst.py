"""The burst is the same for a seed, and what its records expect is what the rules of the contract make of them."""

from __future__ import annotations

from itertools import islice

import burst

from ratchet.domain import events as cloudevents

MODELS = ("one", "two")
SOME = tuple(islice(burst.stream(7, MODELS, 100), 1500))


def test_a_seed_gives_one_stream_and_another_seed_another() -> None:
    assert tuple(islice(burst.stream(7, MODELS, 100), 1500)) == SOME
    assert tuple(islice(burst.stream(8, MODELS, 100), 1500)) != SOME


def test_records_come_by_time_and_each_beat_brings_new_days() -> None:
    assert [each.at for each in SOME] == sorted(each.at for each in SOME)
    arrivals = [each for each in SOME if each.topic == cloudevents.DATA_TOPIC]
    assert len(arrivals) == 2 * 15


def test_what_a_record_expects_is_what_can_be_read_from_it() -> None:
    known: dict[tuple[str, str], str] = {}
    kinds = set()
    for each in SOME:
        source, event_id, models = burst.expectation(each.headers)
        try:
            event = cloudevents.parse(each.value, each.headers)
        except cloudevents.EventRejected:
            assert models == ()
            kinds.add("malformed")
            continue
        assert (event.source, event.id) == (source, event_id)
        first = known.setdefault((source, event_id), event.digest)
        if event.subject == "no_such_model":
            kinds.add("stranger")
            assert models == ()
        elif first != event.digest:
            kinds.add("contradiction")
            assert models == ()
        else:
            kinds.add("good")
            assert models == (MODELS if cloudevents.TOPICS[event.type] == cloudevents.DATA_TOPIC else (event.subject,))
    assert kinds == {"malformed", "stranger", "contradiction", "good"}
