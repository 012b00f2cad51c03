import pytest

from ratchet.domain.differences import ABSENT, Difference, differences


def test_equal_records_do_not_differ():
    record = {"a": [1, {"b": None}], "c": "x", "d": 0.1 + 0.2}
    assert differences(record, {"d": 0.30000000000000004, "c": "x", "a": [1, {"b": None}]}) == []


def test_each_leaf_that_differs_is_told_by_its_path():
    recorded = {"checks": [{"passed": True}, {"passed": None}], "lower": 0.1}
    found = {"checks": [{"passed": True}, {"passed": False}], "lower": 0.2}
    assert differences(recorded, found) == [
        Difference("checks[1].passed", None, False),
        Difference("lower", 0.1, 0.2),
    ]


def test_what_one_side_lacks_is_absent():
    assert differences({"a": 1}, {"b": 2}) == [Difference("a", 1, ABSENT), Difference("b", ABSENT, 2)]
    assert differences([1, 2], [1]) == [Difference("[1]", 2, ABSENT)]


@pytest.mark.parametrize(("recorded", "found"), [(1, True), (1, 1.0), (0.1, 0.1 + 1e-17), ("1", 1), (None, ABSENT)])
def test_close_is_not_equal_unless_it_is_the_same_number(recorded, found):
    assert bool(differences(recorded, found)) is not (type(recorded) is type(found) and recorded == found)
