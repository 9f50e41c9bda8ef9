"""Ends of what is gone are forgotten, and those of what is there come in order."""

from cachestore.ends import SLACK, Ends


def test_they_come_soonest_first_and_only_where_they_hold() -> None:
    there = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 9.0}
    ends = Ends[str](lambda at, what: there.get(what) == at)
    for what, at in there.items():
        ends.add(at, what)
    ends.add(0.5, "a")
    del there["c"]
    assert ends.due(0.9) is None
    assert [ends.due(5.0), ends.due(5.0), ends.due(5.0)] == ["b", "a", None] and len(ends) == 1


def test_what_is_gone_takes_no_memory_and_what_is_there_is_kept() -> None:
    there = {number: 1000.0 + number for number in range(SLACK)}
    ends = Ends[int](lambda at, what: there.get(what) == at)
    for number, at in there.items():
        ends.add(at, number)
    for number in range(10 * SLACK):
        ends.add(500.0, -number)
        # said again and again
        ends.add(there[7], 7)
    assert len(ends) <= 4 * SLACK
    due = []
    while (number := ends.due(2000.0)) is not None:
        due.append(number)
        del there[number]
    assert due == list(range(SLACK))
