import ast
import dataclasses
import importlib.resources
import inspect
import json
import os
import pickle
import re
import subprocess
import sys
import tomllib
import types
import typing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import controlset
from controlset import keywords
from controlset.commands import export, verify
from controlset.commands import inspect as inspecting
from schemas.errors import ConfigError

ROOT = Path(__file__).parents[2]

# Keywords, configuration, arguments that stand in the function itself
COMMANDS = {
    "generate": (keywords.GenerateKeywords, controlset.GenerateConfig, {"source", "output"}),
    "add": (keywords.AddKeywords, controlset.AddConfig, {"output"}),
    "train": (
        keywords.TrainKeywords,
        controlset.TrainConfig,
        {"data", "output", "condition", "base"},
    ),
    "evaluate": (keywords.EvaluateKeywords, controlset.EvaluateConfig, {"run", "data", "output"}),
    "sample": (keywords.SampleKeywords, controlset.SampleConfig, {"run", "hint", "output"}),
}
NOT_IN_PYTHON = {"dry_run", "expect"}


def test_the_public_names_are_exactly_those_of_all():
    assert list(controlset.__all__) == sorted(controlset.__all__)
    assert dir(controlset) == sorted(controlset.__all__)
    for name in controlset.__all__:
        assert getattr(controlset, name) is not None


def test_every_public_name_says_what_it_is():
    for name in set(controlset.__all__) - {"__version__"}:
        assert len(getattr(controlset, name).__doc__) > 30, name


def test_the_api_page_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: controlset\.(\w+)$", page, re.MULTILINE)
    assert sorted(named) == sorted({*controlset.__all__} - {"__version__"})


def test_what_type_checkers_see_is_what_is_there():
    tree = ast.parse(Path(controlset.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        for alias in node.names
    }
    assert seen.keys() == set(controlset.__all__) - {"__version__"}
    for name, (module, attribute) in seen.items():
        assert getattr(controlset, name) is getattr(sys.modules[module], attribute)


def test_other_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'controlset' has no attribute 'fly'"):
        controlset.fly  # noqa: B018


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert controlset.__version__ == version("controlset")


def test_importing_is_light():
    code = (
        "import sys, controlset\n"
        "heavy = {'numpy', 'pyarrow', 'cv2', 'torch', 'tyro', 'rich', 'apache_beam'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
        "controlset.generate, controlset.train, controlset.sample, controlset.load\n"
        "heavy = {'cv2', 'torch', 'transformers', 'diffusers', 'apache_beam', 'matplotlib'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "package", ["annotators", "controlnet", "controlset", "pipeline", "schemas"]
)
def test_type_checkers_of_other_projects_read_the_packages(package):
    assert importlib.resources.files(package).joinpath("py.typed").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["*"]


def widened(kind):
    """The types in which a keyword may take what a configuration has as `kind`."""
    if isinstance(kind, types.UnionType):
        parts = [widened(part) for part in typing.get_args(kind)]
        return [first | second for first in parts[0] for second in parts[1]]
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        return [Sequence[inner], inner | Sequence[inner]]
    return {str: [str, keywords.Place], Path: [keywords.Place]}.get(kind, [kind])


@pytest.mark.parametrize("command", COMMANDS)
def test_keywords_for_type_checkers_are_the_options_of_the_configuration(command):
    declared, config, arguments = COMMANDS[command]
    options = typing.get_type_hints(config)
    assert declared.__optional_keys__ | arguments | NOT_IN_PYTHON >= options.keys()
    assert declared.__optional_keys__ <= options.keys() - arguments - NOT_IN_PYTHON
    for name, kind in typing.get_type_hints(declared).items():
        without_none = [part for part in typing.get_args(options[name]) if part is not type(None)]
        fitting = [*widened(options[name]), *without_none]  # a seed that is None need not be given
        assert kind in fitting, f"{declared.__name__}.{name}: need {fitting[0]}"


@pytest.mark.parametrize("command", COMMANDS)
def test_notebooks_show_every_option_with_its_default(command):
    _, config, _ = COMMANDS[command]
    shown = inspect.signature(getattr(controlset, command)).parameters
    fields = {field.name: field for field in dataclasses.fields(config)}
    assert shown.keys() == fields.keys() - NOT_IN_PYTHON | {"progress"}
    for name, parameter in shown.items():
        if name in fields and parameter.kind is parameter.KEYWORD_ONLY and name != "progress":
            default = fields[name].default
            assert parameter.default == default or default is dataclasses.MISSING


@pytest.mark.parametrize(
    ("function", "options"),
    [("export", export), ("inspect", inspecting), ("verify", verify)],
)
def test_the_small_functions_have_the_options_of_their_commands(function, options):
    theirs = {field.name for field in dataclasses.fields(options._Options)}
    ours = inspect.signature(getattr(controlset, function)).parameters.keys() - {"progress"}
    assert {"dataset" if name == "data" else name for name in ours} == theirs - {"html", "json"}


# Whatever is wrong is said before anything heavy is imported, by its keyword.
WRONG = {
    "a rule": (
        lambda: controlset.generate("photos", "set", conditions=["canny"], resolution=510),
        "resolution=: need a multiple of 8 from 8 to 8192, got 510",
    ),
    "a slip": (
        lambda: controlset.generate("photos", "set", conditions=["canny"], resolutoin=512),
        "unknown keyword resolutoin=; did you mean resolution=?",
    ),
    "another type": (
        lambda: controlset.generate("photos", "set", conditions=["canny"], resolution="big"),
        "resolution=: need a whole number, got 'big'",
    ),
    "no such choice": (
        lambda: controlset.generate("photos", "set", conditions=["canny"], fit="fill"),
        "fit=: need crop, pad, stretch or bucket, got 'fill'",
    ),
    "two that belong together": (
        lambda: controlset.generate("photos", "set", conditions=["canny"], caption="fixed"),
        'caption="fixed": need caption_text=TEXT, got None',
    ),
    "a switch": (
        lambda: controlset.generate(
            "photos", "set", conditions=["canny"], keep_copies_together=True
        ),
        "keep_copies_together=True: need validation= above 0, got 0.0",
    ),
    "no condition": (
        lambda: controlset.generate("photos", "set"),
        "conditions=: need at least one, or import_condition=, got ()",
    ),
    "no such condition": (
        lambda: controlset.generate("photos", "set", conditions="cany"),
        'conditions="cany": no such annotator; available: canny, depth',
    ),
    "an annotator's option": (
        lambda: controlset.generate("photos", "set", conditions=["canny"], hed_mode="wild"),
        "hed_mode=: need soft, safe or scribble, got 'wild'",
    ),
    "an annotator's option in its form": (
        lambda: controlset.generate(
            "photos", "set", conditions=["canny"], options={"canny_thresholds": "3"}
        ),
        "canny_thresholds=: need LOW,HIGH or LOW-LOW,HIGH-HIGH, got '3'; e.g. ",
    ),
    "nothing there": (
        lambda: controlset.generate("nowhere", "set", conditions=["canny"]),
        "nowhere: need a path that exists, got none",
    ),
    "an empty place": (
        lambda: controlset.generate("", "set", conditions=["canny"]),
        "source=: need a folder, glob, tar or Parquet file, got ''",
    ),
    "left out": (
        lambda: controlset.train("set", condition="canny"),
        "need base=, output=",
    ),
    "no such base": (
        lambda: controlset.train("set", "run", condition="canny", base="/no/base", probe_every=-1),
        "probe_every=: need 0 or more, got -1",
    ),
    "only typed": (
        lambda: controlset.generate("photos", "set", conditions=["canny"], dry_run=True),
        "dry_run=: need the command line for this, got a call in Python",
    ),
    "only typed, in a configuration": (
        lambda: controlset.train(
            controlset.TrainConfig(
                data="set", condition="canny", base="nano", output="run", dry_run=True
            )
        ),
        "dry_run=: need the command line for this, got a call in Python",
    ),
    "both": (
        lambda: controlset.generate(
            controlset.GenerateConfig(source="photos", output="set", conditions=("canny",)),
            resolution=64,
        ),
        "need a GenerateConfig or keywords, got both; dataclasses.replace changes one",
    ),
    "nothing to add": (
        lambda: controlset.add("set"),
        'conditions=: need at least one, or caption="blip", latents=BASE or '
        'import_condition="NAME=WHERE", got ()',
    ),
    "no run": (
        lambda: controlset.evaluate("nowhere", "set", "evaluation"),
        'run="nowhere": need the folder of a run or a ControlNetModel folder, got no such',
    ),
    "no hint": (
        lambda: controlset.sample(".", "nowhere.png"),
        'hint="nowhere.png": need a picture, got no such file or folder',
    ),
    "no picture": (
        lambda: controlset.sample(".", {"map": 1}),
        "hint=: need a file, a picture, or an array (H, W) or (H, W, 3) of uint8, got {'map': 1}",
    ),
    "no format": (
        lambda: controlset.export(".", "canny.onnx", format="onnx"),
        "format=: need diffusers or original, got 'onnx'",
    ),
    "no run to export": (
        lambda: controlset.export("nowhere", "canny", format="diffusers"),
        'run="nowhere": need a run or a ControlNetModel folder, got no such file or folder',
    ),
    "no fraction": (
        lambda: controlset.verify("set", audit=3),
        "audit=: need a fraction from 0 to 1, got 3",
    ),
    "no thread": (
        lambda: controlset.inspect("set", num_workers=0),
        "num_workers=: need 1 or more, got 0",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_mistake_is_one_line_that_names_the_keyword(monkeypatch, tmp_path, wrong):
    call, message = WRONG[wrong]
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    with pytest.raises(ConfigError) as refused:
        call()
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
    assert os.listdir(tmp_path) == ["photos"]


def test_commands_in_a_message_stay_as_they_are_typed(tmp_path):
    with pytest.raises(ConfigError, match=re.escape("run `controlset generate` (again, if it")):
        controlset.verify(tmp_path)


WRITING = {
    "generate": lambda: controlset.generate("photos", "set", conditions=["canny"]),
    "add": lambda: controlset.add("set", conditions=["grey"]),
    "train": lambda: controlset.train("set", "run", condition="canny", base="nano"),
    "evaluate": lambda: controlset.evaluate("run", "set", "evaluation"),
    "sample": lambda: controlset.sample("run", np.zeros((64, 64), np.uint8)),
    "export": lambda: controlset.export("run", "out", format="diffusers"),
}


@pytest.mark.parametrize("name", WRITING)
def test_a_umask_that_locks_its_owner_out_is_refused_and_left_as_it_is(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    before = os.umask(0o777)
    try:
        with pytest.raises(ConfigError, match=r"^umask 777: need one that lets you use the files"):
            WRITING[name]()
    finally:
        after = os.umask(before)
    assert after == 0o777
    assert os.listdir() == ["photos"]


def cells():
    notebook = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            yield cell, "".join(cell["source"])


def test_the_notebook_is_stored_without_what_it_showed():
    assert len({cell["id"] for cell, _ in cells()}) == len(list(cells())) > 10
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell, _ in cells())


@pytest.fixture(scope="module")
def trip(tmp_path_factory):
    """The notebook's cells, run in order: its variables, and what each cell shows."""
    folder, before = tmp_path_factory.mktemp("notebook"), Path.cwd()
    variables, shown = {}, []
    os.chdir(folder)
    try:
        for _, source in cells():
            *steps, last = ast.parse(source).body
            value = None
            if isinstance(last, ast.Expr):
                exec(compile(ast.Module(steps, []), "cell", "exec"), variables)
                value = eval(compile(ast.Expression(last.value), "cell", "eval"), variables)
            else:
                exec(compile(ast.Module([*steps, last], []), "cell", "exec"), variables)
            html = value._repr_html_() if hasattr(value, "_repr_html_") else ""
            shown.append((value, html))
        yield types.SimpleNamespace(folder=folder, shown=shown, **variables)
    finally:
        os.chdir(before)


def html_of(trip, kind):
    (html,) = [html for value, html in trip.shown if isinstance(value, kind)][:1]
    return html


def test_a_data_set_shows_rows_with_their_maps(trip):
    html = html_of(trip, controlset.Rows)
    assert html.count("<img") == 4 * 2
    assert trip.photos[0]["text"] in html
    assert "64 rows &middot; train" in html
    assert "2 images rejected" in html


def test_a_run_shows_its_strip_and_its_curves(trip):
    html = html_of(trip, controlset.TrainedRun)
    assert 'alt="strips.png"' in html
    assert 'alt="curves.png"' in html
    assert f"{trip.STEPS} steps" in html
    assert "floor" in html


def test_an_evaluation_shows_four_rows_with_intervals_and_the_sheet(trip):
    html = html_of(trip, controlset.Scores)
    for row in ("ceiling", "model run", "shuffled run", "floor"):
        assert re.search(rf">{row}</td>.*?\d\.\d{{3}}\n\(\d\.\d\d to \d\.\d\d\)</td>", html, re.S)
    assert 'alt="pictures.png"' in html
    assert re.match(r".+; Canny F1 \(1 px\) \d", trip.scores.verdict)
    assert trip.scores.verdict in html.replace("&#39;", "'")


def test_samples_show_the_pictures(trip):
    assert 'alt="grid.png"' in html_of(trip, controlset.Pictures)
    assert len(trip.pictures) == len(trip.pictures.images) == 3
    assert {picture.size for picture in trip.pictures.images} == {(64, 64)}


def test_an_inspection_and_a_verification_show_what_the_commands_write(trip):
    html = html_of(trip, controlset.Inspection)
    assert html.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert "every check passed" in html_of(trip, controlset.VerifyReport)


def test_results_read_what_lies_on_disk(trip):
    run = controlset.TrainedRun(trip.folder / "run")
    summary = json.loads((trip.folder / "run" / "summary.json").read_text())
    assert run.summary == summary
    assert run.config["steps"] == summary["step"] == run.probes[-1]["step"] == trip.STEPS
    assert run.config["learning_rate"] == 1e-3  # of the recipe for the bundled base
    assert (run.controlnet / "config.json").is_file()
    scores = controlset.Scores(trip.folder / "evaluation")
    document = json.loads((trip.folder / "evaluation" / "evaluation.json").read_text())
    headline = document["measures"][0]
    values = {row["row"]: row["values"][headline["name"]]["value"] for row in document["rows"]}
    assert values == {row: scores.value(row) for row in values}
    assert scores.value("model", measure=headline["label"], run="run") == values["model"]
    assert len(scores.table) == sum(len(row["values"]) for row in document["rows"])
    assert scores.report.is_file()
    assert scores.per_picture.is_file()
    with pytest.raises(ConfigError, match="need a number of this evaluation, got 'best'"):
        scores.value("best")


def test_what_is_no_run_or_evaluation_says_so(tmp_path):
    assert repr(controlset.TrainedRun(tmp_path)).endswith(": not finished")
    assert controlset.TrainedRun(tmp_path).metrics == []
    with pytest.raises(ConfigError, match=r"evaluation\.json"):
        controlset.Scores(tmp_path).value()


def test_rows_are_plain_dicts_of_arrays_that_are_the_callers_own(trip):
    row = trip.photos[0]
    assert type(row) is dict
    assert list(row) == ["key", "image", "text", "canny", "grey"]
    assert (row["image"].shape, row["image"].dtype) == ((64, 64, 3), np.uint8)
    assert row["canny"].shape == row["grey"].shape == (64, 64)
    row["image"][:] = row["canny"][:] = 0  # no error: they may be written to
    assert trip.photos[0]["image"].any()


def test_splits_and_columns_are_those_that_were_asked_for(trip):
    whole = controlset.load(trip.photos)
    parts = [controlset.load(trip.photos, split) for split in ("train", "validation")]
    assert len(whole) == sum(map(len, parts)) == whole.manifest.rows == 64
    assert {row["key"] for part in parts for row in part} == {row["key"] for row in whole}
    row = controlset.load(trip.photos, conditions="grey", columns=["width", "canny_edge_density"])[
        -1
    ]
    assert list(row) == ["key", "image", "text", "grey", "width", "canny_edge_density"]
    assert row["width"] == 64
    with pytest.raises(IndexError):
        whole[64]
    with pytest.raises(ConfigError, match="need the condition 'pose', found canny, grey"):
        controlset.load(trip.photos, conditions=["pose"])
    with pytest.raises(ConfigError, match=r"need a column out of key, .*, got 'hight'"):
        controlset.load(trip.photos, columns=["hight"])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where there is one core
@pytest.mark.parametrize("workers", [0, 2])
def test_torch_collates_rows_also_from_other_processes(trip, workers):
    from torch.utils.data import DataLoader

    rows = controlset.load(trip.photos, "train", conditions=["canny", "grey"], columns=["width"])
    context = "forkserver" if workers else None
    loader = DataLoader(
        rows, batch_size=8, shuffle=True, num_workers=workers, multiprocessing_context=context
    )
    batches = list(loader)
    assert sum(len(batch["key"]) for batch in batches) == len(rows)
    assert {key for batch in batches for key in batch["key"]} == {row["key"] for row in rows}
    first = batches[0]
    assert tuple(first["image"].shape) == (8, 64, 64, 3)
    assert tuple(first["canny"].shape) == (8, 64, 64)
    assert first["width"].tolist() == [64] * 8
    assert all(isinstance(text, str) for text in first["text"])


def test_rows_go_to_other_processes_as_they_were_opened(trip):
    rows = controlset.load(trip.photos, "validation", conditions=["canny"])
    again = pickle.loads(pickle.dumps(rows))
    assert repr(again) == repr(rows)
    assert [row["key"] for row in again] == [row["key"] for row in rows]


def test_a_configuration_does_what_its_keywords_do(trip, tmp_path):
    config = controlset.GenerateConfig(
        source=str(trip.folder / "pictures"),
        output=str(tmp_path / "set"),
        conditions=("canny",),
        options={"canny_thresholds": "60,120"},
        resolution=64,
        validation=0.25,
    )
    rows = controlset.generate(config)
    assert rows.manifest.recipe == trip.photos.manifest.recipe
    assert [row["key"] for row in rows] == [row["key"] for row in trip.photos]
    for ours, theirs in zip(rows, trip.photos, strict=True):
        assert np.array_equal(ours["canny"], theirs["canny"])


def test_hints_are_files_arrays_or_pictures(trip, tmp_path):
    pixels = trip.photos[0]["canny"]
    Image.fromarray(pixels).save(tmp_path / "map.png")
    drawn = [
        controlset.sample(
            str(trip.folder / "run"), hint, tmp_path / f"{number}.png", prompt="a star", steps=2
        )
        for number, hint in enumerate([pixels, Image.fromarray(pixels), tmp_path / "map.png"])
    ]
    assert [pictures.paths for pictures in drawn] == [
        [tmp_path / f"{number}.png"] for number in range(3)
    ]
    first, *others = [np.asarray(pictures.images[0]) for pictures in drawn]
    assert all(np.array_equal(first, other) for other in others)


def test_nothing_is_printed_unless_progress_is_asked_for(trip, tmp_path, capsys):
    def drawn(name, **options):
        controlset.sample(
            str(trip.folder / "run"),
            trip.photos[0]["canny"],
            tmp_path / name,
            steps=2,
            **options,
        )
        controlset.verify(trip.photos)
        return capsys.readouterr()

    assert drawn("quiet.png") == ("", "")
