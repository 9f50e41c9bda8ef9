"""Keys, namespaces and tokens, end to end: the gateway signs, workers pass it on, the store keeps tenants apart."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from cachestore.metrics import total
from cachestore.service.auth.certificates import make
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.tokens import digest_of, load_private, new_token, sign
from cachestore.service.client import RemoteStore
from tests.gateway.conftest import MODEL, Served

pytestmark = pytest.mark.slow

PROMPT = "A document that several tenants happen to have, word for word the same. "


def digest(token: str) -> str:
    return f"sha256:{digest_of(token).hex()}"


@dataclass
class Guarded(Served):
    """A system whose store and workers know who calls."""

    folder: Path = Path()
    delegate: str = ""

    def prepare(self) -> str:
        """Makes keys and identities; the `[service]` section that store and workers share, without its head."""
        made = make(self.folder, ["localhost"], [])
        self.signing, public = made.folder / "gateway.key", made.folder / "gateway.pub"
        keys = "".join(
            f'[[keys]]\nname = "{name}"\nkey = "{digest(f"key of {name}")}"\nnamespace = "{namespace}"\n'
            for name, namespace in (("alice", "acme"), ("adam", "acme"), ("bob", "umbrella"))
        )
        self.keys = self.folder / "keys.toml"
        self.keys.write_text(keys)
        self.keys.chmod(0o600)
        return (
            f'gateway_key = "{public}"\n[[service.identities]]\nname = "worker"\nrole = "delegate"\n'
            f'token = "{digest(self.delegate)}"\n'
        )

    def stats(self, namespace: str, name: str) -> int:
        """One of the store's figures in this namespace."""
        tenant = sign(load_private(self.signing.read_bytes(), "key"), namespace)
        credentials = Credentials(token=self.delegate).for_tenant(tenant)
        with RemoteStore(self.store_child.address, credentials=credentials) as store:
            return total(store.stats(), name)


@pytest.fixture(scope="module")
def guarded(make_served: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    usual = make_served()
    system = Guarded(usual.children, usual.model, folder=tmp_path_factory.mktemp("keys") / "made", delegate=new_token())
    with pytest.MonkeyPatch.context() as environment:
        # workers, gateway and this test are all the same delegate
        environment.setenv("CACHESTORE_TOKEN", system.delegate)
        try:
            service = system.prepare()
            system.start_store(tiers=f'{service}[[tiers]]\nname = "cpu"\ncapacity = "64MiB"\n')
            section = f"[service]\n{service}"
            workers = [system.start_worker(role, role[0], section) for role in ("prefill", "decode")]
            system.worker_children = [system.children.told(worker) for worker in workers]
            system.known("decode", 1)
            system.known("prefill", 1)
            settings = f'keys = "{system.keys}"\nsigning_key = "{system.signing}"\n'
            system.gateway_child = system.children.told(system.start_gateway(settings))
            yield system
        finally:
            system.end()


def cached(guarded: Guarded, name: str, prompt: str) -> int:
    """Cached tokens of a request with this name's key."""
    with guarded.client(f"key of {name}") as client:
        answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=4, temperature=0)
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    return answer.usage.prompt_tokens_details.cached_tokens or 0


def test_tenants_share_within_a_namespace_and_never_across(guarded: Guarded) -> None:
    whole = len(PROMPT) // 16 * 16
    assert cached(guarded, "alice", PROMPT) == 0
    assert cached(guarded, "alice", PROMPT) >= whole - 16
    assert cached(guarded, "adam", PROMPT) >= whole - 16, "the same namespace by another key"
    assert cached(guarded, "bob", PROMPT) == 0, "another namespace"
    assert cached(guarded, "bob", PROMPT) >= whole - 16
    assert guarded.stats("acme", "put_stored") > 0 and guarded.stats("umbrella", "put_stored") > 0
    assert guarded.stats("nobody", "put_blocks") == 0


def test_the_prefill_worker_acts_for_the_tenant_too(guarded: Guarded) -> None:
    from prefill_worker.client import PrefillClient

    with PrefillClient(guarded.worker_children[0].address) as prefill:
        before = total(prefill.stats(), "requests_done")
        cached(guarded, "bob", "Something else that nobody has asked before. " * 2)
        figures = prefill.stats()
    assert total(figures, "requests_done") == before + 1
    assert total(figures, "requests_failed") == total(figures, "left_to_expire") == 0


@pytest.mark.parametrize("key", ["", "key of carol", "kvs_" + "x" * 43])
def test_a_wrong_key_is_refused(guarded: Guarded, key: str) -> None:
    with guarded.client(key or "none") as client:
        for ask in (client.models.list, lambda: client.completions.create(model=MODEL, prompt="x")):
            with pytest.raises(openai.AuthenticationError) as raised:
                ask()
            assert raised.value.code == "invalid_api_key"


def test_nothing_is_left_behind(guarded: Guarded, wait_until: Callable[..., None]) -> None:
    for namespace in ("acme", "umbrella"):
        wait_until(lambda at=namespace: not guarded.stats(at, "leases_open") and not guarded.stats(at, "puts_open"))
