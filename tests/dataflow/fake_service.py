"""Dataflow's jobs API on loopback, as far as a submission needs it; it runs the job it was given.

The graph that the client staged is taken out of the storage emulator and run by Beam's own runner
in this process: whatever is missing in it fails here too.
"""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import EmbeddedPythonEnvironment

STAGED = "pipeline.pb"


class Service:
    """What was submitted, and how it went."""

    def __init__(self) -> None:
        self.jobs: list[dict] = []
        self.state = "JOB_STATE_RUNNING"
        self.error: str | None = None
        self.refusal: tuple[int, str] | None = None  # HTTP status and message for a submission
        self.runs = True  # whether jobs are run at all
        self._later: tuple[str, str | None] | None = None

    def after_a_while(self, state: str, error: str | None = None) -> None:
        """Run nothing; end in `state` once the client has looked a first time."""
        self.runs, self._later = False, (state, error)

    def seen(self) -> str:
        state = self.state
        if self._later is not None:
            self.state, self.error = self._later
        return state

    def submit(self, job: dict) -> dict:
        self.jobs.append(job)
        started = {"id": f"job-{len(self.jobs)}", "name": job["name"], **self.identity(job)}
        if self.runs:
            threading.Thread(target=self._run, args=(job,)).start()
        return started

    def identity(self, job: dict) -> dict:
        return {"clientRequestId": job.get("clientRequestId", ""), "currentState": self.state}

    def _run(self, job: dict) -> None:
        try:
            proto = graph_of(job)
            for environment in proto.components.environments.values():
                environment.CopyFrom(EmbeddedPythonEnvironment.default().to_runner_api(None))
            FnApiRunner().run_via_runner_api(proto, PipelineOptions([])).wait_until_finish()
        except Exception as error:  # noqa: BLE001  # as the service does: it becomes the job's error
            self.error, self.state = (
                f"Traceback (most recent call last):\n{error}",
                "JOB_STATE_FAILED",
            )
        else:
            self.state = "JOB_STATE_DONE"


def graph_of(job: dict) -> beam_runner_api_pb2.Pipeline:
    """The graph that the client staged for a job."""
    options = job["environment"]["sdkPipelineOptions"]["options"]
    with FileSystems.open(options["pipelineUrl"], compression_type="uncompressed") as file:
        return beam_runner_api_pb2.Pipeline.FromString(file.read())


class _Handler(http.server.BaseHTTPRequestHandler):
    service: Service

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.service.refusal is not None:
            status, message = self.service.refusal
            self._answer({"error": {"code": status, "message": message}}, status)
            return
        self._answer(self.service.submit(job))

    def do_GET(self) -> None:
        if "/messages" not in self.path:
            self._answer({"id": "job-1", "currentState": self.service.seen()})
            return
        messages = []
        if self.service.error is not None:
            text = {"id": "1", "time": "2026-01-01T00:00:00Z", "messageText": self.service.error}
            messages = [text | {"messageImportance": "JOB_MESSAGE_ERROR"}]
        self._answer({"jobMessages": messages})

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""

    def _answer(self, value: dict, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def serving(service: Service) -> Iterator[str]:
    """The service's address while it listens on loopback."""
    handler = type("Handler", (_Handler,), {"service": service})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
