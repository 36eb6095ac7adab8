"""A condition of another package: what stands in its spec is all that anybody has to write."""

import dataclasses
import shlex
from importlib.metadata import EntryPoint
from typing import ClassVar, Literal

import numpy as np
import pytest
from PIL import Image

from annotators import registry
from annotators.protocol import Annotation
from annotators.registry import specs_of
from controlset.cli import main
from controlset.commands.generate import parse_config
from pipeline.generate import generate
from schemas.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class DotsSpec:
    """Dots on a grid, whatever the picture shows."""

    name: ClassVar[str] = "dots"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[str] = "grey"
    stats: ClassVar[dict[str, str]] = {}
    licence: ClassVar[str] = "MIT"

    distance: int = 8
    """Pixels from one dot to the next."""

    form: Literal["plain", "double"] = "plain"
    """How a dot is drawn."""

    seed: int = 0

    def __post_init__(self):
        if self.distance < 1:
            raise ConfigError(f"--dots-distance: need 1 or more, got {self.distance}")

    def load(self, _runtime):
        return lambda images, _keys: [
            Annotation(pixels=self.drawn(rgb), stats={}) for rgb in images
        ]

    def drawn(self, rgb):
        pixels = np.zeros(rgb.shape[:2], np.uint8)
        pixels[:: self.distance, :: self.distance] = 255 if self.form == "double" else 100
        return pixels


class Installed(EntryPoint):
    def load(self):
        return DotsSpec


@pytest.fixture(autouse=True)
def _installed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    entry = Installed("dots", "my_package:DotsSpec", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.effect_noise((64, 64), 50).save(tmp_path / "photos" / "noise.png")
    return tmp_path / "photos"


def asked(photos, *words):
    return parse_config([str(photos), "--output", "out", "--conditions", "dots", *words])


def test_the_help_shows_the_options_with_the_text_below_each_field(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    out = capsys.readouterr().out
    assert "\n dots options\n" in out
    assert "--dots-distance INT    Pixels from one dot to the next. (default: 8)\n" in out
    shown = " ".join(out.split())
    assert "--dots-form {plain,double} How a dot is drawn. (default: plain)" in shown


def test_yaml_and_the_command_line_set_them_and_the_command_line_wins(photos, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("dots_distance: 16\ndots_form: double\nseed: 3\n")
    config = asked(photos, "--config", str(file))
    assert specs_of(config) == (DotsSpec(distance=16, form="double", seed=3),)
    config = asked(photos, "--config", str(file), "--dots-distance", "4")
    assert specs_of(config) == (DotsSpec(distance=4, form="double", seed=3),)
    assert specs_of(asked(photos)) == (DotsSpec(),)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--dots-distance", "x"], "--dots-distance: need a whole number, got 'x'; see"),
        (["--dots-form", "x"], "--dots-form: need plain or double, got 'x'; see"),
        (["--dots-distanc", "1"], "unknown option --dots-distanc; did you mean --dots-distance?"),
        (["--dots-distance", "0"], "--dots-distance: need 1 or more, got 0"),
    ],
)
def test_mistakes_are_one_line_and_status_2(capsys, photos, words, line):
    given = [str(photos), "--output", "out", "--conditions", "dots", *words]
    assert main(["generate", *given]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"controlset generate: {line}")
    assert err.count("\n") == 1


def test_a_wrong_value_in_yaml_is_named(photos, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("dots_form: triple\n")
    with pytest.raises(ConfigError, match="dots_form: need plain or double, got 'triple'"):
        asked(photos, "--config", str(file))


def test_manifest_card_and_repeat_command_have_them(photos, tmp_path):
    words = ["--dots-distance", "4", "--dots-form", "double", "--resolution", "64", "--seed", "5"]
    config = dataclasses.replace(asked(photos, *words), output=str(tmp_path / "set"))
    manifest = generate(config)
    parameters = {"distance": 4, "form": "double", "seed": 5}
    assert manifest.annotators["dots"]["parameters"] == parameters
    card = (tmp_path / "set" / "README.md").read_text()
    assert "distance = 4, form = double, seed = 5" in card
    (command,) = [line for line in card.splitlines() if line.startswith("controlset generate ")]
    assert "--conditions dots --dots-distance 4 --dots-form double" in command
    again = parse_config(shlex.split(command)[2:])
    assert specs_of(again) == specs_of(config)


def test_an_option_that_the_command_has_already_is_refused(monkeypatch, photos):
    class Taken(EntryPoint):
        def load(self):
            fields = [("list", str, "x")]
            namespace = {"name": "caption", "revision": 1, "hint_mode": "grey", "stats": {}}
            namespace |= {"licence": "MIT", "load": DotsSpec.load}
            return dataclasses.make_dataclass("Spec", fields, namespace=namespace, frozen=True)

    entry = Taken("caption", "my_package:Spec", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    with pytest.raises(ConfigError, match="--caption-list: need another name for the option of an"):
        asked(photos)
