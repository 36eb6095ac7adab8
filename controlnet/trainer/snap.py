"""When control snaps in: the first crossing of half the way that lasts.

The paper sees control appear suddenly, within few steps, and not as a falling loss.
"""

from collections.abc import Sequence


def snap_step(
    steps: Sequence[int], scores: Sequence[float | None], *, floor: float, ceiling: float
) -> int | None:
    """The step at which control snapped in.

    Args:
        steps: of the probes, rising.
        scores: adherence at each; None, which was not measured, is not above.
        floor: adherence of the base without control.
        ceiling: adherence of the real pictures, through the VAE and back.

    Returns:
        The first probe at or above floor + half of (ceiling - floor) whose successor is there, too;
        None if there is none (yet).
    """
    half = floor + 0.5 * (ceiling - floor)
    above = [score is not None and score >= half for score in scores]
    for step, now, then in zip(steps[:-1], above[:-1], above[1:], strict=True):
        if now and then:
            return step
    return None
