"""Workers beside a store that leaves: it takes no puts, then it is gone. Requests go on, and what is lost is said."""

from collections.abc import Callable
from typing import Any

from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.paged_model import PagedModel
from cachestore.metrics import total
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from tests.workers.loops import lone
from tests.workers.test_decode_worker import SAMPLING, TOKENS, Served, eventually


def test_requests_go_on_beside_a_store_that_is_drained(
    model: PagedModel, open_loop: Callable[..., BatchLoop], make_store: Callable[..., Any]
) -> None:
    right = lone(model, TOKENS, 20, SAMPLING)
    tiered = make_store()
    with CacheStoreServer(tiered, ServiceSettings(port=0)) as server:
        served = Served(model, open_loop, server)
        served.store.open()
        try:
            assert served.ask()[0] == right
            stored = total(served.store.stats(), "put_stored")
            assert stored

            tiered.refuses = "a is draining and takes no puts; call another node"
            for salt in (b"1", b"2", b"3", b"4", b"5"):
                made, usage = served.ask(salts=(salt,))
                assert made == right and usage.reuse.reused == {}
            eventually(served.at_rest)
            failed = sum(total(w.figures(), "put_blocks_failed") for w in (served.prefill, served.decode))
            assert failed > 0 and total(served.store.stats(), "put_stored") == stored
            # what is there is read still
            assert served.ask()[0] == right

            tiered.refuses = ""
            salts = iter(range(1000))
            eventually(lambda: served.ask(salts=(b"%d anew" % next(salts),))[0] == right and _kept(served) > stored)

            server.close()
            made, usage = served.ask(salts=(b"gone",))
            assert made == right and usage.reuse.reused == {}
        finally:
            served.decode.close()
            served.prefill.close()
            served.store.close()


def _kept(served: Served) -> int:
    return int(total(served.store.stats(), "put_stored"))
