"""A submission to a Dataflow on loopback: what the job says, what is staged, and that it runs."""

import re

import numpy as np
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.portability.api import beam_runner_api_pb2
from PIL import Image

from pipeline.config import GenerateConfig
from pipeline.generate import generate
from schemas.errors import ConfigError
from tests.dataflow.conftest import copy_to_bucket
from tests.dataflow.fake_service import graph_of

IMAGE = "docker.example/controlset-worker:1"


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG but not really")
    return folder


def config_for(source, output, *beam_args, **changes):
    options = {"resolution": 64, "shard_rows": 5, "conditions": ("canny",)} | changes
    return GenerateConfig(source=str(source), output=str(output), beam_args=beam_args, **options)


def arguments(endpoint, *others):
    return (
        "--runner=DataflowRunner",
        "--project=nobody",
        "--region=europe-west4",
        "--temp_location=gs://bucket/temp",
        f"--sdk_container_image={IMAGE}",
        f"--dataflow_endpoint={endpoint}",
        "--no_auth",
        *others,
    )


def files_in(place):
    found = FileSystems.match([f"{place}/**"])[0].metadata_list
    contents = {}
    for entry in found:
        with FileSystems.open(entry.path, compression_type="uncompressed") as file:
            contents[entry.path.removeprefix(f"{place}/")] = file.read()
    return contents


@pytest.fixture
def submitted(storage, service, endpoint, pictures, capsys):
    """A run that Dataflow was asked for, on three machines, and finished."""
    copy_to_bucket(pictures, "gs://bucket/in")
    config = config_for(
        "gs://bucket/in", "gs://bucket/My Set_1", *arguments(endpoint), num_workers=3
    )
    manifest = generate(config, show=True)
    return manifest, service.jobs[0], capsys.readouterr().err


@pytest.mark.slow
def test_the_job_that_dataflow_gets_makes_the_same_files_as_this_machine(
    submitted, pictures, tmp_path
):
    manifest, job, told = submitted
    assert (manifest.rows, manifest.rejected_images) == (12, 1)
    local = tmp_path / "local"
    generate(config_for(pictures, local))
    theirs = files_in("gs://bucket/My Set_1")
    data = {name: data for name, data in theirs.items() if name.startswith(("data/", "rejects/"))}
    assert len(data) >= 4
    assert data == {name: (local / name).read_bytes() for name in data}
    # The person sees which job it is, where to look, and how it went.
    assert "job-1" in told
    assert "dataflow/jobs/europe-west4/job-1?project=nobody" in told
    assert "JOB_STATE_DONE" in told
    _check_environment(job)
    _check_graph(graph_of(job))


def _check_environment(job):
    environment = job["environment"]
    assert job["name"] == re.fullmatch("controlset-my-set-1-[0-9a-f]{8}", job["name"])[0]
    assert "no_use_multiple_sdk_containers" in environment["experiments"]
    assert "use_multiple_sdk_containers" not in environment["experiments"]
    assert "use_runner_v2" in environment["experiments"]
    (pool,) = environment["workerPools"]
    images = {one["containerImage"] for one in pool["sdkHarnessContainerImages"]}
    assert images == {IMAGE}
    assert pool["numThreadsPerWorker"] == 2
    assert pool["numWorkers"] == 3
    # Nothing is installed at start and no main session travels: the image holds all code.
    # (The one file that Beam stages lists the launcher's packages, to explain mismatches.)
    names = {package["name"] for package in pool.get("packages", [])}
    assert names == {"submission_environment_dependencies.txt"}
    options = environment["sdkPipelineOptions"]["options"]
    assert options["save_main_session"] is False
    assert options["sdk_location"] == "container"


def _check_graph(graph: beam_runner_api_pb2.Pipeline):
    """One data stage behind one shuffle; what is shuffled are references, never pixels."""
    leaves = {
        name: transform
        for name, transform in graph.components.transforms.items()
        if not transform.subtransforms
    }
    shuffles = [one for one in leaves.values() if one.spec.urn == "beam:transform:group_by_key:v1"]
    makers = [one for one in leaves.values() if one.unique_name.startswith("MakeShards")]
    assert len(makers) == 1
    (plans,) = makers[0].inputs.values()
    makers_input = next(one for one in leaves.values() if plans in one.outputs.values())
    assert makers_input.unique_name == "PlanShards/Plan"
    of_plan = [one for one in shuffles if one.unique_name.startswith("PlanShards/GroupByKey")]
    assert len(of_plan) == 1
    assert graph.ByteSize() < 120_000  # all code's references, the job and its annotators
    everything = graph.SerializeToString()
    assert b"\x89PNG" not in everything
    environments = {one.environment_id for one in leaves.values() if one.environment_id}
    assert len(environments) == 1  # no resource hint splits the data stage off


@pytest.mark.slow
def test_a_gpu_job_says_so_in_its_service_options(storage, service, endpoint, pictures):
    copy_to_bucket(pictures, "gs://bucket/in")
    accelerator = "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"
    service.runs, service.state = False, "JOB_STATE_CANCELLED"  # as if somebody stopped it
    config = config_for(
        "gs://bucket/in",
        "gs://bucket/out",
        *arguments(endpoint, f"--dataflow_service_options={accelerator}"),
        "--machine_type=g2-standard-8",
        device="cuda",
        precision="bf16",
    )
    with pytest.raises(ConfigError, match=r"manifest.json: need a finished run.*same command"):
        generate(config)
    environment = service.jobs[0]["environment"]
    assert environment["serviceOptions"] == [accelerator]
    assert environment["workerPools"][0]["machineType"] == "g2-standard-8"


@pytest.mark.slow
def test_a_job_that_fails_is_one_line_with_its_reason(storage, service, endpoint, pictures):
    copy_to_bucket(pictures, "gs://bucket/in")
    error = "Traceback (most recent call last):\n  File x\nValueError: a worker's reason"
    service.after_a_while("JOB_STATE_FAILED", error)
    config = config_for("gs://bucket/in", "gs://bucket/out", *arguments(endpoint))
    with pytest.raises(ConfigError, match="job-1: ValueError: a worker's reason; finished shards"):
        generate(config)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((403, "Dataflow API is disabled"), "Dataflow API is disabled"),
        ((409, "There is already an active job named x"), "already an active job"),
    ],
)
def test_a_refused_submission_is_one_line(storage, service, endpoint, pictures, refusal, said):
    copy_to_bucket(pictures, "gs://bucket/in")
    service.refusal = refusal
    config = config_for("gs://bucket/in", "gs://bucket/out", *arguments(endpoint))
    with pytest.raises(ConfigError, match=rf"Dataflow \(project nobody, .*refused: .*{said}"):
        generate(config)


def test_a_staging_bucket_that_is_missing_is_one_line(storage, service, endpoint, pictures):
    copy_to_bucket(pictures, "gs://bucket/in")
    others = [one for one in arguments(endpoint) if "temp_location" not in one]
    config = config_for(
        "gs://bucket/in", "gs://bucket/out", *others, "--temp_location=gs://not-there/temp"
    )
    with pytest.raises(
        ConfigError, match="--temp_location: need a bucket that exists, got gs://not-there/temp"
    ):
        generate(config)
    assert service.jobs == []
