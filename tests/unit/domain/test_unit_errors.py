"""A feed in other units."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.domain.unit_errors import Corruption, in_other_units, with_units

AUGUST = Corruption(date(2013, 8, 1), ("temperature_f",))


def test_units_become_the_metric_ones() -> None:
    assert in_other_units("temperature_f", [32.0, 212.0]) == pytest.approx([0.0, 100.0])
    assert in_other_units("wind_mph", [10.0]) == pytest.approx([16.09344])
    assert in_other_units("rain_6h_inches", [1.0]) == pytest.approx([25.4])
    assert np.isnan(in_other_units("visibility_miles", [np.nan])).all()


def test_a_column_without_a_unit_is_no_column_of_such_a_fault() -> None:
    assert with_units(["temperature_f", "humidity_percent", "wind_mph"]) == ("temperature_f", "wind_mph")
    with pytest.raises(ValueError, match="tell its unit"):
        in_other_units("humidity_percent", [1.0])


@given(st.dates(date(2013, 6, 1), date(2013, 10, 31)), st.integers(1, 90))
def test_days_are_touched_when_one_of_them_is_of_the_month(start: date, length: int) -> None:
    days = [date.fromordinal(start.toordinal() + i) for i in range(length)]
    end = date.fromordinal(start.toordinal() + length)
    assert AUGUST.touches(start.isoformat(), end.isoformat()) == any(day.month == 8 for day in days)


def test_december_ends_with_the_year() -> None:
    assert Corruption(date(2013, 12, 1), ()).end == date(2014, 1, 1)
