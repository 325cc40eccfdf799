"""Hours in which a device may work."""

from datetime import datetime, timedelta

import pytest

from fedmesh.configuration.windows import Window
from fedmesh.errors import ConfigError

MONDAY = datetime(2026, 1, 5)  # noqa: DTZ001 - windows are about the wall clock


@pytest.mark.parametrize(
    ("text", "day", "clock", "inside"),
    [
        ("01:00-05:30", 0, "01:00", True),
        ("01:00-05:30", 6, "05:29", True),
        ("01:00-05:30", 0, "05:30", False),
        ("01:00-05:30", 0, "00:59", False),
        ("22:00-06:00", 0, "23:59", True),
        ("22:00-06:00", 0, "00:00", True),
        ("22:00-06:00", 0, "12:00", False),
        ("00:00-24:00", 3, "23:59", True),
        ("mon-fri 22:00-06:00", 4, "22:00", True),
        ("mon-fri 22:00-06:00", 5, "05:59", True),  # Friday's night
        ("mon-fri 22:00-06:00", 5, "22:00", False),
        ("mon-fri 22:00-06:00", 0, "05:59", False),  # Sunday's night
        ("sat,sun 10:00-12:00", 6, "11:00", True),
        ("sat,sun 10:00-12:00", 0, "11:00", False),
        ("sat-mon 10:00-12:00", 0, "11:00", True),
        ("sat-mon 10:00-12:00", 1, "11:00", False),
    ],
)
def test_a_window_is_open_when_it_says(text, day, clock, inside):
    hours, minutes = map(int, clock.split(":"))
    moment = MONDAY + timedelta(days=day, hours=hours, minutes=minutes)
    assert Window.parse(text).contains(moment) is inside


@pytest.mark.parametrize(
    "text",
    ["", "22-6", "24:00-06:00", "1:00-2:00", "mon 22:00", "foo 01:00-02:00", "mon-fri-sat 01:00-02:00", "mon- 1"],
)
def test_what_is_no_window(text):
    with pytest.raises(ConfigError, match="is no window"):
        Window.parse(text)


def test_a_window_that_ends_when_it_begins_is_a_whole_day():
    window = Window.parse("mon 06:00-06:00")
    assert window.contains(MONDAY.replace(hour=6))
    assert window.contains(MONDAY + timedelta(days=1, hours=5, minutes=59))
    assert not window.contains(MONDAY + timedelta(days=1, hours=6))
