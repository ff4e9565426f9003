"""Pages of documentation, and the commands in their blocks of bash.

`python -m tests.support.documentation PAGE` prints the commands of a page that a script can run: those that
install, serve or set up a shell are left out.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.project import PROJECT

DOCS = PROJECT / "docs"
PAGES = sorted(
    [
        *DOCS.rglob("*.md"),
        *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "conf/README.md")),
    ]
)
INSTALLING_OR_SERVING = re.compile(r"^(python3 -m venv|\. |pip install|mlflow ui|(\w+=\S+ )*kedro viz run)")
_BETWEEN_COMMANDS = {"&&", "||", ";", "&", "|"}
_ASSIGNMENT = re.compile(r"\w+=.*", re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block of code of a page."""
    return re.findall(r"^```(\w.*?)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def bash_lines(page: Path) -> Iterator[str]:
    """Lines of a page's blocks of bash, those that end in a backslash joined with the next."""
    for language, block in blocks(page):
        if language == "bash":
            yield from filter(None, re.sub(r"\s*\\\n\s*", " ", block).splitlines())


def commands(line: str) -> Iterator[list[str]]:
    """Words of each command of a line, without comments and the variables that are set for it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in _BETWEEN_COMMANDS:
            words.append(word)
            continue
        while words and _ASSIGNMENT.fullmatch(words[0]):
            words.pop(0)
        if words:
            yield words
        words = []


def main() -> None:
    """Print the commands of a page that a script can run."""
    for line in bash_lines(Path(sys.argv[1])):
        if not INSTALLING_OR_SERVING.match(line):
            sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
