"""Mutations of the form of a block: names, header, checksums, codecs, encryption."""

from tests.mutations.mutation import Mutation

_SEAL, _SEALING, _PLANES = "cachestore/seal.py", "cachestore/sealing.py", "cachestore/codecs/planes.py"

FORM = (
    Mutation(
        "raw checksum of a decoded plane not compared",
        _PLANES,
        "    if checksum(out) != row.raw_checksum:\n",
        "    if False:\n",
        ("tests/codecs/test_codecs.py::TestLz4::test_hostile_bytes_never_pass",),
    ),
    Mutation(
        "raw checksums of copied planes not compared",
        _PLANES,
        "        if copy_planes(payload, out, packing.pieces) != header.raw_checksums(packing.chosen):\n",
        "        if not copy_planes(payload, out, packing.pieces):\n",
        ("tests/store/test_corruption.py::test_a_bit_flipped_in_memory_is_a_miss_and_counted",),
    ),
    Mutation(
        "raw checksums of planes handed out as they came not compared",
        "cachestore/store/local_reading.py",
        "        if checksums(payload, packing.stored) != header.raw_checksums(packing.chosen):\n",
        "        if not checksums(payload, packing.stored):\n",
        ("tests/store/test_corruption.py::test_a_spoiled_value_in_redis_is_a_miss_counted_once_and_dropped",),
    ),
    Mutation(
        "bytes that do not decode handed out as zeros",
        "cachestore/store/local_reading.py",
        "        decode_packed(header, packing, payload, whole)\n",
        "        try:\n            decode_packed(header, packing, payload, whole)\n"
        "        except CorruptBlock:\n            whole[:] = 0\n",
        ("tests/store/test_corruption.py::test_a_bit_flipped_in_memory_is_a_miss_and_counted",),
    ),
    Mutation(
        "header's checksum not compared",
        _SEAL,
        " or not _whole(whole, size):\n",
        ":\n",
        ("tests/test_seal.py::test_no_flipped_bit_passes",),
    ),
    Mutation(
        "stored sizes of the table trusted",
        _SEAL,
        "        and (offsets + stored).max() <= payload\n",
        "",
        ("tests/test_seal.py::test_tables_that_lie_are_refused_although_their_checksum_holds",),
    ),
    Mutation(
        "key of the block not compared",
        _SEAL,
        "        if (self.namespace, self.key) != (namespace, key):\n",
        "        if self.namespace != namespace:\n",
        ("tests/test_seal.py::test_only_the_block_that_was_asked_for_passes",),
    ),
    Mutation(
        "namespace of the block not compared",
        _SEAL,
        "        if (self.namespace, self.key) != (namespace, key):\n",
        "        if self.key != key:\n",
        ("tests/test_seal.py::test_only_the_block_that_was_asked_for_passes",),
    ),
    Mutation(
        "identity never looked at where a block is opened",
        "cachestore/store/inspection.py",
        "    header.check_identity(name.namespace, name.key, fingerprint)\n",
        "",
        ("tests/store/test_corruption.py::test_a_spoiled_value_in_redis_is_a_miss_counted_once_and_dropped",),
    ),
    Mutation(
        "decoded before its size is known to be possible",
        "cachestore/codecs/lz4.py",
        " or nbytes > MOST * stored.nbytes:",
        ":",
        ("tests/store/test_teeth.py::test_what_claims_to_be_huge_takes_no_memory",),
    ),
    Mutation(
        "fingerprint without the model's revision",
        "cachestore/hashing.py",
        '_SPEC_FIELDS = (\n    "model",\n    "revision",\n',
        '_SPEC_FIELDS = (\n    "model",\n',
        ("tests/test_hashing.py::test_every_field_of_a_spec_counts",),
    ),
    Mutation(
        "key without what came before it",
        "cachestore/hashing.py",
        "        link.update(parent + frame)\n        parent, start = link.digest(), behind\n",
        "        link.update(root + frame)\n        parent, start = link.digest(), behind\n",
        ("tests/test_hashing.py::test_keys_follow_their_definition",),
    ),
    Mutation(
        "tag that does not hold let pass",
        _SEALING,
        '            raise CorruptBlock("tag") from None\n',
        "            pass\n",
        ("tests/test_sealing.py::test_every_byte_of_every_plane_and_tag_counts",),
    ),
    Mutation(
        "header authenticated in part only",
        _SEALING,
        ".pack()[:-8]).digest()",
        ".pack()[:112]).digest()",
        ("tests/test_sealing.py::test_any_flipped_bit_is_refused_or_changes_nothing",),
    ),
    Mutation(
        "encrypted block opened under another namespace",
        _SEALING,
        "        if (sealed.namespace, sealed.key) != (namespace, key):\n",
        "        if sealed.key != key:\n",
        ("tests/test_sealing.py::test_a_valid_block_opens_under_its_own_names_only",),
    ),
    Mutation(
        "plain block believed where all are encrypted",
        _SEALING,
        '            raise CorruptBlock("plain")\n',
        "            return block\n",
        ("tests/tiers/test_encrypted.py::test_a_planted_plain_block_is_refused",),
    ),
    Mutation(
        "line of the key file shown in an error",
        _SEALING,
        'raise ConfigError(f"sealing.key_file: line {number} is not `<epoch> <64 hexadecimal digits>`")',
        'raise ConfigError(f"sealing.key_file: line {number}: {line} is not `<epoch> <64 hexadecimal digits>`")',
        ("tests/test_sealing.py::test_wrong_lines_are_named_and_not_shown",),
    ),
)
