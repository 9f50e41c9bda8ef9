"""Sampling: greedy, restricted, repeatable."""

import pytest
import torch

from cachestore.engine.sampling import Sampler, Sampling
from cachestore.errors import InvalidArgument


def logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(50, generator=torch.Generator().manual_seed(seed)) * 3


def draw(sampling: Sampling, count: int = 200) -> list[int]:
    sampler = Sampler(sampling)
    return [sampler.pick(logits()) for _ in range(count)]


def test_greedy_takes_the_best() -> None:
    assert set(draw(Sampling(seed=3))) == {int(logits().argmax())}


def test_the_same_seed_draws_the_same_tokens() -> None:
    how = Sampling(temperature=4.0, top_k=20, top_p=0.9, seed=11)
    assert draw(how) == draw(how)
    assert draw(how) != draw(Sampling(temperature=4.0, top_k=20, top_p=0.9, seed=12))


def test_requests_do_not_disturb_each_other() -> None:
    how = Sampling(temperature=1.0, seed=5)
    one, other = Sampler(how), Sampler(how)
    torch.manual_seed(0)
    first = [one.pick(logits()) for _ in range(10)]
    torch.rand(7)
    assert [other.pick(logits()) for _ in range(10)] == first


def test_top_k_and_top_p_keep_only_the_best() -> None:
    best = logits().argsort(descending=True).tolist()
    assert set(draw(Sampling(temperature=5.0, top_k=3))) == set(best[:3])
    assert set(draw(Sampling(temperature=5.0, top_k=1))) == {best[0]}
    assert set(draw(Sampling(temperature=1.0, top_p=1e-6))) == {best[0]}
    chances = logits().softmax(-1)[best]
    inside = best[: int((chances.cumsum(-1) - chances < 0.8).sum())]
    assert set(draw(Sampling(temperature=1.0, top_p=0.8), 2000)) <= set(inside)
    assert len(set(draw(Sampling(temperature=10.0, top_p=1.0), 2000))) > 40


def test_draws_follow_the_chances() -> None:
    drawn = torch.tensor(draw(Sampling(temperature=1.0, seed=1), 5000)).bincount(minlength=50) / 5000
    assert float((drawn - logits().softmax(-1)).abs().max()) < 0.03


def test_half_precision_logits() -> None:
    half = logits().to(torch.bfloat16)
    assert Sampler(Sampling()).pick(half) == int(half.float().argmax())


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 1.5}, {"seed": -1}]
)
def test_values_that_cannot_be_meant(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]
