"""What holds for every test."""

import gc
import signal
import threading

import pytest

from tests import shortcuts

shortcuts.take()
shortcuts.check_types()

# A job in the background (`make test &`, nohup) ignores Ctrl-C, and so would every command that a
# test starts: those that are interrupted on purpose would never end.
if threading.current_thread() is threading.main_thread():
    for stop, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(stop) is signal.SIG_IGN:
            signal.signal(stop, handler)


# Files whose slow tests take longest, the longest first.
_LONG = (
    "runners/test_clusters.py",
    "runners/test_portable.py",
    "controlnet/test_trainer_processes.py",
    "docker/test_images.py",
    "annotators/test_line_networks.py",
    "test_story.py",
    "story/test_eyes.py",
    "controlset/test_report_screenshot.py",
    "stores/test_train.py",
    "stores/test_generate.py",
    "faults/test_full_disk.py",
    "pipeline/test_memory.py",
    "stores/test_faults.py",
    "faults/test_killed.py",
    "faults/test_train_killed.py",
)


def pytest_collection_modifyitems(config, items):
    """Begin with what is long: at the end one process would work on it alone."""
    if config.option.markexpr == "slow":
        places = {config.rootpath / "tests" / file: place for place, file in enumerate(_LONG)}
        items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(autouse=True, scope="session")
def _installed_packages_are_looked_up_once():
    shortcuts.remember_entry_points()


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """The collector need never walk through what is imported here: half a second each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure():
    """What was frozen is let go, else triton says at the end how much of it has leaked."""
    gc.unfreeze()
