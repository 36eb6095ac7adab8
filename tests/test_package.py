"""What an installed package has: every folder of code, and the data that code reads."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("annotators", "controlnet", "controlset", "pipeline", "schemas")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_code_is_a_package(package):
    """setuptools leaves out folders without `__init__.py`, and says nothing."""
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    assert len(folders) > (package != "schemas")
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_packages_are_found_and_not_listed():
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert found["packages"]["find"]["include"] == [f"{package}*" for package in PACKAGES]


def test_every_data_file_of_a_package_is_named():
    """Of files that are no code: a glob of `package-data` matches each of them."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]
    named = {ROOT / "py.typed"}
    for package, globs in data.items():
        folders = [ROOT / name for name in PACKAGES]
        if package != "*":
            folders = [ROOT / package.replace(".", "/")]
        named |= {path for folder in folders for glob in globs for path in folder.glob(glob)}
    there = {
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    }
    assert there
    assert there <= named
