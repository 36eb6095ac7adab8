"""Every command line of README and docs is one that the command line takes."""

import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest

from controlset.cli import COMMANDS, main
from controlset.commands.generate import parse_config

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
ELSEWHERE = re.compile(r"gs://|s3://|gcloud|Dataflow|docker|torchrun|minio|flink", re.IGNORECASE)
MARK = "<!-- needs machines that tests have not -->\n"


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


def test_blocks_that_need_a_cloud_or_a_cluster_are_marked_and_no_others():
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        inside = False
        for fence in re.finditer(r"^```", text, re.MULTILINE):
            inside = not inside
            if not inside:
                continue
            block = text[fence.end() : text.index("\n```", fence.end())]
            marked = text[: fence.start()].endswith(MARK)
            assert marked == bool(ELSEWHERE.search(block)), f"{path.name}: {block}"


def quick():
    """Those that end in seconds and need nothing."""
    for one in command_lines():
        words = one.values[0]
        if words[1:3] == ["weights", "list"] or (words[1] == "scale" and "--images" in words):
            if "--figures" not in words:
                yield one


@pytest.mark.parametrize("words", [*quick()])
def test_command_lines_that_finish_in_seconds_do_what_they_say(
    monkeypatch, tmp_path, capsys, words
):
    monkeypatch.chdir(tmp_path)
    assert main(words[1:]) == 0
    assert capsys.readouterr().out
