"""Every test that `tests/README.md` names is there, so that no promise loses its test unseen."""

import re
from pathlib import Path

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintParamViolation

from schemas.pixels import encode_map_png
from tests import shortcuts

ROOT = Path(__file__).parents[1]
PROMISES = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
PACKAGES = ("schemas", "annotators", "controlnet")
NAMED = re.findall(r"`(tests/\S+?\.py)::(test_\w+)`", PROMISES)


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_the_test_of_a_promise_is_there(path, name):
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_line_of_the_table_names_a_test():
    lines = [line for line in PROMISES.splitlines() if line.startswith("|")]
    lines = [line for line in lines if not line.startswith(("|---", "| promise |"))]
    without = [
        line for line in lines if "::test_" not in line and "every test in `tests/" not in line
    ]
    assert without == []
    assert len(NAMED) > 100


def test_every_module_that_tells_shapes_is_checked_while_tests_run():
    # One by one in schemas: its parser of footers makes hundreds of thousands of calls, and
    # to check each took longer than its work.
    for path in ROOT.glob("schemas/*.py"):
        tells = re.search(r"jaxtyping|RgbU8|MapU8", path.read_text(encoding="utf-8"))
        assert not tells or f"schemas.{path.stem}" in shortcuts.CHECKED, path
    assert {"annotators", "controlnet"} <= set(shortcuts.CHECKED)
    with pytest.raises(BeartypeCallHintParamViolation):
        encode_map_png(np.zeros((4, 4), np.float32))


def test_letters_that_stand_for_equal_sides_are_held_while_tests_run(pytestconfig):
    checked = pytestconfig.getoption("jaxtyping_packages").split(",")
    for path in (path for package in PACKAGES for path in ROOT.glob(f"{package}/**/*.py")):
        text = path.read_text(encoding="utf-8")
        letters = re.search(r'(?:Float|UInt|Int|Bool|Shaped)\d*\[[\w.]+, " ?[A-Za-z]', text)
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        assert not letters or module in checked, module
