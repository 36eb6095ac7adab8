"""A condition of ours is one file; the docs' own annotator is a package; broken ones are named."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from annotators import conditions, registry
from annotators.options import AnnotateConfig
from annotators.registry import available, specs_of
from annotators.runtime import Runtime
from schemas.dataset import open_dataset
from schemas.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "own-annotator.md"


def files_of_the_page():
    blocks = re.findall(r"```(?:toml|python)\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return dict(blocks)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("my-annotators")
    target = folder / "installed"
    for name, text in files_of_the_page().items():
        (folder / name).write_text(text)
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
            "--no-build-isolation", "--no-index", "--target", str(target), str(folder),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return target


def controlset(installed, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "controlset", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=False,
    )


def test_the_example_is_short():
    assert files_of_the_page().keys() == {"pyproject.toml", "my_sobel.py"}
    lines = [line for text in files_of_the_page().values() for line in text.splitlines()]
    assert len(lines) + 2 <= 25  # with the two lines that name the files


@pytest.mark.slow
def test_the_docs_annotator_makes_a_set_that_is_verified(installed, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("coffee", "chelsea"):
        Image.fromarray(getattr(skimage.data, name)()).save(tmp_path / "photos" / f"{name}.png")
    output = tmp_path / "set"
    done = controlset(
        installed, "generate", tmp_path / "photos", "--output", output,
        "--conditions", "sobel", "canny", "--resolution", 256,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    example = open_dataset(str(output))[0]
    edges = example.maps["sobel"]
    assert edges is not None
    assert edges.shape == (256, 256)
    assert edges.std() > 5
    assert example.fields["sobel_mean"] == pytest.approx(edges.mean() / 255)
    audited = controlset(installed, "verify", output, "--audit", 1)
    assert audited.returncode == 0, audited.stdout
    assert re.search(r"maps extracted again are the same *│ *4 │ *nothing", audited.stdout)
    without = controlset("", "verify", output, "--audit", 1)
    assert without.returncode == 1
    assert "not audited: sobel: need its annotator to be installed, found none" in without.stdout
    examined = controlset(installed, "doctor", "--json", "--conditions", "sobel")
    assert json.loads(examined.stdout)["third_party"] == {
        "sobel": "my-annotators: my_sobel:SobelSpec"
    }


GOOD = dict(name="mine", revision=1, hint_mode="grey", stats={}, licence="MIT", load=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": "other"},
            "need the name of its entry point, got name = 'other'; make them equal",
        ),
        ({"hint_mode": "gray"}, "need hint_mode bilevel, grey, grey16, rgb, got 'gray'"),
        ({"load": ...}, "got none of load; see docs/own-annotator.md"),
        ({"raises": ImportError("no\nmodule")}, "can be imported, got ImportError: no module"),
        ({"raises": SyntaxError("x")}, "can be imported, got SyntaxError: x; repair its package"),
    ],
)
def test_a_broken_package_is_named_in_one_line(monkeypatch, changes, message):
    class Broken(EntryPoint):
        def load(self):
            if "raises" in changes:
                raise changes["raises"]
            values = GOOD | changes
            return type("Spec", (), {k: v for k, v in values.items() if v is not ...})

    entry = Broken("mine", "my_package:Spec", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    assert available()[-1] == "mine"
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        specs_of(AnnotateConfig(conditions=("mine",)))
    assert str(error.value).startswith("mine (my_package:Spec): need ")
    assert "\n" not in str(error.value)


def test_nobody_takes_the_name_of_one_of_ours(monkeypatch):
    entry = EntryPoint("canny", "my_package:Spec", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    assert available().count("canny") == 1
    assert specs_of(AnnotateConfig(conditions=("canny",)))[0].name == "canny"


INVERSE = """
import dataclasses
from annotators.protocol import Annotation

@dataclasses.dataclass(frozen=True)
class InverseSpec:
    name, revision, hint_mode, stats, licence = "inverse", 1, "rgb", {}, "Apache-2.0"
    level: int = 255

    def load(self, runtime):
        return lambda images, keys: [self.look(rgb) for rgb in images]

    def look(self, rgb):
        return Annotation(pixels=self.level - rgb, stats={})
"""


@pytest.fixture
def another_condition(monkeypatch, tmp_path):
    """A file more in `annotators/conditions`, and nothing else."""
    (tmp_path / "inverse.py").write_text(INVERSE)
    monkeypatch.setattr(conditions, "__path__", [*conditions.__path__, str(tmp_path)])
    registry.ours.cache_clear()
    yield
    registry.ours.cache_clear()
    sys.modules.pop("annotators.conditions.inverse", None)


@pytest.mark.usefixtures("another_condition")
def test_a_condition_of_ours_is_one_file():
    assert "inverse" in available()
    assert [option.flag for option in registry.all_options()["inverse"]] == ["--inverse-level"]
    (spec,) = specs_of(AnnotateConfig(conditions=("inverse",), options={"inverse_level": 200}))
    (annotation,) = spec.load(Runtime())([np.full((2, 2, 3), 50, np.uint8)], ["key"])
    assert annotation.pixels.tolist() == np.full((2, 2, 3), 150).tolist()
    assert registry.spec_from_record("inverse", registry.record_of(spec)) == spec


def test_to_list_conditions_and_their_options_loads_no_network():
    heavy = "{'torch', 'transformers', 'diffusers', 'controlnet_aux', 'timm', 'apache_beam'}"
    code = f"import sys; from annotators.registry import all_options as a; a(); sys.exit(str({heavy} & {{*sys.modules}}))"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "set()\n"
