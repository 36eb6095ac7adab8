"""Training on screen: a progress bar on a terminal, plain lines elsewhere."""

import time

from schemas.printable import say
from schemas.terminal import Terminal, progress_bar

_LINE_EVERY_S = 10.0


class Display:
    """Shows steps, loss, speed and obedience; only the main process shows anything.

    Args:
        steps: of the whole run.
        done: of an earlier run.
        visible: False shows nothing.
    """

    def __init__(self, steps: int, *, done: int, visible: bool) -> None:
        terminal = Terminal(error=True)
        self._visible = visible
        self._bar = visible and terminal.is_terminal
        self._steps, self._last_line_s = steps, 0.0
        self._obedience = ""
        self._progress = progress_bar(terminal, "{task.fields[status]}")
        self._progress.disable = not self._bar
        self._task = self._progress.add_task("training", total=steps, completed=done, status="")

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, step: int, *, loss: float, samples_per_s: float) -> None:
        """Show where the run stands.

        Args:
            step: optimizer steps done.
            loss: mean since the last call.
            samples_per_s: of all devices.
        """
        status = f"loss {loss:.4f}  {samples_per_s:.3g} samples/s{self._obedience}"
        self._progress.update(self._task, completed=step, status=status)
        due = time.monotonic() - self._last_line_s >= _LINE_EVERY_S or step == self._steps
        if self._visible and not self._bar and due:
            self._last_line_s = time.monotonic()
            say(f"step {step}/{self._steps}  {status}", error=True)

    def probed(self, adherence: float | None, gain: float) -> None:
        """Show what a probe saw, from now on."""
        seen = f"gain {gain:.4f}" if adherence is None else f"adherence {adherence:.2f}"
        self._obedience = f"  {seen}"

    def say(self, line: str) -> None:
        """One line that stays."""
        if self._visible:
            say(line, error=True)
