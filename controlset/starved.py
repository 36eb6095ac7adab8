"""Where memory runs out in a thread, the process ends with one line instead of waiting for it."""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator

from schemas.machine import give_kept_back, has_room, lacks_memory

NO_MEMORY = "need more memory, got no more; use fewer --num-workers, or another machine"
_STDERR, _FAILED = 2, 2
_LITTLE_BYTES = 4 << 20
_TO_BEGIN_BYTES = 64 << 20  # with less, the watching thread itself might be lost
_LOOK_S, _LOOKS = 1.0, 5  # so often in turn without room: nobody tidies up any more


@contextlib.contextmanager
def leaving_where_a_thread_is_lost(command: str) -> Iterator[None]:
    """End the process where a thread ends for want of memory and whoever waits for it is not told.

    One that cannot even begin lets its starter wait for good, and so does a pool's that cannot
    store its result (both measured). Where memory does not even suffice to tell of that (a limit
    was lowered meanwhile), a thread that began before sees that none comes back. What is half
    written goes with the next run, as after a kill.

    Args:
        command: e.g. "generate".
    """
    line, ended = f"controlset {command}: {NO_MEMORY}\n".encode(), threading.Event()

    def leave() -> None:
        os.write(_STDERR, line)
        os._exit(_FAILED)

    def leave_if_lacking(error: BaseException | None) -> None:
        give_kept_back()  # first: without it, not even the next line may be possible
        if error is not None and lacks_memory(error):
            leave()

    def watch() -> None:
        looks = 0
        while not ended.wait(_LOOK_S):
            looks = 0 if has_room(_LITTLE_BYTES) else looks + 1
            if looks == _LOOKS:
                leave()

    def in_pool(record: logging.LogRecord) -> bool:
        leave_if_lacking(record.exc_info[1] if record.exc_info else None)
        return True

    def in_thread(args: threading.ExceptHookArgs) -> None:
        leave_if_lacking(args.exc_value)
        of_threads(args)

    def before_thread(args: "sys.UnraisableHookArgs") -> None:  # a name for type checkers alone
        if "thread" in (args.err_msg or ""):
            leave_if_lacking(args.exc_value)
        of_others(args)

    pools = logging.getLogger("concurrent.futures")
    of_threads, of_others = threading.excepthook, sys.unraisablehook
    pools.addFilter(in_pool)
    threading.excepthook, sys.unraisablehook = in_thread, before_thread
    if has_room(_TO_BEGIN_BYTES):
        threading.Thread(target=watch, name="watch-memory", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        pools.removeFilter(in_pool)
        sys.unraisablehook = of_others
        if threading.excepthook is in_thread:  # who put one before it meanwhile keeps it
            threading.excepthook = of_threads
