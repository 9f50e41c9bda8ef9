"""How a session's answers go out: what failed as a message, and the slabs that an answer speaks of beside it."""

import logging
import os
import socket

from cachestore.service import status
from cachestore.service.shared.messages import MOST_DESCRIPTORS, send
from cachestore.service.shared.session import Session
from cachestore.wire import session_pb2 as wire

log = logging.getLogger(__name__)


def failed(error: Exception) -> wire.SessionAnswer:
    """What a client is told of `error`."""
    answer = status.answer(error, "session")
    reason = dict(answer.trailers)[status.REASON]
    return wire.SessionAnswer(failure=wire.Failure(reason=reason, text=answer.text))


def send_answer(connection: socket.socket, session: Session, answer: wire.SessionAnswer) -> None:
    """Sends an answer, with the slabs that it speaks of; if they are many, the first in messages of their own."""
    with session.store.tiered.index.changed:
        # under the lock no slab is given up: its descriptor could be another file's by then
        try:
            news = session.slabs.news()
        except OSError as error:
            log.warning("a session ends: its memory cannot be passed on (%s)", error.strerror)
            raise
    answer.gone.extend(session.slabs.gone())
    last = max(0, len(news) - 1) // MOST_DESCRIPTORS * MOST_DESCRIPTORS
    # an answer that shows pages speaks of no slabs of the store
    of_pages = session.pages.descriptors()
    try:
        for start in range(0, last + 1, MOST_DESCRIPTORS):
            some = news[start : start + MOST_DESCRIPTORS]
            message = answer if start == last else wire.SessionAnswer()
            message.slabs.extend(one.message for one in some)
            send(connection, message.SerializeToString(), [*(one.descriptor for one in some), *of_pages])
    finally:
        for descriptor in [*(one.descriptor for one in news), *of_pages]:
            os.close(descriptor)
