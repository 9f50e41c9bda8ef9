"""What a mutation is."""

from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutation:
    """In `file`, `old` becomes `new`; at least one of `tests` (pytest node ids) must fail then."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def mutated(self, root: Path = SOURCE) -> str:
        """The text of the file with the mutation; ValueError unless its place is there once."""
        text = (root / self.file).read_text()
        if (count := text.count(self.old)) != 1:
            raise ValueError(
                f"mutation {self.name}: {self.file} has its text {count} times, not once; bring it up to date"
            )
        return text.replace(self.old, self.new)
