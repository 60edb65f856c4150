"""The commands of the READMEs: `python tests/readme_commands.py first|second` prints one of the two."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
READMES = (ROOT / "README.md", *(ROOT / folder / "README.md" for folder in ("configs", "launch", "phi_jax", "tests")))


def blocks():
    """The text of every ```bash block, in order, the two commands first; continuation lines joined."""
    found = [block for path in READMES for block in re.findall(r"^```bash\n(.*?)^```", path.read_text(), re.M | re.S)]
    return [block.replace("\\\n", " ").strip() for block in found]


def commands():
    """Every command line of every block."""
    return [line for block in blocks() for line in block.splitlines() if line and not line.startswith("#")]


if __name__ == "__main__":
    print(blocks()[{"first": 0, "second": 1}[sys.argv[1]]])
