"""The commands that people copy: what the scripts in `examples/integrations` run, and those of the page on engines."""

import re
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "integrations"
PAGE = ROOT / "docs" / "integrations.md"


def of_script(name: str, *given: str) -> list[str]:
    """The words of the command that a script ends with, which is not run."""
    told = f"exec() {{ printf '%s\\0' \"$@\"; }}; source {shlex.quote(str(SCRIPTS / name))}"
    made = subprocess.run(["bash", "-c", told, name, *given], stdout=subprocess.PIPE, text=True, check=True)
    return made.stdout.split("\0")[:-1]


def of_page(start: str) -> list[list[str]]:
    """The words of each command on the page that begins so."""
    blocks = "".join(re.findall(r"^```\w*\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE))
    found = re.findall(rf"^{re.escape(start)}(?:'[^']*'|\\\n|[^\n'])*", blocks, re.MULTILINE)
    return [shlex.split(command) for command in found]
