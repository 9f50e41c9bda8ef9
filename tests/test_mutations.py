"""Every deliberate mutation still fits the source; `python -m tests.mutations` runs them."""

import ast

import pytest

from tests.mutations import MUTATIONS
from tests.mutations.mutation import Mutation
from tests.naming import there_is


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_it_has_a_place_in_the_source_and_tests_against_it(mutation: Mutation) -> None:
    ast.parse(mutation.mutated())
    assert mutation.tests
    assert [test for test in mutation.tests if not there_is(test)] == []


def test_no_name_comes_twice() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
