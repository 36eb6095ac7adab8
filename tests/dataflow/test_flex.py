"""The flex template: its metadata are the options, and its parameters become the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.cloud.dataflow_v1beta3 import types

from controlset.commands.generate import parse_config
from controlset.parse import option_kinds
from pipeline.config import GenerateConfig
from pipeline.generate import submit
from pipeline.runners.dataflow import arguments_of, metadata
from tests.dataflow.conftest import copy_to_bucket

FLEX = Path(__file__).parents[2] / "docker" / "flex"


def test_the_committed_metadata_are_the_options_of_today():
    """Made by: python -m pipeline.runners.dataflow > docker/flex/metadata.json"""
    assert json.loads((FLEX / "metadata.json").read_text()) == metadata()


def test_the_metadata_parse_into_the_services_own_types():
    parsed = types.TemplateMetadata.from_json(
        (FLEX / "metadata.json").read_text(), ignore_unknown_fields=False
    )
    parameters = {parameter.name: parameter for parameter in parsed.parameters}
    options = {*option_kinds(GenerateConfig)}
    assert parameters.keys() == options - {"dry_run", "num_workers"}
    required = {name for name, parameter in parameters.items() if not parameter.is_optional}
    assert required == {"source", "output", "conditions"}
    assert all(parameter.help_text and parameter.label for parameter in parsed.parameters)
    kinds = types.ParameterType
    assert parameters["output"].param_type == kinds.GCS_WRITE_FOLDER
    assert parameters["overwrite"].param_type == kinds.BOOLEAN
    assert parameters["quality"].param_type == kinds.NUMBER
    assert parameters["quality"].default_value == "95"
    fits = [option.value for option in parameters["fit"].enum_options]
    assert fits == ["crop", "pad", "stretch", "bucket"]


def test_what_the_launcher_passes_on_is_what_a_terminal_would_say():
    typed = ["gs://b/in", "--output", "gs://b/out", "--conditions", "canny", "depth", "--pose"]
    typed += ["hands", "face", "--fit", "pad", "--overwrite", "--validation", "0.1"]
    typed += ["--caption", "fixed", "--caption-text=a, b = c", "--project=p"]
    launched = [
        "--conditions=canny,depth",
        "--output=gs://b/out",
        "--source=gs://b/in",
        "--pose=hands face",
        "--fit=pad",
        "--overwrite=true",
        "--offline=false",
        "--validation=0.1",
        "--caption=fixed",
        "--caption_text=a, b = c",
        "--caption_column=",
        "--project=p",
    ]
    assert parse_config(arguments_of(launched)) == parse_config(typed)


def test_the_launchers_main_file_says_what_is_wrong_in_one_line():
    given = ["--source=gs://b/in", "--output=gs://b/out", "--conditions=canny"]
    run = subprocess.run(
        [sys.executable, str(FLEX / "main.py"), *given, "--project=p", "--region=r"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("controlset: --temp_location: Dataflow needs")


@pytest.mark.slow
def test_a_launched_template_writes_its_job_and_leaves(storage, service, endpoint, tmp_path):
    """With `template_location`, as Google's launcher gives it, the job is only written."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.png").write_bytes(b"not a picture; nobody looks yet")
    copy_to_bucket(tmp_path / "in", "gs://bucket/in")
    job = tmp_path / "job.json"
    given = {
        "source": "gs://bucket/in",
        "output": "gs://bucket/out",
        "conditions": "canny",
        "runner": "DataflowRunner",
        "project": "p",
        "region": "r",
        "temp_location": "gs://bucket/temp",
        "sdk_container_image": "example/worker:1",
        "dataflow_endpoint": endpoint,
        "template_location": job,
    }
    flags = [f"--{name}={value}" for name, value in given.items()]
    submit(parse_config(arguments_of([*flags, "--no_auth"])))
    assert service.jobs == []
    written = json.loads(job.read_text())
    assert written["environment"]["workerPools"][0]["numThreadsPerWorker"] == 2
