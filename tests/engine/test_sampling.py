import pytest

from cachestore.engine.sampling import Sampling
from cachestore.errors import InvalidArgument


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 1.5}, {"seed": -1}]
)
def test_values_that_cannot_be_meant(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]
