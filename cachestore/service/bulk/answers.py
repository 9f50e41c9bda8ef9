"""What is asked on a line is answered there: GO with a message, or NO with a `Failure` that names the error."""

from google.protobuf.message import DecodeError

from cachestore.deadline import Deadline
from cachestore.service import status
from cachestore.service.bulk.format import ANSWER, GO, MOST_MESSAGE, NO
from cachestore.service.bulk.line import Line
from cachestore.wire import session_pb2
from cachestore.wire import store_pb2 as wire


def answer(line: Line, response: wire.WriteResponse, deadline: Deadline) -> None:
    """Says what came of it."""
    message = response.SerializeToString()
    line.send(ANSWER.pack(GO, len(message)) + message, deadline)


def refuse(line: Line, error: Exception, deadline: Deadline) -> None:
    """Says why nothing did, as the end of a call does."""
    failed = status.answer(error, "Write")
    reason = dict(failed.trailers)[status.REASON]
    message = session_pb2.Failure(reason=reason, text=failed.text).SerializeToString()
    line.send(ANSWER.pack(NO, len(message)) + message, deadline)


def answered(line: Line, deadline: Deadline) -> wire.WriteResponse:
    """The answer, which begins to come by now; what was refused is raised."""
    word, size = ANSWER.unpack(line.take(ANSWER.size, deadline))
    if word not in (GO, NO) or size > MOST_MESSAGE:
        raise ConnectionError("the store answered something else")
    message = line.take(size, deadline)
    try:
        if word == GO:
            return wire.WriteResponse.FromString(message)
        failure = session_pb2.Failure.FromString(message)
    except DecodeError as error:
        raise ConnectionError("the store answered something else") from error
    raise status.named(failure.reason, failure.text)
