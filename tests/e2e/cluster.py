"""A store and workers as processes of their own, and the clients that a test uses them by."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from cachestore.deadline import Deadline
from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.batch_request import BatchRequest, BatchToken
from cachestore.engine.batch_settings import BatchSettings
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.sampling import Sampling
from cachestore.engine.settings import EngineSettings
from cachestore.engine.stopping import Stop
from cachestore.hashing import fingerprint
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.store.base import Lease
from decode_worker.client import DecodeClient
from decode_worker.request import Usage
from prefill_worker.client import PrefillClient
from prefill_worker.handoff import Handoff, Told
from prefill_worker.prompt import Prompt
from tests.e2e.forks import Fork, fork

ROOT = Path(__file__).parents[2]
Process = subprocess.Popen[str] | Fork

BLOCK = 16
PAGES = 1200
CHUNK = 64
BATCH = f"pages = {PAGES}\nchunk_tokens = {CHUNK}\nrecompute = false\n"
"""Of workers: what is stored is read, however fast it could be computed."""
PATIENT = 'connect_timeout = "2s"\ntimeout = "2s"\n'
"""Of Redis: a machine that is busy must not end its calls."""


def eventually(holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits until `holds` says yes; fails when the time is over."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"did not hold within {seconds} s"
        time.sleep(0.01)


@dataclass
class Child:
    """A process that told its address in its first line."""

    process: Process
    address: str

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@dataclass
class Children:
    """Starts processes and ends them all."""

    folder: Path
    forks: bool = True
    """Whether modules are forked: not where CUDA is, which may have begun in what they are forked of."""
    _all: list[Process] = field(default_factory=list)

    def start(self, *arguments: str) -> Process:
        """A Python process with these arguments; after `-m` a module that `forks` knows."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        log = self.folder / f"log-{len(self._all)}"
        if self.forks and arguments[0] == "-m":
            self._all.append(fork(arguments[1], arguments[2:], environment, log))
            return self._all[-1]
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        self._all.append(process)
        return process

    def told(self, process: Process) -> Child:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the process ended before it was ready"
        return Child(process, line.split()[-1])

    def end(self) -> None:
        for process in self._all:
            process.send_signal(signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()


@dataclass
class Cluster:
    """One store with a Redis behind it, and workers on one model; `engine_table` goes into their `[engine]`."""

    children: Children
    model: Path
    redis_url: str = ""
    tables: str = ""
    engine_table: str = ""
    store_child: Child = field(init=False)
    store: RemoteStore = field(init=False)

    def start_store(
        self, port: int = 0, tiers: str = '[[tiers]]\nname = "cpu"\ncapacity = "64MiB"\n', service: str = ""
    ) -> None:
        cold = f'[[tiers]]\nname = "redis"\nurl = "{self.redis_url}"\n{PATIENT}' if self.redis_url else ""
        config = self._file(f"[service]\nport = {port}\n{service}{tiers}{cold}")
        self.store_child = self.children.told(self.children.start("tests/e2e/store_process.py", str(config)))
        self.store = RemoteStore(self.store_child.address)
        self.store.open()

    def start_worker(self, role: str, name: str, settings: str = "", batch: str = "") -> Process:
        """`told` gives the worker when it is ready.

        Unless it is set, a decode worker prefills less than a block itself.
        """
        elsewhere = role == "decode" and "local_prefill_tokens" not in settings
        config = self._file(
            f'[engine]\nmodel = "{self.model}"\nblock_tokens = {BLOCK}\nthreads = 1\n{self.engine_table}\n'
            f"[batch]\n{batch or BATCH}\n"
            f"[{role}_worker]\n{f'local_prefill_tokens = {BLOCK - 1}' if elsewhere else ''}\n{settings}\n"
        )
        address = self.store_child.address
        return self.children.start("-m", f"{role}_worker", "--config", str(config), "--store", address, "--name", name)

    def known(self, role: str, count: int) -> None:
        """Waits until the cluster map has so many members of this role."""
        eventually(lambda: len(self.store.members(role)[1]) == count)

    def at_rest(self) -> None:
        """Waits until nothing is leased and nothing is being put."""

        def rests() -> bool:
            figures = self.store.stats()
            return not total(figures, "leases_open") and not total(figures, "puts_open")

        eventually(rests)

    def _file(self, text: str) -> Path:
        path = self.children.folder / f"config-{len(list(self.children.folder.iterdir()))}.toml"
        path.write_text(text)
        return path


@dataclass
class Trio(Cluster):
    """A cluster with one prefill worker and one decode worker."""

    prefill_child: Child = field(init=False)
    decode_child: Child = field(init=False)
    prefill: PrefillClient = field(init=False)
    decode: DecodeClient = field(init=False)

    engine: PagedModel = field(init=False)
    loop: BatchLoop = field(init=False)
    alone: Any = field(init=False)
    """The same model as transformers has it."""

    def counted(self, name: str, **labels: str) -> int:
        """A figure of the decode worker."""
        return total(self.decode.stats(), name, **labels)

    def handed(self, tokens: list[int], **more: Any) -> list[Told]:
        """All that the prefill worker tells of a prompt, whose blocks are stored then; the lease is given back."""
        prompt = Prompt(tokens, **more)
        told = list(self.prefill.prefill(prompt, fingerprint(self.engine.spec), timeout=30))
        last = told[-1]
        assert isinstance(last, Handoff)
        if last.lease:
            self.store.release(Lease(last.lease, last.blocks, 0.0))
        return told

    def ask(self, tokens: list[int], max_tokens: int = 12, **more: Any) -> tuple[list[int], Usage]:
        """The whole answer of the decode worker."""
        answer = self.decode.generate(tokens, max_tokens=max_tokens, timeout=30, **more)
        made = list(answer)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(tokens) and answer.usage.generated_tokens == len(made)
        assert answer.usage.reuse.computed + sum(answer.usage.reuse.reused.values()) == len(tokens)
        return made, answer.usage

    def expected(self, tokens: list[int], max_tokens: int = 12, sampling: Sampling | None = None) -> list[int]:
        """The tokens of a lone run: greedy ones with transformers, drawn ones with an engine that has nothing yet."""
        if sampling is None or sampling.temperature == 0.0:
            ids = torch.tensor([tokens])
            out = self.alone.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False, pad_token_id=0
            )
            made: list[int] = out[0, len(tokens) :].tolist()
            return made
        stop = Stop(max_tokens, self.engine.eos_tokens)
        nobody = secrets.token_hex(8)
        asked = BatchRequest(tokens, stop, Deadline.after(60), sampling, namespace=nobody)
        return [token.id for token in self.loop.submit(asked) if isinstance(token, BatchToken)]

    def start(self, decode: str = "") -> None:
        """Starts all three, and what says which tokens are expected."""
        self.start_store()
        workers = [self.start_worker("prefill", "p0"), self.start_worker("decode", "d0", decode)]
        self.start_reference()
        self.prefill_child, self.decode_child = map(self.children.told, workers)
        self.prefill = PrefillClient(self.prefill_child.address)
        self.decode = DecodeClient(self.decode_child.address)
        self.prefill.open()
        self.decode.open()
        self.known("prefill", 1)
        self.known("decode", 1)

    def start_reference(self) -> None:
        """Opens what says which tokens are expected."""
        self.alone = AutoModelForCausalLM.from_pretrained(self.model).eval()
        self.engine = PagedModel(EngineSettings(str(self.model), block_tokens=BLOCK, threads=1))
        self.engine.open()
        self.loop = BatchLoop(self.engine, BatchSettings(pages=PAGES, chunk_tokens=CHUNK))
        self.loop.open()

    def end(self) -> None:
        """Ends whatever was started."""
        self.children.end()
        for name in ("prefill", "decode", "store", "loop", "engine"):
            if hasattr(self, name):
                getattr(self, name).close()
