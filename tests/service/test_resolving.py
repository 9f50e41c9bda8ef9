"""Connecting by name, in time whatever the machine's resolver and those at the addresses do."""

import socket
import threading
import time
from contextlib import closing
from typing import Any

import pytest

from cachestore.deadline import Deadline
from cachestore.service.resolving import Resolver


def test_the_first_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as here, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        places = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", one.getsockname()) for one in (nobody, here)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *question, **more: places)
        with closing(Resolver().connect("store.example", 1, Deadline.after(5))) as connection:
            assert connection.getpeername() == here.getsockname()
        places.pop()
        with pytest.raises(ConnectionRefusedError):
            Resolver().connect("store.example", 1, Deadline.after(5))


def test_all_addresses_together_take_no_longer_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        places = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", full.getsockname())] * 8
        monkeypatch.setattr(socket, "getaddrinfo", lambda *question, **more: places)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            Resolver().connect("store.example", 1, Deadline.after(0.3))
        assert time.monotonic() - begun < 0.3 + 1
        for one in waiting:
            one.close()


def test_a_resolver_that_hangs_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answering, asked = threading.Event(), list[Any]()

    def hang(*question: Any, **more: Any) -> Any:
        asked.append(question)
        answering.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    resolver = Resolver()
    begun = time.monotonic()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            resolver.connect("store.example", 1, Deadline.after(0.1))
    assert time.monotonic() - begun < 0.2 + 1 and len(asked) == 1
    answering.set()
    with pytest.raises(socket.gaierror):
        resolver.connect("store.example", 1, Deadline.after(5))
