"""The wrapper that keeps a model alive whatever a picture does to it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from annotators.protocol import Annotation
from pipeline.annotate import LoadedModel
from schemas.errors import ConfigError, Reason, Rejected

IMAGES = [np.full((2, 3, 3), number, np.uint8) for number in range(8)]
KEYS = [str(number) for number in range(8)]


def drawn(images, keys):
    return [Annotation(pixels=rgb[..., 0], stats={}) for rgb in images]


def levels(results):
    return [None if isinstance(one, Rejected) else int(one.pixels[0, 0]) for one in results]


def test_a_batch_goes_through_whole():
    calls = []

    def look(images, keys):
        calls.append(list(keys))
        return drawn(images, keys)

    assert levels(LoadedModel("fake", look)(IMAGES, KEYS)) == list(range(8))
    assert calls == [KEYS]


def test_no_images_need_no_call():
    def look(images, keys):
        raise AssertionError("called")

    assert LoadedModel("fake", look)([], []) == []


def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered():
    sizes = []

    def look(images, keys):
        sizes.append(len(images))
        if len(images) > 3:
            raise MemoryError
        return drawn(images, keys)

    model = LoadedModel("fake", look)
    assert levels(model(IMAGES, KEYS)) == list(range(8))
    assert sizes == [8, 4, 2, 2, 2, 2]
    sizes.clear()
    assert levels(model(IMAGES, KEYS)) == list(range(8))
    assert sizes == [2, 2, 2, 2]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: out of memory"),
        type("OutOfMemoryError", (RuntimeError,), {})("HIP ran out"),
    ],
)
def test_every_kind_of_full_memory_is_known(error):
    def look(images, keys):
        if "5" in keys:
            raise error
        return drawn(images, keys)

    results = LoadedModel("fake", look)(IMAGES, KEYS)
    assert levels(results) == [0, 1, 2, 3, 4, None, 6, 7]
    assert results[5].reason is Reason.OUT_OF_MEMORY


def test_the_failed_tensors_are_let_go_before_the_smaller_batch():
    class Large:
        pass

    alive = []

    def look(images, keys):
        large = Large()
        import weakref

        alive.append((len(images), sum(reference() is not None for reference in references)))
        references.append(weakref.ref(large))
        if len(images) > 4:
            raise MemoryError
        return drawn(images, keys)

    references = []
    LoadedModel("fake", look)(IMAGES, KEYS)
    assert alive == [(8, 0), (4, 0), (4, 0)]


@pytest.mark.parametrize("error", [ConfigError("no"), ConnectionError("no"), TimeoutError("no")])
def test_an_outage_is_no_pictures_fault(error):
    def look(images, keys):
        raise error

    with pytest.raises(type(error)):
        LoadedModel("fake", look)(IMAGES[:1], KEYS[:1])


def test_one_that_worked_before_may_fail_on_a_whole_batch():
    def look(images, keys):
        if set(keys) & {"a", "b"}:
            raise ValueError("these")
        return drawn(images, keys)

    model = LoadedModel("fake", look)
    model(IMAGES, KEYS)
    results = model(IMAGES[:2], ["a", "b"])
    assert [one.reason for one in results] == [Reason.ANNOTATOR_FAILED] * 2


def test_on_a_gpu_few_batches_compute_at_once():
    inside, most, lock = 0, 0, threading.Lock()

    def look(images, keys):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.02)
        with lock:
            inside -= 1
        return drawn(images, keys)

    model = LoadedModel("fake", look, on_gpu=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: model(IMAGES, KEYS), range(16)))
    assert most == 2
