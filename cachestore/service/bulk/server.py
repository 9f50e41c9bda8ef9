"""The port where payloads are fetched and delivered: whoever shows a ticket there gets what was agreed on over gRPC.

A connection stays for further tickets of the same caller, and for puts that are reserved on it. Each has a thread; when
there are too many, the one that has been idle longest gives way, those that have shown nothing yet first.
"""

import logging
import math
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from threading import Condition, Thread
from typing import NamedTuple, Protocol
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError, ConfigError
from cachestore.metrics import Counters
from cachestore.seal import CorruptBlock
from cachestore.service.auth.identity import Identity, identity_of
from cachestore.service.auth.shares import SharedBudget
from cachestore.service.bulk.format import RELEASE, REQUEST, RESERVE, TICKET
from cachestore.service.bulk.line import Line, server_line
from cachestore.service.bulk.receiving import Receiving
from cachestore.service.bulk.reserving import Admission, Reserving
from cachestore.service.bulk.sending import Sending
from cachestore.service.health.stalls import Peer
from cachestore.service.settings import ServiceSettings
from cachestore.service.stream.reading import Opened
from cachestore.service.tickets import TICKET_SECONDS, Tickets
from cachestore.store.local import LocalStore
from cachestore.store.put import LocalPut
from cachestore.wire import store_pb2 as wire

IDLE_SECONDS = 60.0
"""How long a connection is kept for a further ticket."""

KNOWN_SECONDS = 600.0
"""How long a ticket says who is at the other end: identities are taken away."""

CUT_SECONDS = 2.0
"""How long a connection that was cut may take to notice."""

BACKLOG = 64

log = logging.getLogger(__name__)


class Transfer(Protocol):
    """What goes over a line."""

    @property
    def caller(self) -> Identity:
        """For whom."""

    @property
    def holds(self) -> int:
        """Bytes in flight that it takes."""

    def run(self, line: Line) -> None:
        """Raises what breaks it; the line is of no use then."""


class Agreed(NamedTuple):
    """A transfer, and the certificate that its caller showed, if it did: whoever has the ticket must show the same."""

    transfer: Transfer
    certificate: bytes


@dataclass(eq=False)
class Guest:
    """One connection. `since` is when it became idle, 0 while it works; `known` says that it has shown a ticket."""

    socket: socket.socket
    since: float
    known: bool = False

    def cut(self) -> None:
        """Ends it from another thread."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


@dataclass(eq=False)
class BulkServer:
    """Listens under `settings`. `context` gives the TLS to use now, if gRPC has it.

    Transfers count in `in_flight`, and in the share of calls that their caller may have; `admission` has it.
    """

    settings: ServiceSettings
    in_flight: SharedBudget
    admission: Admission
    context: Callable[[], ssl.SSLContext] | None
    counters: Counters = field(default_factory=Counters)
    port: int = field(init=False, default=0)
    """Where clients are told to connect."""
    _tickets: Tickets[Agreed] = field(default_factory=Tickets)
    _listening: socket.socket | None = None
    guests: set[Guest] = field(init=False, default_factory=set)
    """The connections that are open."""
    trial: object = None
    """Where this process connects from only to see whether it is answered: it is, with the end, and nothing counts it.
    """
    _changed: Condition = field(default_factory=Condition)

    def open(self) -> None:
        """Listens, if this way is not turned off. ConfigError if the port cannot be had."""
        settings = self.settings
        if settings.bulk_port < 0 or settings.unix_socket:
            return
        host = "127.0.0.1" if settings.host == "localhost" else settings.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listening = socket.create_server(
                (host, settings.bulk_port), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::"
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen at service.bulk_port = {settings.bulk_port} of {host}: {error.strerror}; choose "
                "another, 0 for a free one, or -1 for none"
            ) from error
        self.port = self._listening.getsockname()[1]
        Thread(target=self._accept, args=(self._listening,), name="cachestore-bulk", daemon=True).start()

    def close(self, grace: float) -> None:
        """Takes no more tickets, lets transfers go on for `grace` seconds, cuts the rest. Closing twice is allowed."""
        listening, self._listening = self._listening, None
        if listening is None:
            return
        # wakes the thread that accepts, which closing alone would not
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        with self._changed:
            self._cut(lambda guest: guest.since > 0)
            self._changed.wait_for(lambda: not self.guests, grace)
            self._cut(lambda guest: True)
            # one that waits for a slow tier is not waited for
            self._changed.wait_for(lambda: not self.guests, CUT_SECONDS)

    def offer_read(self, context: grpc.ServicerContext, store: LocalStore, read: Opened) -> wire.BulkOffer | None:
        """A ticket for the blocks of a read; None unless nobody but the caller can see it on its way."""
        caller = identity_of(context)
        return self._offer(context, Sending(caller, self.admission.share, store, read.sealed, read.part, read.first))

    def offer_put(self, context: grpc.ServicerContext, peer: Peer, put: LocalPut) -> wire.BulkOffer | None:
        """A ticket for the planes of a put, likewise. Until it is shown, `peer` has to send something on its stream."""
        return self._offer(context, Receiving(identity_of(context), put, self.settings.stall, peer))

    def _offer(self, context: grpc.ServicerContext, transfer: Transfer) -> wire.BulkOffer | None:
        if self._listening is None or not (self.context or is_here(context.peer())):
            return None
        ticket = self._tickets.issue(Agreed(transfer, _certificate(context)))
        host = self.settings.advertise
        return wire.BulkOffer(address=f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}", ticket=ticket)

    def _accept(self, listening: socket.socket) -> None:
        listening.settimeout(TICKET_SECONDS)
        while self._listening is listening:
            # what was agreed and never fetched would stay until somebody agrees on more
            self._tickets.expire()
            try:
                connection, peer = listening.accept()
            except TimeoutError:
                continue
            except OSError:
                # it was closed, or there are no descriptors left just now
                time.sleep(0.05)
                continue
            if peer == self.trial:
                connection.close()
                continue
            with self._changed:
                if len(self.guests) >= self.settings.max_concurrent and not self._make_room():
                    self.counters.add("bulk_refused", reason="full")
                    connection.close()
                    continue
                guest = Guest(connection, time.monotonic())
                self.guests.add(guest)
            try:
                Thread(target=self._serve, args=(guest,), name="cachestore-bulk", daemon=True).start()
            except RuntimeError:
                # this process may have no more threads just now
                self.counters.add("bulk_refused", reason="threads")
                connection.close()
                with self._changed:
                    self.guests.discard(guest)
                    self._changed.notify_all()

    def _make_room(self) -> bool:
        """Cuts whoever has been idle longest; whether there was one. Its thread ends a moment later."""
        idle = [guest for guest in self.guests if guest.since > 0]
        if not idle:
            return False
        guest = min(idle, key=lambda guest: (guest.known, guest.since))
        guest.cut()
        self.guests.discard(guest)
        self.counters.add("bulk_refused", reason="idle")
        return True

    def _cut(self, chosen: Callable[[Guest], bool]) -> None:
        for guest in filter(chosen, self.guests):
            guest.cut()

    def _serve(self, guest: Guest) -> None:
        try:
            with closing(guest.socket):
                context = self.context() if self.context else None
                line = server_line(guest.socket, self.settings.stall, context, Deadline.after(TICKET_SECONDS))
                self._converse(guest, line)
        except (OSError, CacheStoreError, CorruptBlock, DecodeError) as error:
            # whoever is at the other end finds the connection closed
            self.counters.add("bulk_broken")
            log.debug("a bulk connection broke: %s", error)
        except Exception:
            self.counters.add("bulk_broken")
            log.exception("a bulk connection failed")
        finally:
            with self._changed:
                self.guests.discard(guest)
                self._changed.notify_all()

    def _converse(self, guest: Guest, line: Line) -> None:
        last: Transfer | None = None
        wait, known_until = TICKET_SECONDS, math.inf
        while self._listening and line.readable(max(0.0, min(wait, known_until - time.monotonic()))):
            # what has begun must come whole, and soon
            deadline = Deadline.after(TICKET_SECONDS)
            try:
                word, count, shown = REQUEST.unpack(line.take(REQUEST.size, deadline))
            except OSError:
                # whoever leaves between two transfers breaks none
                break
            if word == RELEASE and isinstance(last, Sending):
                last.release(line, count, deadline)
                continue
            if word == RESERVE and last is not None:
                if time.monotonic() >= known_until:
                    # it asks over gRPC then, and brings another ticket
                    return
                last = Reserving(last.caller, count, self.admission)
            else:
                agreed = self._tickets.redeem(shown) if word == TICKET else None
                if agreed is None or not _fits(agreed, line, last):
                    self.counters.add("bulk_refused", reason="ticket")
                    return
                last = agreed.transfer
                wait = IDLE_SECONDS
                known_until = time.monotonic() + min(KNOWN_SECONDS, last.caller.expires - time.time())
            self.counters.add("bulk_transfers")
            with self._working(guest), self.in_flight.hold(last.caller, last.holds):
                last.run(line)
        if last is None:
            self.counters.add("bulk_refused", reason="silent")

    @contextmanager
    def _working(self, guest: Guest) -> Iterator[None]:
        """While it does, it gives way to nobody."""
        with self._changed:
            guest.since, guest.known = 0.0, True
        try:
            yield
        finally:
            with self._changed:
                guest.since = time.monotonic()


def _fits(agreed: Agreed, line: Line, last: Transfer | None) -> bool:
    """Whether it is for whoever is at the other end, as far as that is known."""
    same = last is None or last.caller == agreed.transfer.caller
    return same and agreed.certificate in (b"", line.certificate())


def _certificate(context: grpc.ServicerContext) -> bytes:
    shown = context.auth_context().get("x509_pem_cert") or [b""]
    pem = bytes(shown[0]).decode("ascii")
    return ssl.PEM_cert_to_DER_cert(pem) if pem else b""


def is_here(peer: str) -> bool:
    """Whether gRPC's name of a peer, such as `ipv4:127.0.0.1:1234`, is one on this machine."""
    host = unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
