import pytest
import torch
from torch import nn

from cachestore.engine.packed_linear import FEWEST, PackedLinear, pack


@pytest.mark.parametrize("bias", [True, False])
def test_packed_layers_compute_the_same(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 20, bias=bias), nn.Linear(20, 33, bias=bias))
    shapes = [(1, rows, 48) for rows in (1, FEWEST - 1, FEWEST, 16, 17, 300)] + [(5, 48), (2, 3, 48)]
    inputs = [torch.randn(shape) for shape in shapes]
    with torch.inference_mode():
        wanted = [model(each) for each in inputs]
        pack(model)
        assert all(type(layer) is PackedLinear for layer in model)
        for each, expected in zip(inputs, wanted, strict=True):
            assert torch.allclose(model(each), expected, atol=1e-6)
        strided = torch.randn(48, 9).t()
        assert torch.allclose(model(strided), model(strided.contiguous()), atol=1e-6)


def test_other_layers_stay_as_they_are() -> None:
    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4).bfloat16(), Own(4, 4), nn.Embedding(4, 4))
    pack(model)
    assert [type(layer) for layer in model] == [nn.Linear, Own, nn.Embedding]
