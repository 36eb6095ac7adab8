"""What holds for every test."""

import gc
import signal
import threading

import pytest

from tests import shortcuts

shortcuts.take()

# A job in the background (`make test &`, nohup) ignores Ctrl-C, and so would every command that a
# test starts: those that are interrupted on purpose would never end.
if threading.current_thread() is threading.main_thread():
    for stop, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(stop) is signal.SIG_IGN:
            signal.signal(stop, handler)


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
