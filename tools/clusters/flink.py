"""A Flink of one job manager and two task managers, and Beam's job server for it."""

import contextlib
import dataclasses
import json
import subprocess
import urllib.request

from tools.clusters.java import OPEN, QUICK, java, runnable_jar
from tools.clusters.services import answers, free_port, running, until

SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"

# Two slots a task manager, so that one alone can finish; tasks are spread while both are there.
# Flink's start script works the sizes of memory out, and demands each if it is not used.
_SETTINGS = {
    "jobmanager.rpc.address": "localhost",
    "rest.address": "localhost",
    "taskmanager.host": "localhost",
    "taskmanager.numberOfTaskSlots": 2,
    "taskmanager.load-balance.mode": "SLOTS",
    "taskmanager.cpu.cores": 1,
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "64m",
    "taskmanager.memory.task.heap.size": "256m",
    "taskmanager.memory.task.off-heap.size": "32m",
    "taskmanager.memory.network.min": "256m",
    "taskmanager.memory.network.max": "256m",
    "taskmanager.memory.managed.size": "128m",
    "taskmanager.memory.jvm-metaspace.size": "192m",
    "taskmanager.memory.jvm-overhead.min": "128m",
    "taskmanager.memory.jvm-overhead.max": "128m",
    "classloader.resolve-order": "parent-first",  # the jars are on everybody's class path
    "heartbeat.interval": 2000,  # ms; a dead task manager is noticed after two beats
    "heartbeat.timeout": 30000,
}


@dataclasses.dataclass(frozen=True)
class Flink:
    """What runs, and where it answers."""

    endpoint: str
    rest: str
    task_managers: list[subprocess.Popen]

    def told(self, path):
        """What the job manager says at a path of its REST interface."""
        with urllib.request.urlopen(f"http://{self.rest}/{path}", timeout=10) as answer:
            return json.load(answer)

    def makers(self):
        """Task managers that made shards in the newest job."""
        jobs = self.told("jobs/overview")["jobs"]
        job = self.told(f"jobs/{max(jobs, key=lambda one: one['start-time'])['jid']}")
        maker = next(vertex for vertex in job["vertices"] if "MakeShards" in vertex["name"])
        tasks = self.told(f"jobs/{job['jid']}/vertices/{maker['id']}")["subtasks"]
        return {task["taskmanager-id"] for task in tasks}


@contextlib.contextmanager
def flink(folder, *, attempts=0):
    """All of it, up: yields a `Flink` that starts failed work again so many times.

    Raises:
        NotHere: no Java, Maven or jars.
    """
    rpc, rest, port = free_port(), free_port(), free_port()
    settings = _SETTINGS | {"jobmanager.rpc.port": rpc, "rest.port": rest}
    if attempts:
        strategy = "restart-strategy.fixed-delay"
        settings |= {"restart-strategy.type": "fixed-delay"}
        settings |= {f"{strategy}.attempts": attempts, f"{strategy}.delay": "2 s"}
    conf = folder / "conf"
    conf.mkdir()
    (conf / "config.yaml").write_text("".join(f"{k}: {v}\n" for k, v in settings.items()))
    with contextlib.ExitStack() as stack:

        def start(name, command):
            log = folder / f"{name}.log"
            return stack.enter_context(running(command, folder, log)), log

        master = start("job-manager", java("flink", JOB_MANAGER, "-c", str(conf), heap_mb=512))
        workers = [
            start(f"task-manager-{n}", java("flink", TASK_MANAGER, "-c", str(conf), heap_mb=512))
            for n in (1, 2)
        ]
        arguments = [f"--flink-master=localhost:{rest}", f"--job-port={port}"]
        arguments += ["--artifact-port=0", "--expansion-port=0", f"--artifacts-dir={folder}/staged"]
        jar = runnable_jar("flink", SERVER, folder / "job-server.jar")
        server = start("job-server", ["java", *OPEN, *QUICK, "-Xmx512m", "-jar", jar, *arguments])
        up = Flink(f"localhost:{port}", f"localhost:{rest}", [process for process, _ in workers])
        until(lambda: up.told("overview")["taskmanagers"] == 2, *master)
        until(lambda: answers(port), *server)
        yield up
