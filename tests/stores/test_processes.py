"""One client serves all threads of a process, and a process that is forked makes its own."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

from pipeline.output import store
from schemas.filesystems import file_system


def _read(place, answer):
    answer.put(store.read_text(place))


def test_threads_share_a_client_and_a_forked_process_reads_on(bucket):
    place = f"{bucket.root}/x"
    store.commit_text("here", place)
    with ThreadPoolExecutor(4) as threads:
        clients = set(map(id, threads.map(file_system, [place] * 8)))
    assert clients == {id(file_system(place))}
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    child = context.Process(target=_read, args=(place, answer), daemon=True)
    child.start()
    assert answer.get(timeout=30) == "here"
    child.join(30)
    assert child.exitcode == 0
    assert store.read_text(place) == "here"
