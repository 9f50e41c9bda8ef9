"""A gateway process before real workers and a real store, over a tiny model whose tokens are bytes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import torch
from openai import OpenAI
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from tests.e2e.cluster import BLOCK, Child, Children, Cluster, Process, eventually

MODEL = "tiny-bytes"
END = 256
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' and loop.first %}{{ raise_exception('who began?') }}{% endif %}"
    "<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that most characters beyond ASCII are several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<eos>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", chat_template=TEMPLATE)


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of random weights with that tokenizer; at temperature 0 it never ends by itself."""
    torch.set_num_threads(1)
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=257, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=1024, bos_token_id=None, eos_token_id=END,
        pad_token_id=END, initializer_range=0.2, tie_word_embeddings=False,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("bytes") / MODEL
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        # of 256 other logits one is always above zero
        model.lm_head.weight[END] = 0
    model.save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


@dataclass
class Served(Cluster):
    """Store, workers and a gateway. `worker_children` has the prefill worker first."""

    worker_children: list[Child] = field(init=False)
    gateway_child: Child = field(init=False)

    def start_gateway(self, settings: str = "") -> Process:
        config = self._file(
            f'[engine]\nmodel = "{self.model}"\nblock_tokens = {BLOCK}\n[gateway]\nport = 0\n{settings}\n'
        )
        return self.children.start("-m", "gateway", "--config", str(config), "--store", self.store_child.address)

    def start(self, gateway: str = "", decode: int = 1) -> None:
        """Starts a store, a prefill worker, so many decode workers, and the gateway when they are known."""
        self.start_store()
        workers = [self.start_worker("prefill", "p0")]
        workers += [self.start_worker("decode", f"d{number}") for number in range(decode)]
        self.worker_children = [self.children.told(worker) for worker in workers]
        self.known("decode", decode)
        self.known("prefill", 1)
        self.gateway_child = self.children.told(self.start_gateway(gateway))

    @property
    def url(self) -> str:
        """Where the gateway listens."""
        return self.gateway_child.address

    def client(self, key: str = "none") -> OpenAI:
        """The official client, which tries nothing twice."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30)

    def end(self) -> None:
        self.children.end()
        if hasattr(self, "store"):
            self.store.close()


def figure(served: Served, name: str) -> float:
    """One of the gateway's figures, over all labels."""
    lines = httpx.get(f"{served.url}/metrics").text.splitlines()
    found = [line for line in lines if line.split("{")[0].split(" ")[0] == f"cachestore_gateway_{name}"]
    return sum(float(line.rpartition(" ")[2]) for line in found)


@pytest.fixture(scope="session")
def make_served(byte_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Served]:
    """A system that is not started yet."""
    return lambda: Served(Children(tmp_path_factory.mktemp("served")), byte_model)


@pytest.fixture(scope="session")
def served(make_served: Callable[[], Served]) -> Iterator[Served]:
    """The system shared by tests that break nothing for good."""
    system = make_served()
    try:
        system.start()
        yield system
    finally:
        system.end()


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    """A client of that system."""
    with served.client() as one:
        yield one


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """`eventually` for tests."""
    return eventually
