"""Which tests there are, by name, without importing any."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def names_in(file: Path) -> frozenset[str]:
    """The names of a file's tests, of those in its classes too, and of the classes."""
    named = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef | ast.ClassDef))
    return frozenset(node.name for node in named if node.name.startswith(("test_", "Test")))


def there_is(test: str) -> bool:
    """Whether there is the test of this pytest node id; one of a class may be that of a conformance suite."""
    name, *inside = test.split("::")
    file = ROOT / name
    if not (inside and file.is_file() and inside[0] in names_in(file)):
        return False
    suites = (ROOT / "cachestore" / "testing").glob("*.py")
    return len(inside) == 1 or any(inside[1] in names_in(suite) for suite in (file, *suites))
