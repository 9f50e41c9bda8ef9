"""Freezes the wire as it is now: what the release after this one is tested against.

For when a version is released, not for when the wire changes; from the repository's root:

    PYTHONPATH=.:kernels python tests/service/frozen_wire/freeze.py

It writes what the contracts of stores and clients say, as protobuf's own FileDescriptorSet. Blocks sealed by this
release go into `sealed/` beside it when the header gets another version.
"""

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from cachestore.wire import session_pb2, store_pb2
from tests.service.frozen_wire.frozen import CONTRACTS

if __name__ == "__main__":
    frozen = FileDescriptorSet()
    for contract in (store_pb2.DESCRIPTOR, session_pb2.DESCRIPTOR):
        contract.CopyToProto(frozen.file.add())
    CONTRACTS.write_bytes(frozen.SerializeToString())
