"""What tests on a CUDA device have in common, and the processes that they start."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _quiet_triton() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # Triton warns while this is unset
        patch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
        yield
