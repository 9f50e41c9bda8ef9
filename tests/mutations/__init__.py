"""Do the tests have teeth? One wrong line of source at a time, and the tests that must fail because of it.

    python -m tests.mutations [--only NAME] [--list] [--json] [--jobs N]

To add one: a `Mutation` in the file of its part. `old` must stand exactly once in its file.
"""

from tests.mutations.disk import DISK
from tests.mutations.form import FORM
from tests.mutations.memory import MEMORY
from tests.mutations.mutation import Mutation
from tests.mutations.pages import PAGES
from tests.mutations.puts import PUTS
from tests.mutations.redis import REDIS
from tests.mutations.store import STORE
from tests.mutations.wire import WIRE

MUTATIONS: tuple[Mutation, ...] = (*FORM, *PAGES, *PUTS, *STORE, *MEMORY, *DISK, *REDIS, *WIRE)
