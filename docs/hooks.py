"""What pages hold beside their own text: files of the repository's top, and the commands' help."""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

from controlset.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
INCLUDE = re.compile(r"^<!-- the file (\S+) -->$", re.MULTILINE)
HELP = "<!-- help of every command -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    markdown = INCLUDE.sub(lambda found: _included(found[1]), markdown)
    return markdown.replace(HELP, _help()) if HELP in markdown else markdown


def _included(name: str) -> str:
    """A file of the top, its links as seen from `docs/`."""
    return (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")


def _help() -> str:
    os.environ["COLUMNS"] = "80"
    return "\n\n".join(
        f"## {name}\n\n{text[0].upper()}{text[1:]}.\n\n```text\n{_help_of(name)}\n```"
        for name, text in COMMANDS.items()
    )


def _help_of(command: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return printed.getvalue().strip()
