"""The commands of README.md: `python tests/readme_commands.py first|second` prints one of the two."""

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def blocks():
    """The text of every ```bash block, in order; continuation lines joined."""
    found = re.findall(r"^```bash\n(.*?)^```", README.read_text(), re.M | re.S)
    return [block.replace("\\\n", " ").strip() for block in found]


def commands():
    """Every command line of every block."""
    return [line for block in blocks() for line in block.splitlines() if line and not line.startswith("#")]


if __name__ == "__main__":
    print(blocks()[{"first": 0, "second": 1}[sys.argv[1]]])
