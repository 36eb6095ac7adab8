"""What is printed: harmless whatever it holds, and a status that says whether it was written."""

import ast
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.table import Table
from rich.text import Text

from controlset.cli import COMMANDS, main
from pipeline.config import GenerateConfig
from pipeline.generate import generate
from schemas.printable import printable, say, say_json
from schemas.terminal import Progress, Terminal

ROOT = Path(__file__).parents[2]
HOSTILE = "a[/v][red]\x1b[2J\x1b]0;t\x07\u202egpj.exe\x9b31m\nok: every check passed\r\udce9"
SHOWN = r"a[/v][red]\x1b[2J\x1b]0;t\x07\u202egpj.exe\x9b31m\nok: every check passed\r" + "\\udce9"
RAW = set("\x1b\x07\u202e\x9b\r\udce9")


def test_what_acts_is_shown_and_what_people_write_stays():
    assert printable(HOSTILE) == SHOWN
    assert printable("\u2028\u2066\u200f\ufeff\x7f\t\0") == r"\u2028\u2066\u200f\ufeff\x7f\t\x00"
    for text in ("é☃ 日本\u3000語", "עברית", "می\u200cخواهم", "👩\u200d🚀 [v2] 100 %", "C:\\new"):  # noqa: RUF001  # is Persian
        assert printable(text) == text


@pytest.mark.parametrize("of_the_table", ["title", "header", "cell"])
def test_a_table_shows_text_literally(capsys, monkeypatch, of_the_table):
    monkeypatch.setenv("COLUMNS", "200")
    texts = {"title": "t", "header": "h", "cell": "c"} | {of_the_table: HOSTILE}
    table = Table(title=texts["title"])
    table.add_column(texts["header"])
    table.add_row(texts["cell"])
    Terminal().print(table)
    printed = capsys.readouterr().out
    assert SHOWN.replace(" ", "") in "".join(printed.split())  # a title breaks where the table ends
    assert not RAW & set(printed)


def test_lines_bars_and_styled_text_show_text_literally(capsys, monkeypatch):
    terminal = Terminal()
    terminal.tell(HOSTILE)
    terminal.print(Text(HOSTILE.replace("\n", ""), style="red"), soft_wrap=True)
    with monkeypatch.context() as made_for_a_terminal:  # without any control codes of its own
        made_for_a_terminal.setenv("TERM", "dumb")
        made_for_a_terminal.setattr(Terminal, "is_terminal", True)
        bar = Progress(HOSTILE.replace("\n", ""), total=1)
    with bar:
        pass
    say(HOSTILE)
    say_json({HOSTILE: "\x7f"})
    printed = "".join(capsys.readouterr())
    assert printed.count("a[/v][red]") == 5
    assert not RAW & set(printed)


def test_everything_printed_goes_through_the_one_place():
    strange = []
    places = ("annotators", "controlnet", "controlset", "pipeline", "schemas")
    files = itertools.chain.from_iterable((ROOT / place).rglob("*.py") for place in places)
    for path in sorted(files):
        name = path.relative_to(ROOT).as_posix()
        if name in {"schemas/printable.py", "schemas/terminal.py"}:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in {"print", "sys.stdout.write", "sys.stderr.write"}:
                strange.append(f"{name}:{node.lineno}: {called}")
            if isinstance(node, ast.ImportFrom | ast.Import):
                words = ast.unparse(node)
                if "rich.console" in words or "rich.markup" in words or "rich.progress" in words:
                    strange.append(f"{name}:{node.lineno}: {words}")
    assert strange == []


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A set of two pictures in a folder whose name is markup."""
    folder = tmp_path_factory.mktemp("t[") / "v]"
    (folder / "photos").mkdir(parents=True)
    for name in ("one[bold]", "two\x1b[31m"):
        picture = Image.effect_noise((64, 64), 50)
        picture.save(folder / "photos" / f"{name}.png")
    config = GenerateConfig(
        source=str(folder / "photos"),
        output=str(folder / "out[/v][v2]"),
        conditions=("canny",),
        resolution=64,
    )
    generate(config, show=True)
    return config.output


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_folder_whose_name_is_markup_is_named_as_it_is(capsys, dataset, command):
    assert main([command, dataset]) == 0
    assert dataset in capsys.readouterr().out


def test_an_error_shows_what_was_typed_literally(capsys):
    assert main(["verify", f"/{HOSTILE}"]) == 2
    err = capsys.readouterr().err
    assert r"a[/v][red]\x1b[2J\x1b]0;t\x07\u202egpj.exe\x9b31m ok: every check" in err
    assert not RAW & set(err)
    assert err.count("\n") == 1


@pytest.fixture
def closed():
    """The end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def status_of(words, **streams):
    """Status and standard error of a command of ours."""
    command = [sys.executable, "-m", "controlset", *words]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    done = subprocess.run(command, text=True, cwd=ROOT, **streams)
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", [[], ["--version"], *([name] for name in COMMANDS)], ids=str)
def test_help_that_nobody_reads_is_status_141(closed, monkeypatch, words):
    answer = words if words == ["--version"] else [*words, "--help"]
    with open(os.dup(closed), "w") as nobody:
        monkeypatch.setattr("sys.stdout", nobody)
        assert main(answer) == 141


@pytest.mark.parametrize(
    "words", [["--help"], ["verify", "--help"], ["verify"], ["inspect"]], ids=str
)
def test_into_a_closed_pipe_a_command_is_quiet_and_its_status_is_no_unmet_check(
    closed, dataset, words
):
    place = [] if "--help" in words else [dataset]
    assert status_of([*words, *place], stdout=closed) == (141, "")


@pytest.mark.parametrize("command", ["--help", "verify"])
def test_what_a_full_disk_does_not_take_is_one_line_and_no_success(dataset, command):
    with open("/dev/full", "w") as full:
        status, err = status_of([command, dataset], stdout=full)
    line = "controlset: standard output: need room to write, got No space left on device\n"
    assert (status, err) == (2, line)


def test_a_standard_error_that_takes_nothing_leaves_the_status(closed):
    with open("/dev/full", "w") as full:
        assert status_of(["verify", "/nowhere"], stderr=full)[0] == 2
    assert status_of(["verify", "/nowhere"], stderr=closed)[0] == 2
    both = {"stdout": closed, "stderr": closed}
    assert status_of(["--version"], **both)[0] == 141
