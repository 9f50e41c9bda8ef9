"""Drawing tokens: restricted, repeatable, and the same in any batch."""

import pytest
import torch

from cachestore.engine.drawing import Draw, Drawn, draw, kept, uniform
from cachestore.engine.sampling import Sampling
from cachestore.errors import InvalidArgument


def logits(seed: int = 0, rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, 50, generator=torch.Generator().manual_seed(seed)) * 3


def drawn(sampling: Sampling, count: int = 200, choice: int = 0) -> list[int]:
    draws = [Draw(sampling, position, choice) for position in range(count)]
    return [each.token for each in draw(logits().expand(count, -1), draws)]


def test_greedy_takes_the_best() -> None:
    assert set(drawn(Sampling(seed=3))) == {int(logits().argmax())}


def test_numbers_are_defined_by_bytes() -> None:
    assert uniform(0, 0, 0) == 0.868510408050094
    numbers = {uniform(seed, choice, position) for seed in range(5) for choice in range(5) for position in range(5)}
    assert len(numbers) == 125 and all(0.0 <= number < 1.0 for number in numbers)


def test_a_batch_draws_what_each_draws_alone() -> None:
    many = logits(1, 16)
    hows = [Sampling(temperature=0.0 if row % 5 == 0 else 1.5, top_k=row, top_p=0.9, seed=row) for row in range(16)]
    draws = [Draw(how, position=40 + row) for row, how in enumerate(hows)]
    assert draw(many, draws) == [draw(many[row : row + 1], [draws[row]])[0] for row in range(16)]
    order = list(reversed(range(16)))
    assert draw(many[order], [draws[row] for row in order]) == [draw(many, draws)[row] for row in order]


def test_the_same_seed_draws_the_same_tokens_and_choices_differ() -> None:
    how = Sampling(temperature=4.0, top_k=20, top_p=0.9, seed=11)
    assert drawn(how) == drawn(how)
    assert drawn(how) != drawn(Sampling(temperature=4.0, top_k=20, top_p=0.9, seed=12))
    assert drawn(how) != drawn(how, choice=1)


def test_who_is_ahead_by_a_rounding_changes_no_draw() -> None:
    """Another batch computes the same logits but for their last bits."""
    ahead = logits()[0]
    one, other = ahead.topk(2).indices.tolist()
    ahead[other] = ahead[one]
    behind = ahead.clone()
    ahead[one], behind[one] = ahead[one].nextafter(torch.tensor(9e9)), behind[one].nextafter(torch.tensor(-9e9))
    assert ahead.argmax() != behind.argmax()
    for how in (Sampling(1.0, seed=6), Sampling(1.0, top_k=20, seed=6), Sampling(1.0, top_p=0.9, min_p=0.01, seed=6)):
        draws = [Draw(how, position) for position in range(300)]
        assert draw(ahead.expand(300, -1), draws) == draw(behind.expand(300, -1), draws)


def test_only_the_best_are_kept() -> None:
    best = logits()[0].argsort(descending=True).tolist()
    chances = (logits()[0].double() / 2).softmax(-1)[best]

    def tokens(**how: float) -> list[int]:
        result: list[int] = kept(logits()[0], Sampling(temperature=2.0, **how))[1].tolist()  # type: ignore[arg-type]
        return result

    assert tokens(top_k=3) == best[:3]
    assert tokens(top_p=1e-6) == best[:1]
    assert tokens(top_p=0.8) == best[: int((chances.cumsum(-1) - chances < 0.8).sum())]
    assert tokens(min_p=0.05) == best[: int((chances >= 0.05 * chances[0]).sum())]
    assert tokens(min_p=1.0) == best[:1]
    assert tokens() == best
    assert 1 < len(tokens(top_p=0.8)) < 40 and 1 < len(tokens(min_p=0.05)) < 40


@pytest.mark.parametrize("temperature", [1e-3, 3e-38, 1e-40, 5e-324])
def test_as_little_temperature_as_can_be_written_takes_the_best(temperature: float) -> None:
    logits = torch.tensor([[-80.0, 3.0, 90.0, 89.5]])
    assert draw(logits, [Draw(Sampling(temperature, seed=1), 0)]) == [Drawn(2)]


def test_draws_follow_the_chances() -> None:
    made = torch.tensor(drawn(Sampling(temperature=1.0, seed=1), 5000)).bincount(minlength=50) / 5000
    assert float((made - logits()[0].softmax(-1)).abs().max()) < 0.03


def test_probabilities_are_told_where_asked_for() -> None:
    how = Sampling(temperature=2.0, top_k=5, seed=4)
    silent, told = draw(logits(0, 1).expand(2, -1), [Draw(how, 3), Draw(how, 3, logprobs=4)])
    exact = logits()[0].log_softmax(-1)
    assert silent == (told.token, None, ())
    assert told.logprob == pytest.approx(float(exact[told.token]))
    assert [token for token, _ in told.top] == exact.topk(4).indices.tolist()


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan")])
def test_min_p_must_be_a_part(wrong: float) -> None:
    with pytest.raises(InvalidArgument, match="min_p"):
        Sampling(min_p=wrong)
