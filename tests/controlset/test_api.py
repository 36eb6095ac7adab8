import importlib.resources
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import controlset
import pipeline.generate
import schemas.dataset


def test_the_public_names_are_exactly_those_of_all():
    assert list(controlset.__all__) == sorted(controlset.__all__)
    assert dir(controlset) == sorted(controlset.__all__)
    for name in controlset.__all__:
        assert getattr(controlset, name) is not None


def test_the_names_are_the_functions_behind_the_commands():
    assert controlset.generate is pipeline.generate.generate
    assert controlset.open is schemas.dataset.open_dataset


def test_other_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'controlset' has no attribute 'fly'"):
        controlset.fly  # noqa: B018


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert controlset.__version__ == version("controlset")


def test_importing_is_light():
    code = "import sys, controlset; sys.exit('pyarrow' in sys.modules or 'cv2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "package", ["annotators", "controlnet", "controlset", "pipeline", "schemas"]
)
def test_type_checkers_of_other_projects_read_the_packages(package):
    assert importlib.resources.files(package).joinpath("py.typed").is_file()
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["*"]
