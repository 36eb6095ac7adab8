"""Container files without a Docker engine: linted, copies checked, install steps run."""

import fnmatch
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DOCKERFILES = sorted((ROOT / "docker").rglob("*Dockerfile"))
SCRIPTS = sorted((ROOT / "docker").rglob("*.sh"))

IMPORT_ALL = """
import importlib, pkgutil
for top in ("annotators", "controlnet", "controlset", "pipeline", "schemas"):
    package = importlib.import_module(top)
    for module in pkgutil.walk_packages(package.__path__, f"{top}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
print(package.__file__)
"""


def run(*command, **options):
    options = {"capture_output": True, "text": True, "check": False} | options
    return subprocess.run([str(part) for part in command], **options)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_passes_the_linter(path):
    got = run(BIN / "hadolint", "--failure-threshold", "style", path)
    assert got.returncode == 0, got.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_passes_the_linter(path):
    got = run(BIN / "shellcheck", path)
    assert got.returncode == 0, got.stdout


def test_there_are_images_for_worker_trainer_and_launcher():
    names = {path.name for path in DOCKERFILES}
    assert names == {"worker.Dockerfile", "trainer.Dockerfile", "launcher.Dockerfile"}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_all_that_is_copied_is_there_and_not_ignored(path):
    allowed = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copies = re.findall(r"^COPY (?!--from)(.+)$", path.read_text(), re.MULTILINE)
    sources = [source for copy in copies for source in copy.split()[:-1]]
    assert sources
    for source in sources:
        assert source == "dist/*.whl" or (ROOT / source).exists(), source
        assert any(
            fnmatch.fnmatch(source, one) or source.startswith(f"{one}/") for one in allowed
        ), source


def test_the_copied_boot_program_is_of_the_locked_beam():
    locked = re.search(
        r"^apache-beam(?:\[\S+\])?==(\S+)", (ROOT / "requirements.lock").read_text(), re.M
    )
    text = (ROOT / "docker" / "worker.Dockerfile").read_text()
    assert f"ARG BEAM={locked[1]}\n" in text


def test_a_base_without_python_is_refused_in_one_line(tmp_path):
    got = run(
        *("sh", ROOT / "docker/install.sh", "wheel", "lock", tmp_path / "prefix"),
        env={**os.environ, "PYTHON": "python3.999"},
    )
    assert got.returncode == 2
    assert got.stderr.startswith("install: need python3.999 in the base image, found none")


@pytest.mark.slow
def test_the_install_steps_give_a_clean_environment_that_generates(tmp_path):
    """The worker's steps: wheel, locked versions, no development packages, then a real run."""
    wheels = tmp_path / "dist"
    built = run(BIN / "uv", "build", "--wheel", "--quiet", "--out-dir", wheels, ROOT)
    assert built.returncode == 0, built.stderr
    (wheel,) = wheels.glob("controlset-*.whl")
    prefix = tmp_path / "prefix"
    beam = re.search(r"ARG BEAM=(\S+)", (ROOT / "docker/worker.Dockerfile").read_text())[1]
    install = (
        "sh",
        ROOT / "docker/install.sh",
        wheel,
        ROOT / "requirements.lock",
        prefix,
        "gcp,aws",
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean["PYTHON"] = getattr(sys, "_base_executable", sys.executable)
    done = run(*install, env=clean | {"BEAM": beam})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("controlset ")
    wrong = run(*install, env=clean | {"BEAM": "2.1.0"})
    assert wrong.returncode == 2
    assert (
        f"need apache-beam 2.1.0, as in the image that boot comes from, got {beam}" in wrong.stderr
    )

    del clean["PYTHON"]
    imported = run(prefix / "bin/python", "-c", IMPORT_ALL, cwd=tmp_path, env=clean)
    assert imported.returncode == 0, imported.stderr
    assert imported.stdout.startswith(str(prefix))  # the wheel's, not this folder's
    assert run(prefix / "bin/python", "-c", "import pytest", env=clean).returncode == 1

    (tmp_path / "in").mkdir()
    for name in ("astronaut", "coffee"):
        Image.fromarray(getattr(skimage.data, name)()).save(tmp_path / "in" / f"{name}.png")
    made = run(
        *(prefix / "bin/controlset", "generate", "in", "--output", "out"),
        *("--conditions", "canny", "--resolution", "256"),
        cwd=tmp_path,
        env=clean,
    )
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "out" / "manifest.json").exists()


# Flex template --------------------------------------------------------------------------------


def build(tmp_path, *arguments, tools=("docker", "gcloud"), **variables):
    """Run build.sh with tools that only note what they are told."""
    for tool in tools:
        fake = tmp_path / tool
        fake.write_text(f'#!/bin/sh\necho {tool} "$@" >> {shlex.quote(str(tmp_path / "told"))}\n')
        fake.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    return run("sh", ROOT / "docker/flex/build.sh", *arguments, env={"PATH": path} | variables)


def test_the_template_is_built_pushed_and_registered(tmp_path):
    got = build(tmp_path, "gs://b/t.json", WORKER="repo/worker:1", LAUNCHER="launcher:3")
    assert got.returncode == 0, got.stderr
    told = (tmp_path / "told").read_text().splitlines()
    assert "--build-arg WORKER=repo/worker:1 --build-arg LAUNCHER=launcher:3" in told[0]
    assert told[1] == "docker push repo/worker:1-flex"
    assert told[2].startswith(
        "gcloud dataflow flex-template build gs://b/t.json --image repo/worker:1-flex"
    )
    assert told[2].endswith("docker/flex/metadata.json")


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ((), {}, "the template file to write"),
        (("gs://b/t.json",), {"LAUNCHER": "x"}, "the pushed worker image"),
        (("t.json",), {"WORKER": "w", "LAUNCHER": "x"}, "need gs://BUCKET/NAME.json, got t.json"),
    ],
)
def test_a_build_without_what_it_needs_says_so(tmp_path, arguments, variables, said):
    got = build(tmp_path, *arguments, **variables)
    assert got.returncode != 0
    assert said in got.stderr
    assert not (tmp_path / "told").exists()
