"""A thread that is lost for want of memory ends the process; before, others waited for it."""

import subprocess
import sys

import pytest

BEGIN = """
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from controlset.cli import leaving_where_a_thread_is_lost

def full(*_):
    raise MemoryError
"""
LOST = {
    "before it begins": """
threading.Thread._set_ident = full
threading.Thread(target=print).start()
""",
    "with its result": """
Future.set_result = Future.set_exception = full
ThreadPoolExecutor(1).submit(print, end="").result()
""",
    "by itself": """
threading.Thread(target=full).start()
threading.Event().wait()
""",
    "without anybody who could tell of it": """
import os, resource
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
threading.Event().wait()
""",
}


@pytest.mark.parametrize("how", LOST)
def test_a_thread_that_is_lost_for_want_of_memory_ends_the_process(how):
    inside = "".join(f"    {line}\n" for line in LOST[how].splitlines())
    code = f"{BEGIN}\nwith leaving_where_a_thread_is_lost('add'):\n{inside}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "controlset add: need more memory, got no more; use fewer --num-workers, or another "
        "machine\n"
    )


def test_other_failures_of_threads_are_told_as_ever():
    code = f"""{BEGIN}
with leaving_where_a_thread_is_lost("add"):
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
print("goes on")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    assert "ZeroDivisionError" in done.stderr
