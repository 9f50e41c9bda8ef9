"""As much of HTTP/2 (RFC 9113) as it takes to hit a frame of gRPC's where it hurts."""

from collections.abc import Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_HEADERS = 4
LAST_STREAM = (1 << 31) - 1


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def goaway(error: int = 0, last: int = LAST_STREAM, text: bytes = b"") -> bytes:
    """No new streams on this connection."""
    return frame(GOAWAY, last.to_bytes(4, "big") + error.to_bytes(4, "big") + text)


def rst_stream(stream: int, error: int) -> bytes:
    """The end of one stream."""
    return frame(RST_STREAM, error.to_bytes(4, "big"), stream=stream)


def boundaries(heard: bytes) -> Iterator[int]:
    """Where frames begin in what went through one direction of one connection from its beginning."""
    at = len(PREFACE) if heard.startswith(PREFACE) else 0
    while at + 9 <= len(heard):
        yield at
        at += 9 + int.from_bytes(heard[at : at + 3], "big")
