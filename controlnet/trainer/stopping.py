"""SIGTERM, SIGHUP and Ctrl-C end a run after the step that is being computed; twice ends it now."""

import signal
import threading
import types

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP")  # the last one is a terminal that was closed; not Windows


class StopRequest:
    """Set by a signal while its context is open."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                number = getattr(signal, name, None)
                # Who ignores a signal (`nohup`, a job in the background) goes on so.
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
