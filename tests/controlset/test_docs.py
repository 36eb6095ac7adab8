"""Every command line of README and docs is one that the command line takes."""

import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest

from controlset.cli import COMMANDS
from controlset.commands.generate import parse_config

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```\w*\n(.*?)```", re.DOTALL)


class Parsed(Exception):
    """The options are understood; nothing else is done."""


def command_lines():
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        blocks = (re.sub(r"\\\n\s*", " ", block) for block in BLOCK.findall(text))
        for line in itertools.chain.from_iterable(block.splitlines() for block in blocks):
            found = re.search(r"(?:^|-- |-m )(controlset [a-z].*)", line)
            if found and "…" not in line:
                yield pytest.param(
                    shlex.split(found[1], comments=True), id=f"{path.name}: {found[1][:60]}"
                )


@pytest.mark.parametrize("words", [*command_lines()])
def test_a_command_line_of_the_docs_is_understood(monkeypatch, tmp_path, words):
    _, name, *arguments = words
    assert name in COMMANDS
    monkeypatch.chdir(tmp_path)
    if name == "generate":
        assert parse_config(arguments).source
        return
    command = importlib.import_module(f"controlset.commands.{name}")
    known = command.parse

    def parse(*given, **named):
        known(*given, **named)
        raise Parsed

    monkeypatch.setattr(command, "parse", parse)
    with pytest.raises(Parsed):
        command.run(arguments)


def test_no_doc_names_a_command_that_is_not_there():
    named = set()
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        named |= set(re.findall(r"`controlset ([a-z]+)", path.read_text(encoding="utf-8")))
    assert named <= set(COMMANDS)
    assert len(list(command_lines())) > 15
