"""A standalone Spark of one master and two workers, and Beam's job server for it."""

import contextlib
import dataclasses
import subprocess

from tools.clusters.java import QUICK, jars, java
from tools.clusters.services import answers, free_port, running, until

SERVER = "org.apache.beam.runners.spark.SparkJobServerDriver"
MASTER = "org.apache.spark.deploy.master.Master"
WORKER = "org.apache.spark.deploy.worker.Worker"
_OPTIONS = ("-Djdk.reflect.useDirectMethodHandle=false",)

# One core an executor, and an executor on each worker.
_DRIVER = (
    "-Dspark.executor.memory=700m",
    "-Dspark.executor.cores=1",
    f"-Dspark.executor.extraJavaOptions={' '.join(QUICK)}",
    "-Dspark.cores.max=2",
    "-Dspark.ui.enabled=false",
)


@dataclasses.dataclass(frozen=True)
class Spark:
    """What runs, and where it answers."""

    endpoint: str
    workers: list[subprocess.Popen]


@contextlib.contextmanager
def spark(folder):
    """All of it, up: yields a `Spark`.

    Raises:
        NotHere: no Java, Maven or jars.
    """
    master_port, port = free_port(), free_port()
    home = folder / "home"
    (home / "jars").mkdir(parents=True)
    for number, jar in enumerate(jars("spark")):
        (home / "jars" / f"{number:03d}.jar").symlink_to(jar)  # executors start from here
    variables = {"SPARK_HOME": str(home), "SPARK_SCALA_VERSION": "2.12"}
    variables["SPARK_LOCAL_IP"] = "127.0.0.1"
    with contextlib.ExitStack() as stack:

        def start(name, main, *arguments, heap_mb, options=()):
            log = folder / f"{name}.log"
            command = java(
                "spark", main, *arguments, heap_mb=heap_mb, options=(*_OPTIONS, *options)
            )
            return stack.enter_context(running(command, folder, log, **variables)), log

        at = ["--host", "localhost", "--port", str(master_port), "--webui-port", "0"]
        master = start("master", MASTER, *at, heap_mb=384)
        until(lambda: answers(master_port), *master)
        url = f"spark://localhost:{master_port}"
        size = ["--host", "localhost", "--cores", "1", "--memory", "900m", "--webui-port", "0"]
        workers = [
            start(
                f"worker-{n}", WORKER, *size, "--work-dir", f"{folder}/work-{n}", url, heap_mb=256
            )
            for n in (1, 2)
        ]
        arguments = [f"--spark-master-url={url}", f"--job-port={port}", "--artifact-port=0"]
        arguments += ["--expansion-port=0", f"--artifacts-dir={folder}/staged"]
        server = start("job-server", SERVER, *arguments, heap_mb=512, options=_DRIVER)
        until(lambda: master[1].read_text().count("Registering worker") == 2, *master)
        until(lambda: answers(port), *server)
        yield Spark(f"localhost:{port}", [process for process, _ in workers])
