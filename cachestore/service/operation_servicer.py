"""The methods of the service Operation, each a translation to the node's operator and back."""

from dataclasses import dataclass, replace

import grpc

from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument
from cachestore.hashing import namespace_id
from cachestore.service import convert, operation
from cachestore.service.auth.guard import deadline_of
from cachestore.service.auth.identity import Role, identity_of, namespace_of
from cachestore.service.operation import Operator
from cachestore.wire import operation_pb2 as wire
from cachestore.wire.operation_pb2_grpc import OperationServicer as Methods

Context = grpc.ServicerContext

MOST_SAMPLES = 4096


@dataclass(eq=False)
class OperationServicer(Methods):
    """What `operator` does, over gRPC."""

    operator: Operator
    longest_call: float

    def Node(self, request: wire.NodeRequest, context: Context) -> wire.NodeResponse:
        """What this node is."""
        if request.samples > MOST_SAMPLES:
            raise InvalidArgument(f"samples must be {MOST_SAMPLES} at most, got {request.samples}")
        deadline = deadline_of(context, self.longest_call)
        facts = self.operator.facts(request.samples, deadline)
        if request.meet:
            # one that hangs is to be named in time
            facts = replace(facts, unmet=self.operator.meet(Deadline.after(deadline.remaining() / 2)))
        return operation.facts_message(facts)

    def Drain(self, request: wire.DrainRequest, context: Context) -> wire.MovedResponse:
        """This node leaves, or says how far it is."""
        seconds = operation.seconds(request.deadline_ms)
        return operation.moved_message(self.operator.drain(seconds, force=request.force))

    def Rebalance(self, request: wire.RebalanceRequest, context: Context) -> wire.MovedResponse:
        """Others get some of what this node has, or it says how far it is."""
        seconds = operation.seconds(request.deadline_ms)
        return operation.moved_message(self.operator.rebalance(seconds, request.bytes))

    def Forget(self, request: wire.ForgetRequest, context: Context) -> wire.ForgetResponse:
        """The directory forgets a dead node."""
        name = convert.name(request.node, "node")
        if not name:
            raise InvalidArgument("node must not be empty; `cachestore nodes` shows the names")
        self.operator.forget(name, deadline_of(context, self.longest_call))
        return wire.ForgetResponse()

    def Take(self, request: wire.TakeRequest, context: Context) -> wire.TakeResponse:
        """Blocks of another node are brought here."""
        identity = identity_of(context)
        peer = identity.role is Role.peer
        namespace = bytes.fromhex(identity.namespace) if peer else namespace_id(namespace_of(context))
        incarnation = convert.identifier(request.incarnation, "incarnation")
        chain = convert.chain(request.chain)
        if request.given_up:
            self.operator.give_up(namespace, incarnation, chain)
            return wire.TakeResponse()
        there = self.operator.take(
            namespace, incarnation, chain, deadline_of(context, self.longest_call),
            durable=request.durable,
        )  # fmt: skip
        return wire.TakeResponse(there=there)
