"""What an installed package has: every folder of code, and the data that code reads."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def test_every_library_that_the_code_imports_comes_along():
    """With the package, with an extra for users, or as what one of these needs itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: of for name, of in project["optional-dependencies"].items() if name != "dev"}
    asked = [Requirement(one) for of in (project["dependencies"], *extras.values()) for one in of]
    installed = {canonicalize_name(one.name): one for one in metadata.distributions()}
    come_along = {canonicalize_name(one.name) for one in asked}
    for one in asked:
        its = installed.get(canonicalize_name(one.name))  # some have no wheel for every machine
        for needs in map(Requirement, (its and its.requires) or ()):
            wanted = [{"extra": extra} for extra in ("", *one.extras)]
            if needs.marker is None or any(map(needs.marker.evaluate, wanted)):
                come_along.add(canonicalize_name(needs.name))
    owners = metadata.packages_distributions()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            for top in {module.partition(".")[0] for module in modules}:
                if top not in sys.stdlib_module_names and top not in PACKAGES:
                    names = {canonicalize_name(owner) for owner in owners.get(top, [top])}
                    assert names & come_along, f"{path}: {top}"


def test_every_extra_that_code_and_pages_name_is_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    code = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    lines = [line for path in [*pages, *code] for line in path.read_text("utf-8").splitlines()]
    said = {
        extra
        for line in lines
        if "controlset[" in line or "extras: [" in line
        for extra in re.findall(r"\[([a-z]+)\]", line)
    }
    assert said == extras.keys() - {"dev", "docs"}
