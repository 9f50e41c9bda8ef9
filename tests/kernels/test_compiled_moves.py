"""What a served request launches, compiled for Hopper: the same kernels whatever it counts, and none that divides."""

from pathlib import Path

import pytest

from tests.kernels.test_compiled import check, compiled


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_count_makes_another_kernel(tmp_path: Path) -> None:
    """One block, three or sixteen, and ids that lie anywhere: a request must not wait for a compilation."""
    kernels = compiled(tmp_path, "90", "serve 1", "serve 3", "serve 16")
    one, three, sixteen = (
        [(kernel["kernel"], kernel["hash"]) for kernel in kernels if kernel["case"] == f"serve {count}"]
        for count in (1, 3, 16)
    )
    assert one == three == sixteen
    for kernel in kernels:
        check(kernel)
    codes = [kernel for kernel in kernels if kernel["kernel"] == "_code"]
    assert [kernel["divisions"] for kernel in codes] == [0] * len(codes), "a division takes as long as all the rest"
    assert [conversion for kernel in codes[8:] for conversion in kernel["conversions"]][:4] == [
        *["cvt.rn.satfinite.e4m3x2.f32"] * 2,
        *["cvt.rn.satfinite.e5m2x2.f32"] * 2,
    ]
