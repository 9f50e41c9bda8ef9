"""What is said while a node hands over what it has."""

import pytest

from cachestore.cli import nodes
from cachestore.service.operation import Moved


def test_a_long_drain_is_not_told_line_by_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nodes, "POLL_SECONDS", 0.0)
    said = iter([*(Moved(durable_moved=moved) for moved in range(1, 101)), Moved(done=True)])
    assert nodes._followed("one", Moved(), lambda: next(said), 60.0).done
    assert 1 <= len(capsys.readouterr().err.splitlines()) <= 2
