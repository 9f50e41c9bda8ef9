"""Three nodes of a real Ray with a store on each, a Redis, and somebody who uses them."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.faults.nodes import HEARTBEAT, LIFE, PEER_SECONDS, User
from tests.faults.processes import Process
from tests.redis_servers.server import RedisServer


class RayNodes:
    """The stores are `0`, beside the head, `1` and `2`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.stores: dict[str, str] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            redis = RedisServer(self._folder).start()
            stack.callback(redis.kill)
            waits = {"connect_timeout": "1s", "timeout": "1s"}
            tables = {
                "tiers": [{"name": "cpu", "capacity": "16MiB"}],
                "store": {"lease": "2s"},
                "directory": {
                    "name": "redis",
                    "heartbeat": HEARTBEAT,
                    "ttl": LIFE,
                    "server": {"url": redis.url},
                    **waits,
                },
                "peers": {"timeout": PEER_SECONDS, "copy_after": 2},
                "service": {"port": 0, "drain": 0.2},
            }
            self._process = Process("faults/ray_process.py", tables)
            # it ends Ray when its input ends
            stack.callback(self._process.popen.communicate)
            self.twice: list[dict[str, str]] = json.loads(self._process.said)
            self.stores = self.twice[0]
            self.user = User(self.stores.__getitem__)
            stack.callback(self.user.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def ray(self, what: str, **more: Any) -> dict[str, Any]:
        """What came of something that is done to Ray: what was `said` or the `error`, and how long it `took`."""
        pipes = self._process.popen
        assert pipes.stdin is not None and pipes.stdout is not None
        pipes.stdin.write(json.dumps({"what": what, **more}) + "\n")
        pipes.stdin.flush()
        answer: dict[str, Any] = json.loads(pipes.stdout.readline())
        return answer
