"""What commands tell people to copy."""

CPU = '[[tiers]]\nname = "cpu"\ncapacity = "8MiB"\n'


def lines(out: str) -> str:
    """What a command says to copy."""
    return "\n".join(line[4:] for line in out.splitlines() if line.startswith("    "))


def split(out: str) -> tuple[str, dict[str, str]]:
    """The configuration of the store and the environment of the client."""
    told = lines(out).splitlines()
    words = [word for line in told if line.startswith("export ") for word in line.split()[1:]]
    return "".join(f"{line}\n" for line in told if not line.startswith("export ")), dict(
        word.split("=", 1) for word in words
    )
