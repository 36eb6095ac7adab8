"""README and docs: command lines are understood, output is as printed, links lead somewhere."""

import ast
import dataclasses
import importlib
import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import skimage.data
from PIL import Image

import controlset
from controlset.cli import COMMANDS, main
from controlset.commands.generate import parse_config
from controlset.parse import Command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TOP = [*sorted(ROOT.glob("*.md")), ROOT / "tests" / "README.md"]
BLOCK = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
ELSEWHERE = re.compile(r"gs://|s3://|gcloud|Dataflow|docker|torchrun|minio|flink", re.IGNORECASE)
MARK = "<!-- needs machines that tests have not -->\n"


class Parsed(Exception):
    """The options are understood; nothing else is done."""


def command_lines():
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        blocks = (re.sub(r"\\\n\s*", " ", block) for block in BLOCK.findall(text))
        for line in itertools.chain.from_iterable(block.splitlines() for block in blocks):
            found = re.search(r"(?:^|-- |-m )(controlset [a-z].*)", line)
            if found and "…" not in line:
                yield path.name, shlex.split(found[1], comments=True)


def named(lines):
    return [pytest.param(words, id=f"{page}: {' '.join(words)[:60]}") for page, words in lines]


@pytest.mark.parametrize("words", named(command_lines()))
def test_a_command_line_of_the_docs_is_understood(monkeypatch, tmp_path, words):
    _, name, *arguments = words
    assert name in COMMANDS
    monkeypatch.chdir(tmp_path)
    if name == "generate":
        assert parse_config(arguments).source
        return
    command = importlib.import_module(f"controlset.commands.{name}")
    known = Command.parse

    def parse(*given, **named):
        known(*given, **named)
        raise Parsed

    monkeypatch.setattr(Command, "parse", parse)
    with pytest.raises(Parsed):
        command.run(arguments)


def test_no_doc_names_a_command_that_is_not_there():
    named = set()
    for path in PAGES:
        named |= set(re.findall(r"`controlset ([a-z]+)", path.read_text(encoding="utf-8")))
    assert named <= set(COMMANDS)
    assert len(list(command_lines())) > 40


def test_blocks_that_need_a_cloud_or_a_cluster_are_marked_and_no_others():
    for path in PAGES:
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
    for page, words in command_lines():
        if words[1:3] == ["weights", "list"] or (words[1] == "scale" and "--images" in words):
            if "--figures" not in words:
                yield page, words


@pytest.mark.parametrize("words", named(quick()))
def test_command_lines_that_finish_in_seconds_do_what_they_say(
    monkeypatch, tmp_path, capsys, words
):
    monkeypatch.chdir(tmp_path)
    assert main(words[1:]) == 0
    assert capsys.readouterr().out


CAPTIONS = {
    "astronaut": "an astronaut in an orange suit",
    "chelsea": "a cat",
    "coffee": "a cup of coffee",
    "rocket": "a rocket on its launch pad",
}


@pytest.mark.slow
def test_the_three_lines_of_the_readme_print_what_it_says(tmp_path):
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Three lines")[1]
    commands, output = BLOCK.findall(section)[:2]
    (tmp_path / "photographs").mkdir()
    for name, caption in CAPTIONS.items():
        picture = tmp_path / "photographs" / f"{name}.jpg"
        Image.fromarray(getattr(skimage.data, name)()).save(picture, quality=95)
        picture.with_suffix(".txt").write_text(f"{caption}\n")
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=tmp_path,
        env={**os.environ, "PATH": programs},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(commands.splitlines()) == 3
    for line in output.splitlines():
        assert line in done.stdout.splitlines()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_python_of_the_docs_names_what_the_package_has(path):
    for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "controlset":
                assert node.attr in controlset.__all__
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Config"):
                kind = getattr(controlset, ast.unparse(node.func).removeprefix("controlset."))
                given = {keyword.arg for keyword in node.keywords}
                assert given <= {field.name for field in dataclasses.fields(kind)}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


@pytest.mark.parametrize("path", dict.fromkeys([*PAGES, *TOP]), ids=lambda path: path.name)
def test_every_link_leads_to_a_file_or_is_an_address(path):
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]*)\)", text):
        address = urlsplit(target)
        if address.scheme:
            assert address.scheme == "https", target
            assert "." in address.netloc, target
        elif address.path:  # headings are checked by `make docs`
            assert (path.parent / address.path).exists(), target


def test_every_page_is_in_the_sites_navigation():
    named = set(re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert named == {path.name for path in (ROOT / "docs").glob("*.md")}


def test_every_file_that_the_architecture_names_is_there():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = ("annotators", "controlnet", "controlset", "pipeline", "schemas")
    there = [path.as_posix() for folder in folders for path in (ROOT / folder).rglob("*.py")]
    names = set(re.findall(r"`([\w/]+\.py)`", text))
    assert len(names) > 20
    assert [name for name in names if not any(path.endswith(f"/{name}") for path in there)] == []
