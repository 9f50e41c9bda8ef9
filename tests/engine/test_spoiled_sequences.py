"""A sequence of which the model computes no numbers ends alone, and says so."""

from collections.abc import Iterator

import pytest
import torch

from cachestore.engine.drawing import Draw, draw
from cachestore.engine.page_pool import PagePool
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.sampling import Sampling
from cachestore.errors import InternalError
from cachestore.store.tiered import TieredStore
from tests.engine.batches import Directory, alone, ended, figure, opened, prompt, request, serving

NOT_A_NUMBER = 1
"""A token that no prompt of these tests has by itself."""


@pytest.fixture
def model(model_dir: Directory) -> Iterator[PagedModel]:
    model = opened(model_dir("llama"))
    with torch.no_grad():
        model._model.get_input_embeddings().weight[NOT_A_NUMBER] = float("nan")
    yield model
    model.close()


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_a_sequence_without_numbers_ends_alone(
    model: PagedModel, model_dir: Directory, tiered: TieredStore, temperature: float
) -> None:
    store = tiered.namespace("default")
    good, bad = [prompt(40, seed) for seed in range(3)], [NOT_A_NUMBER, *prompt(20, 9)]
    # so low that nobody draws the token that spoils
    sampling = Sampling(temperature=temperature, seed=1)
    with serving(model, chunk_tokens=256) as loop:
        streams = [loop.submit(request(tokens, sampling=sampling, store=store)) for tokens in (*good, bad)]
        for _ in range(2):
            with pytest.raises(InternalError, match=r"no numbers for the next token .* engine\.dtype"):
                list(streams.pop())
            # the same again finds no page of it
            assert loop.cached("default", loop._runner.start(bad, reuse=False).chain().keys) == 0
            streams.append(loop.submit(request(bad, sampling=sampling, store=store)))
        with pytest.raises(InternalError):
            list(streams.pop())
        for tokens, stream in zip(good, streams, strict=True):
            made, _ = ended(stream)
            if not temperature:
                assert made == alone(model_dir("llama"), tokens)
        assert figure(loop, "sequences_spoiled") == 3 == figure(loop, "requests_failed", reason="internal")
        assert figure(loop, "requests_done") == 3
    assert store.lookup(loop._runner.start(good[0], reuse=False).chain()).ready == 2
    assert store.lookup(loop._runner.start(bad, reuse=False).chain()).ready == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_nothing_is_drawn_where_there_are_no_numbers(wrong: float, temperature: float) -> None:
    logits = torch.tensor(
        [[0.0, 5.0, 1.0], [0.0, wrong, 9.0], [-float("inf"), 2.0, -float("inf")], [-float("inf")] * 3]
    )
    each = Draw(Sampling(temperature=temperature, top_k=1), 3, logprobs=1)
    drawn = draw(logits, [each] * 4)
    assert [None if token is None else token.token for token in drawn] == [1, None, 1, None]


def test_pages_without_a_name_are_nobodys_once_released() -> None:
    pool = PagePool(2)
    name, other = bytes(32), bytes([1]) * 32
    first, second = pool.take(2)
    pool.name(first, name, name)
    pool.name(second, name, other)
    pool.unname([first])
    assert pool.lookup(name, [name]) == [] and not pool.shared(first) and pool.shared(second)
    pool.release([first, second])
    assert (pool.free, pool.cached, pool.match(name, [other])) == (1, 1, 1)
