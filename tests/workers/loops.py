"""What a lone run gives."""

from collections.abc import Sequence

from cachestore.deadline import Deadline
from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.batch_request import BatchRequest, BatchToken
from cachestore.engine.batch_settings import BatchSettings
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.sampling import Sampling
from cachestore.engine.stopping import Stop


def lone(model: PagedModel, tokens: Sequence[int], count: int, sampling: Sampling) -> list[int]:
    """The tokens behind these, by an engine that has nothing yet and asks nobody."""
    loop = BatchLoop(model, BatchSettings(pages=80))
    loop.open()
    try:
        asked = BatchRequest(tokens, Stop(count, model.eos_tokens), Deadline.after(60), sampling)
        return [token.id for token in loop.submit(asked) if isinstance(token, BatchToken)]
    finally:
        loop.close()
