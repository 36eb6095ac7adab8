"""Every test that `tests/README.md` names is there, so that no promise loses its test unseen."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROMISES = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
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


def test_every_module_that_tells_shapes_is_checked_while_tests_run(pytestconfig):
    # One by one in schemas: its parser of footers makes hundreds of thousands of calls, and a check
    # of each costs ten times its work.
    checked = pytestconfig.getoption("jaxtyping_packages").split(",")
    for path in ROOT.glob("schemas/*.py"):
        tells = re.search(r"jaxtyping|RgbU8|MapU8", path.read_text(encoding="utf-8"))
        assert not tells or f"schemas.{path.stem}" in checked, path
    assert {"annotators", "controlnet"} <= set(checked)
