"""Do the tests have teeth? One wrong line of source at a time, and the tests that must fail because of it.

    python -m tests.mutations [--only NAME] [--list] [--json] [--jobs N]

To add one: a `Mutation` in the file of its floor. `old` must stand exactly once in its file.
"""

from tests.mutations.form import FORM
from tests.mutations.mutation import Mutation
from tests.mutations.pages import PAGES
from tests.mutations.store import STORE
from tests.mutations.tiers import TIERS
from tests.mutations.wire import WIRE

MUTATIONS: tuple[Mutation, ...] = (*FORM, *PAGES, *STORE, *TIERS, *WIRE)
