"""Where a partition is taken up, and which losses are told."""

import pytest

from ratchet.domain.positions import Ends, Known, Position, find_position, incarnated


def test_a_partition_nobody_knows_is_read_where_the_group_stands():
    assert find_position(None, Ends("t", None, 0, 9)) == Position(0)
    assert find_position(None, Ends("t", 5, 0, 9)) == Position(0)


def test_a_topic_whose_beginning_is_gone_before_the_first_deployment_is_no_loss():
    assert find_position(None, Ends("t", None, 100, 200)) == Position(0)


@pytest.mark.parametrize("reached", [None, 7])
def test_reading_on_is_no_alarm(reached):
    assert find_position(Known("t", 2, 7), Ends("t", 7, 3, 9), reached) == Position(2)
    assert find_position(Known("t", 2, 7), Ends("t", 5, 7, 7), reached) == Position(2)


def test_what_retention_deleted_before_it_was_stored_is_told_to_the_offset():
    found = find_position(Known("t", 0, 40), Ends("t", 40, 100, 200))
    assert (found.incarnation, found.offset) == (0, 100)
    assert "offsets 40 to 99 (60 records at most)" in found.alarm


def test_what_was_stored_but_never_committed_is_not_lost():
    assert find_position(Known("t", 0, 100), Ends("t", 40, 100, 200)).alarm is None


def test_a_running_pump_has_lost_nothing_that_it_holds():
    assert find_position(Known("t", 0, 40), Ends("t", 40, 100, 200), reached=100).alarm is None


def test_a_topic_made_again_is_read_from_its_start_as_another_log():
    found = find_position(Known("old", 0, 40), Ends("new", None, 0, 500))
    assert (found.incarnation, found.offset) == (1, 0)
    assert "made again" in found.alarm
    assert "offset 40" in found.alarm


def test_a_log_shorter_than_what_was_read_is_another_log():
    found = find_position(Known(None, 1, 40), Ends(None, 40, 0, 10))
    assert (found.incarnation, found.offset) == (2, 0)
    assert "ends at 10, but 39 was read" in found.alarm


def test_a_broker_that_tells_no_topic_id_raises_no_alarm():
    assert find_position(Known("t", 0, 5), Ends(None, 5, 0, 9)) == Position(0)
    assert find_position(Known(None, 0, 5), Ends("t", 5, 0, 9)) == Position(0)


def test_records_of_another_log_are_other_records():
    assert incarnated("c", 0) == "c"
    assert incarnated("c", 1) != incarnated("c", 2)
