"""Mutations of the Redis tier."""

from tests.mutations.mutation import Mutation

_DURABLE = "cachestore/tiers/redis_durable.py"
_BLOCKS = "cachestore/tiers/redis_blocks.py"
_BREAKER = "cachestore/tiers/breaker.py"
_REMOVAL = "cachestore/tiers/redis_removal.py"
_LOST = "tests/store/test_lost_durable_blocks.py"

REDIS = (
    Mutation(
        "block served from Redis after its end",
        "cachestore/tiers/redis.py",
        "            if isinstance(value, np.ndarray) and redis_blocks.over(value):\n",
        "            if False:\n",
        ("tests/store/test_teeth.py::test_redis_serves_no_durable_block_after_its_end",),
    ),
    Mutation(
        "name in Redis without the namespace",
        _BLOCKS,
        'return b"%b%b:%b" % (PREFIX, namespace.hex().encode(), key.hex().encode())',
        'return b"%b%b:%b" % (PREFIX, bytes(32).hex().encode(), key.hex().encode())',
        ("tests/tiers/test_redis.py::TestEmbedded::test_namespaces_never_see_each_other",),
    ),
    Mutation(
        "removal that Redis did not hear taken for done",
        "cachestore/tiers/redis.py",
        "        return None if None in removed else [bool(there) for there in removed]\n",
        "        return [bool(there) for there in removed]\n",
        ("tests/store/test_redis_down.py::test_a_removal_that_redis_did_not_hear_is_reported",),
    ),
    Mutation(
        "durable block in Redis not counted",
        "cachestore/tiers/redis_keeper.py",
        "        self.kept.came(namespace, came, anew)\n",
        "",
        ("tests/store/test_quotas.py::test_what_redis_keeps_counts_until_it_is_deleted_or_cleared",),
    ),
    Mutation(
        "block in Redis counts after its end",
        "cachestore/tiers/redis_kept.py",
        "        while (name := self._ending.due(time.time())) is not None:\n",
        "        while False:\n",
        ("tests/store/test_quotas.py::test_what_redis_keeps_counts_until_its_time_is_over",),
    ),
    Mutation(
        "durable block removed from Redis without a note",
        _REMOVAL,
        '        removals += [noted(names[index]), ("UNLINK", durable_name(names[index]))]\n',
        '        removals += [("PING",), ("UNLINK", durable_name(names[index]))]\n',
        (f"{_LOST}::test_what_another_node_removed_is_no_loss",),
    ),
    Mutation(
        "durable blocks cleared from Redis without a note",
        _REMOVAL,
        " for name, key in ours.items() if name.startswith(DURABLE_PREFIX)]\n",
        " for name, key in ours.items() if not name]\n",
        (f"{_LOST}::test_what_another_node_removed_is_no_loss",),
    ),
    Mutation(
        "durable block ended in Redis without a note",
        _REMOVAL,
        '[("MULTI",), noted(name), ("UNLINK", durable), ("EXEC",)]',
        '[("MULTI",), ("UNLINK", durable), ("EXEC",)]',
        (f"{_LOST}::test_what_ended_is_no_loss", f"{_LOST}::test_what_was_taken_back_is_no_loss"),
    ),
    Mutation(
        "note on a durable block that is put again kept",
        _DURABLE,
        '("UNLINK", name, note_name(name))]\n',
        '("UNLINK", name)]\n',
        (f"{_LOST}::test_what_another_node_removed_is_no_loss",),
    ),
    Mutation(
        "loss in Redis taken for a removal",
        "cachestore/tiers/redis_keeper.py",
        "        if lost:\n            self.departed(lost)\n",
        "",
        (f"{_LOST}::test_what_redis_lost_is_counted_once",),
    ),
    Mutation(
        "durable copy removed with a corrupt cache copy",
        "cachestore/tiers/redis.py",
        '        removal = redis_removal.unlink if why == "corrupt" else redis_removal.remove\n',
        "        removal = redis_removal.remove\n",
        (
            f"{_LOST}::test_a_spoiled_cache_copy_takes_no_durable_one_with_it",
            "tests/tiers/test_durable_contract.py::TestRedis",
        ),
    ),
    Mutation(
        "copy of a pinned block not renewed",
        "cachestore/tiers/redis_blocks.py",
        "0 <= ms < lifetimes[name]\n",
        "0 <= ms < 0\n",
        ("tests/store/test_pins.py::test_a_pin_never_takes_time_from_a_copy",),
    ),
    Mutation(
        "time taken from the copy of a pinned block",
        "cachestore/tiers/redis_blocks.py",
        "0 <= ms < lifetimes[name]\n",
        "ms != -2\n",
        ("tests/store/test_pins.py::test_a_pin_never_takes_time_from_a_copy",),
    ),
    Mutation(
        "answer of WAIT ignored",
        _DURABLE,
        "            return isinstance(counts, int) and counts >= self.replicas\n",
        "            return isinstance(counts, int)\n",
        ("tests/tiers/test_redis_durable.py::test_no_step_may_fail_on_the_way_to_an_acknowledgement",),
    ),
    Mutation(
        "answer of WAITAOF ignored",
        _DURABLE,
        "                return local >= 1 and replicas >= self.replicas\n",
        "                return True\n",
        ("tests/tiers/test_redis_durable.py::test_waitaof_counts_disks",),
    ),
    Mutation(
        "no acknowledgement asked for after the last write",
        _DURABLE,
        "    given = acknowledgement.given(connection, until)\n",
        "    given = True\n",
        ("tests/store/test_teeth.py::test_the_last_write_is_acknowledged_too",),
    ),
    Mutation(
        "connection used again after it timed out",
        "cachestore/tiers/redis_node.py",
        "                connection.close()\n                raise\n",
        "                self._put_back(connection)\n                raise\n",
        ("tests/tiers/test_redis_faults.py::test_answers_that_come_late_are_never_taken_for_others",),
    ),
    Mutation(
        "deadline missing on what comes over a connection",
        "cachestore/tiers/resp_socket.py",
        "        left = min(self.patience, self.until - time.monotonic())\n",
        "        left = self.patience\n",
        ("tests/tiers/test_redis_faults.py::test_a_server_that_drips_ends_with_the_deadline",),
    ),
    Mutation(
        "length that a value claims trusted",
        _BLOCKS,
        "    if length > largest:\n",
        "    if False:\n",
        ("tests/tiers/test_redis_faults.py::test_a_value_longer_than_any_block_takes_no_memory",),
    ),
    Mutation(
        "breaker that never tries again",
        _BREAKER,
        "            self._probing = True\n            return True\n",
        "            self._probing = True\n            return False\n",
        ("tests/tiers/test_breaker.py::test_one_probe_at_a_time_is_let_through",),
    ),
    Mutation(
        "breaker that never opens",
        _BREAKER,
        "        return self._failed >= self.failures\n",
        "        return False\n",
        ("tests/tiers/test_breaker.py::test_failures_in_a_row_open_it_and_a_success_between_does_not",),
    ),
    Mutation(
        "password shown",
        "cachestore/tiers/redis_url.py",
        '    password: str = field(default="", repr=False)\n',
        '    password: str = field(default="")\n',
        ("tests/tiers/test_redis_places.py::test_no_secret_is_shown",),
    ),
    Mutation(
        "URL with its password in an error",
        "cachestore/tiers/redis_url.py",
        "        return f\"{scheme}://{','.join(map(str, self.addresses))}{path}\"\n",
        "        return f\"{scheme}://{self.password}@{','.join(map(str, self.addresses))}{path}\"\n",
        (
            "tests/tiers/test_redis_places.py::test_no_secret_is_shown",
            "tests/tiers/test_redis.py::test_a_wrong_password_is_refused",
        ),
    ),
)
