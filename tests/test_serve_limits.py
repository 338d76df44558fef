"""Rates, log lines: what a busy server needs, each by itself. Over HTTP: test_serve_production.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptthink.serving import limits
from adaptthink.serving.limits import RateLimit


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_rate_by_hand():
    """Two a minute: two at once, then one each half minute."""
    clock = Clock()
    limit = RateLimit(2, clock)
    assert [limit.take("a") for _ in range(4)] == pytest.approx([0, 0, 30, 30])
    assert limit.take("b") == 0
    clock.now += 29
    assert limit.take("a") == pytest.approx(1)
    clock.now += 1
    assert limit.take("a") == 0
    assert limit.take("a") == pytest.approx(30)
    clock.now += 1000
    assert [limit.take("a") for _ in range(3)] == pytest.approx([0, 0, 30])


@given(st.integers(1, 50), st.lists(st.floats(0, 40), max_size=200))
def test_no_minute_has_more_than_twice_the_rate_and_waits_are_true(per_minute, pauses):
    """A quiet minute may be made up for at once, so within any minute there are at most twice as many."""
    clock = Clock()
    limit = RateLimit(per_minute, clock)
    accepted = []
    for pause in pauses:
        clock.now += pause
        wait = limit.take("a")
        if wait:
            clock.now += wait / 2
            assert limit.take("a") > 0
            clock.now += wait / 2 + 1e-5
            assert limit.take("a") == 0
        accepted.append(clock.now)
    for start in accepted:
        assert sum(start <= one < start + 60 for one in accepted) <= 2 * per_minute


def test_quiet_owners_are_forgotten(monkeypatch):
    monkeypatch.setattr(limits, "MOST_OWNERS", 3)
    clock = Clock()
    limit = RateLimit(1, clock)
    for owner in range(3):
        limit.take(owner)
        clock.now += 25
    limit.take("new")  # the first may send again by now
    assert set(limit.taken) == {1, 2, "new"}
