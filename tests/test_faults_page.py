"""The page on faults names tests that there are, and every fault that a test is named after."""

import re
from pathlib import Path

import pytest

from tests.naming import ROOT, names_in, there_is

PAGE = (ROOT / "docs" / "faults.md").read_text()
ROWS = re.findall(r"^\| ([A-Z]\d+) \| .* \| .* \| (.*) \|$", PAGE, re.MULTILINE)


def named(cell: str) -> list[str]:
    """The tests that a row names: behind the name of each file those in it."""
    tests, file = [], ""
    for word in re.findall(r"`([^`]+)`", cell):
        file, tests = (word, tests) if word.endswith(".py") else (file, [*tests, f"tests/{file}::{word}"])
    return tests


@pytest.mark.parametrize(("fault", "cell"), ROWS, ids=[fault for fault, _ in ROWS])
def test_the_tests_of_a_fault_are_there(fault: str, cell: str) -> None:
    assert named(cell)
    assert [test for test in named(cell) if not there_is(test)] == []


def test_every_fault_of_a_test_is_on_the_page() -> None:
    faults = {fault.lower() for fault, _ in ROWS}
    assert len(faults) == len(ROWS) == len(re.findall(r"^\| \w", PAGE, re.MULTILINE))
    for file in Path(ROOT / "tests" / "faults").glob("test_*.py"):
        of_a_fault = {found[1] for name in names_in(file) if (found := re.match(r"test_([a-z]\d+)_", name))}
        assert of_a_fault <= faults, file.name
