"""What the bulk path says on its connections, all little-endian. Payload bytes follow as they are.

The client begins with a request, and with a further one whenever what came of the last is done:

    TICKET   a read or a put that was agreed on over gRPC begins
    RESERVE  a put, by the caller whose ticket came last: so many bytes of a `SessionRequest` with `reserve` follow; the
             answer is GO with a `WriteResponse`, and the put goes on as below, or NO with a `Failure`
    RELEASE  ends the lease of the read before: so many bytes follow, for each of its blocks a `Verdict`; the answer
             is GO with nothing

A read answers with its blocks, each a `BLOCK` (and its tier and sealed header), the ranges of its payload that the part
needs (`ranges.ranges`), and an `END`. A `BLOCK` whose status is LAST is followed by nothing: there are no more.

A put that showed its ticket says GO, with nothing, once its planes may come. Then come frames:

    RAW      planes of one block as they are, one behind the other, then a checksum (u64) for each
    CODED    the same in their stored form: a `ROW` for each, the stored bytes, then two checksums for each, of all the
             stored and then of all the raw bytes
    COMMIT   so many bytes of a `Commit`; the answer is GO with a `WriteResponse`, or NO with a `Failure`
    DONE     gives up what is not committed; the answer is GO with nothing
"""

import struct

import numpy as np

REQUEST = struct.Struct("<4sI32s")
"""Its word; how many verdicts, or bytes of a message; the ticket, or zeros."""

TICKET = b"KVTK"
RESERVE = b"KVRS"
RELEASE = b"KVRL"

BLOCK = struct.Struct("<IBBHI")
"""Block number, status, bytes of the tier's name, zero, bytes of the sealed header."""

END = struct.Struct("<IB3x")
"""Block number, status."""

SENT, GONE, LAST = 0, 1, 2

FRAME = struct.Struct("<4sIII")
"""Its word, then block, first plane and planes; or how many bytes follow, and zeros."""

RAW = b"KVRW"
CODED = b"KVCD"
COMMIT = b"KVCM"
DONE = b"KVDN"

ANSWER = struct.Struct("<4sI")
"""Its word, and how many bytes of a message follow."""

GO = b"KVGO"
NO = b"KVNO"

ROW = np.dtype([("codec", "<u8"), ("stored_bytes", "<u8")])
SUM = np.dtype("<u8")

MOST_MESSAGE = 4 << 20
"""Bytes of the longest message."""
