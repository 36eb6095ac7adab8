"""What Dataflow is asked for: our choices, the user's, and what is refused at once."""

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from controlset.commands.generate import parse_config
from pipeline.config import GenerateConfig
from pipeline.generate import resolve
from pipeline.runners.dataflow import is_dataflow, job_name, prepared
from schemas.errors import ConfigError

NEEDED = {
    "runner": "DataflowRunner",
    "project": "nobody",
    "region": "europe-west4",
    "temp_location": "gs://bucket/temp",
    "sdk_container_image": "example/worker:1",
}
ACCELERATOR = "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"


def config_for(*others, without=None, source="gs://bucket/in", output="gs://bucket/out", **changes):
    given = [f"--{name}={value}" for name, value in NEEDED.items() if name != without]
    return GenerateConfig(
        source=source,
        output=output,
        conditions=("canny",),
        beam_args=(*given, *others),
        **changes,
    )


def said(config):
    return PipelineOptions(list(prepared(config).beam_args)).get_all_options()


def test_what_the_user_left_out_is_a_packaged_pipeline_with_one_process_a_machine():
    got = said(config_for())
    assert got["save_main_session"] is False
    assert got["sdk_location"] == "container"
    assert got["experiments"] == ["no_use_multiple_sdk_containers"]
    assert got["number_of_worker_harness_threads"] == 2
    assert got["job_name"] == job_name("gs://bucket/out")
    assert got["num_workers"] is None


def test_what_the_user_says_wins():
    got = said(
        config_for(
            "--save_main_session",
            "--sdk_location=default",
            "--experiments=use_multiple_sdk_containers",
            "--experiments=upload_graph",
            "--number_of_worker_harness_threads=5",
            "--job_name=mine",
        )
    )
    assert got["save_main_session"] is True
    assert got["sdk_location"] == "default"
    assert got["experiments"] == ["use_multiple_sdk_containers", "upload_graph"]
    assert got["number_of_worker_harness_threads"] == 5
    assert got["job_name"] == "mine"


def test_num_workers_are_machines_there_and_each_uses_all_of_its_cores():
    typed = [f"--{name}={value}" for name, value in NEEDED.items()]
    places = ["gs://bucket/in", "--output", "gs://bucket/out", "--conditions", "canny"]
    config = prepared(parse_config([*places, *typed, "--num_workers=40", "--max_num_workers=90"]))
    assert config.num_workers is None
    got = PipelineOptions(list(config.beam_args)).get_all_options()
    assert (got["num_workers"], got["max_num_workers"]) == (40, 90)


def test_another_runner_gets_what_was_typed():
    config = GenerateConfig(source="in", output="out", conditions=("canny",), num_workers=3)
    assert prepared(config) is config
    assert not is_dataflow(["--runner=PortableRunner", "--job_endpoint=localhost:1"])


@pytest.mark.parametrize("spelling", ["DataflowRunner", "dataflowrunner", "Dataflow"])
def test_every_spelling_of_the_runner_is_known(spelling):
    assert is_dataflow([f"--runner={spelling}"])
    assert is_dataflow(["--runner", spelling])


def test_networks_compute_in_one_precision_whatever_machine_submits():
    assert prepared(config_for()).precision == "fp32"
    gpu = config_for(f"--dataflow_service_options={ACCELERATOR}", device="cuda", precision="fp16")
    assert prepared(gpu).precision == "fp16"


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (config_for(without="project"), "--project: Dataflow needs the project that pays"),
        (config_for(without="region"), "--region: Dataflow needs where the workers run"),
        (config_for(without="temp_location"), "--temp_location: .* got nothing"),
        (config_for("--temp_location=/tmp/x"), "--temp_location: .* gs://BUCKET/…, got /tmp/x"),
        (config_for("--staging_location=gs://"), "--staging_location: .* gs://BUCKET/…, got gs://"),
        (config_for(without="sdk_container_image"), "--sdk_container_image: .* `make image`"),
        (config_for(source="photographs"), "SOURCE: .* got photographs"),
        (config_for(output="set"), "--output: .* got set"),
        (config_for("--requirements_file=more.txt"), "--requirements_file: .*worker.Dockerfile"),
        (config_for(device="cuda", precision="bf16"), "--device cuda: .*install-nvidia-driver"),
        (
            config_for(f"--dataflow_service_options={ACCELERATOR}", device="cuda"),
            "--precision: .* got auto; this machine cannot know",
        ),
        (
            config_for(f"--dataflow_service_options={ACCELERATOR}"),
            "worker_accelerator=.*: Dataflow needs --device cuda, got auto",
        ),
        (config_for(device="mps"), "--device: .* no Apple machines"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_before_anything_is_sent(config, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        resolve(config)
    assert "\n" not in str(caught.value)


def test_a_job_name_is_what_dataflow_takes_and_belongs_to_the_output():
    name = job_name("gs://bucket/Photos (2026)_v2/")
    assert name.startswith("controlset-photos-2026-v2-")
    assert name == job_name("gs://bucket/Photos (2026)_v2")
    assert name != job_name("gs://other/Photos (2026)_v2")
    for output in ("gs://bucket/" + "long-" * 40, "gs://b/_"):
        name = job_name(output)
        assert name[0].isalpha()
        assert name[-1].isalnum()
        assert len(name) <= 63
        assert "--" not in name
