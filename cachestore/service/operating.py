"""A node's operator, somewhere else."""

from collections.abc import Sequence
from typing import Any

import grpc

from cachestore.hashing import Chain
from cachestore.service import convert, operation
from cachestore.service.connection import Connection
from cachestore.service.operation import Moved, NodeFacts
from cachestore.wire import operation_pb2 as wire
from cachestore.wire.operation_pb2_grpc import OperationStub

TIMEOUT = 5.0


class Operating(Connection):
    """The channel to the operator of the store at `address`; without `credentials` the environment's.

    Every call raises from `cachestore.errors`; PermissionDenied unless the caller is an admin or, in `take` and
    `give_up`, by which nodes ask each other, a peer.
    """

    def node(self, samples: int = 0, *, meet: bool = False, timeout: float = TIMEOUT) -> NodeFacts:
        """What the node is, and whom of the others it does not reach if it is to `meet` them."""
        return operation.facts(self.call("Node", wire.NodeRequest(samples=samples, meet=meet), timeout))

    def drain(self, seconds: float = 0.0, *, force: bool = False, timeout: float = TIMEOUT) -> Moved:
        """Has the node leave within so many seconds; zero only asks how far it is."""
        request = wire.DrainRequest(deadline_ms=convert.milliseconds(seconds, "seconds"), force=force)
        return operation.moved(self.call("Drain", request, timeout))

    def rebalance(self, seconds: float = 0.0, nbytes: int = 0, *, timeout: float = TIMEOUT) -> Moved:
        """Has the node hand over so many bytes; zero seconds only ask how far it is."""
        request = wire.RebalanceRequest(deadline_ms=convert.milliseconds(seconds, "seconds"), bytes=nbytes)
        return operation.moved(self.call("Rebalance", request, timeout))

    def forget(self, node: str, *, timeout: float = TIMEOUT) -> None:
        """Has the directory forget a dead node."""
        self.call("Forget", wire.ForgetRequest(node=node), timeout)

    def take(self, incarnation: bytes, chain: Chain, *, durable: bool, timeout: float) -> Sequence[bool]:
        """Has the node bring blocks there that the node of this life has."""
        chained = convert.chain_message(chain)
        request = wire.TakeRequest(incarnation=incarnation, chain=chained, durable=durable)
        there: Sequence[bool] = self.call("Take", request, timeout).there
        return there

    def give_up(self, incarnation: bytes, chain: Chain, *, timeout: float) -> None:
        """Has the node keep blocks no longer for good that the node of this life had it take."""
        chained = convert.chain_message(chain)
        self.call("Take", wire.TakeRequest(incarnation=incarnation, chain=chained, given_up=True), timeout)

    def _made(self, channel: grpc.Channel) -> None:
        super()._made(channel)
        self._stub: Any = OperationStub(channel)  # type: ignore[no-untyped-call]
