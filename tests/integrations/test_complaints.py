"""The log tells what goes wrong once, and again when it went well meanwhile."""

import logging

import pytest

from cachestore.errors import Unauthenticated, Unavailable
from cachestore.integrations.complaints import Complaints


def test_the_log_tells_a_failure_once(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints(logging.getLogger("engine"), "blocks were not saved")
    complaints.went_well()
    for _ in range(3):
        complaints.failed(Unavailable("nobody is there"))
    complaints.failed(Unauthenticated("who are you"))
    complaints.went_well()
    complaints.went_well()
    complaints.failed(Unauthenticated("who are you"))
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "blocks were not saved, the store could not go on: nobody is there",
        "blocks were not saved, the store could not go on: who are you",
        "the store goes on, where blocks were not saved",
        "blocks were not saved, the store could not go on: who are you",
    ]
