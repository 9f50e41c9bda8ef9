"""A recipe has one spelling, and what it does not know it refuses with a way out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachestore.errors import InvalidArgument
from cachestore.recipe import FORMATS, GROUPS, QUANTISATIONS, Quantisation, Recipe, canonical, parse


@pytest.mark.parametrize(
    ("line", "quantisation"),
    [
        ("quantisation=fp8,format=e4m3,group=64", Quantisation("fp8", 64, "e4m3")),
        ("quantisation=fp8,format=e5m2,group=128", Quantisation("fp8", 128, "e5m2")),
        ("quantisation=int8,group=32", Quantisation("int8", 32)),
        ("quantisation=int4,group=64", Quantisation("int4", 64)),
    ],
)
def test_what_a_line_says(line: str, quantisation: Quantisation) -> None:
    assert parse(line) == Recipe(quantisation)
    assert str(parse(line)) == canonical(line) == line


def test_nothing_is_exact() -> None:
    assert parse("") == Recipe() and str(Recipe()) == canonical("") == canonical("  ") == ""


@pytest.mark.parametrize(
    ("line", "form"),
    [
        ("quantisation=int8", "quantisation=int8,group=64"),
        (" group = 32 , quantisation = fp8 ", "quantisation=fp8,format=e4m3,group=32"),
        ("group=64,format=e5m2,quantisation=fp8", "quantisation=fp8,format=e5m2,group=64"),
        ("quantisation=int4,group=064", "quantisation=int4,group=64"),
    ],
)
def test_what_people_write_has_one_form_and_only_that_is_a_recipe(line: str, form: str) -> None:
    assert canonical(line) == form
    with pytest.raises(InvalidArgument, match=f"write '{form}'"):
        parse(line)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("quantization=int8", "unknown word 'quantization'; did you mean 'quantisation'"),
        ("quantisation=int5", "quantisation=int5 is unknown; did you mean 'int"),
        ("quantisation=fp8,format=e4m4", "did you mean 'e4m3'"),
        ("quantisation=int8,format=e4m3", "format=e4m3 goes with quantisation=fp8 only"),
        ("quantisation=int8,group=16", "group=16 must lie between 32 and 128"),
        ("quantisation=int8,group=-64", "group=-64 must be a whole number from 32 to 128"),
        ("quantisation=int8,group=" + "9" * 5000, "must be a whole number"),
        ("quantisation=int8,group=٦٤", "must be a whole number"),
        ("quantisation=int8,group=64,group=64", "group is given twice"),
        ("group=64", "group needs quantisation="),
        ("int8", "'int8' is no word=value"),
        ("quantisation=", "'quantisation=' is no word=value"),
        ("quantisation=int8,", "'' is no word=value"),
    ],
)
def test_what_is_wrong_is_said_with_the_way_out(line: str, hint: str) -> None:
    for read in (parse, canonical):
        with pytest.raises(InvalidArgument) as caught:
            read(line)
        assert str(caught.value).startswith("recipe: ") and hint in str(caught.value)


@settings(deadline=None)
@given(name=st.sampled_from(QUANTISATIONS), group=st.sampled_from(GROUPS), format=st.sampled_from(FORMATS))
def test_equal_recipes_have_equal_lines_and_others_others(name: str, group: int, format: str) -> None:
    quantisation = Quantisation(name, group, format if name == "fp8" else "")
    line = str(quantisation)
    assert parse(line).quantisation == quantisation
    assert canonical(",".join(reversed(line.split(",")))) == line


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_recipe_or_refused(line: str) -> None:
    try:
        assert str(parse(line)) == line
    except InvalidArgument:
        pass
