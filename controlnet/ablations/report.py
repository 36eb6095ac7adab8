"""`ablation.md` and `ablation.png`: the table, what it says about the paper, curves and samples."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from controlnet.ablations.scores import PROTOCOL, StepScores, Table, VariantScores
from controlnet.evaluator.metrics.base import Estimate
from controlnet.trainer.figures import mark_level, use_log_scale
from schemas.figure_style import COLORS, styled
from schemas.files import replacing
from schemas.pixels import RgbU8, shown

_SIGNS = {"yes": "✔", "no": "✘", "not decided": "?"}
_PAPERS_RATE = 1e-5
_REPAIRED = 1.1  # times the loss of zero convolutions; nearer, curves differ by their noise


def markdown(table: Table) -> str:
    """Two tables and the claims, as a Markdown text."""
    config, first = table.config, table.variants[0]
    end, early = config.steps, config.early
    heads = (
        "variant",
        "trained",
        "adherence, prompts",
        "adherence, empty prompts",
        "control in by",
        f"FD under control, step 0 → {early} → {end}",
        "text, prompts",
        "base alone: FD",
        "base alone: text",
    )
    before, real = table.before, table.real
    floor, ceiling = f"{_told(before.adherence)} (floor)", f"{_told(real.adherence)} (ceiling)"
    base_alone = [_told(before.frechet_distance), _told(before.text)]
    of_real = [_told(real.frechet_distance), _told(real.text)]
    rows = [
        heads,
        ["---"] * len(heads),
        ["*base, before training*", "", floor, "", "", "", "", *base_alone],
        *(_of_row(row, early, end) for row in table.variants),
        ["*real pictures*", "", ceiling, "", "", *of_real, "", ""],
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    claims = [
        f"| {claim.text} | {_SIGNS[claim.verdict]} {claim.verdict} | {claim.measure} | "
        f"{_told(claim.difference, sign=True)} |"
        for claim in table.claims
    ]
    return "\n".join(
        [
            *lines,
            "",
            f"Adherence: {table.judge} of {first.at(end).prompts.adherence.count} samples, "
            f"{config.sample_steps} DDIM steps, guidance {config.guidance:g} (1 with empty "
            f"prompts). FD: {PROTOCOL}; lower is better. Text: share of the caption's colours, "
            "shapes and background that the picture shows. Brackets: 95 % bootstrap over images. "
            "A locked base draws the same pictures before and after, to the bit. "
            f"Each variant: {end} steps of {config.batch_size}, {config.seeds} seed(s), same "
            "rows, noise and order.",
            "",
            "| The paper says | Here | Measured by | Difference (above 0: as the paper says) |",
            "| --- | --- | --- | --- |",
            *claims,
            "",
            _verdict(table),
            "",
        ]
    )


def _of_row(row: VariantScores, early: int, end: int) -> list[str]:
    course = " → ".join(f"{row.at(step).prompts.frechet_distance.value:.2f}" for step in (0, early))
    return [
        row.label,
        f"{row.trained_parameters / 1e6:.2f} M",
        _told(row.at(end).prompts.adherence),
        _told(row.at(end).empty_prompts.adherence),
        "not yet" if row.control_in_by_step is None else f"step {row.control_in_by_step}",
        f"{course} → {_told(row.at(end).prompts.frechet_distance)}",
        _told(row.at(end).prompts.text),
        "unchanged" if row.locked else _told(row.at(end).base_without_control.frechet_distance),
        "unchanged" if row.locked else _told(row.at(end).base_without_control.text),
    ]


def _verdict(table: Table) -> str:
    """What comes out as in the paper and what does not."""
    by_verdict = {
        verdict: [
            f"{claim.text} ({claim.measure})" for claim in table.claims if claim.verdict == verdict
        ]
        for verdict in _SIGNS
    }
    if len(by_verdict["yes"]) == len(table.claims):
        return "The paper's order is reproduced in every point."
    parts = [f"{len(by_verdict['yes'])} of {len(table.claims)} points come out as in the paper."]
    if by_verdict["no"]:
        parts.append(f"Against it: {'; '.join(by_verdict['no'])}.")
    if by_verdict["not decided"]:
        parts.append(f"No difference to be seen: {'; '.join(by_verdict['not decided'])}.")
    return " ".join([*parts, _start(table)])


def _start(table: Table) -> str:
    """How long training makes good for a Gaussian start; the batches are those of the first row."""
    ours, gaussian = (
        next(row.training_loss for row in table.variants if row.name == name)
        for name in ("zero", "gaussian")
    )
    ratios = {step: gaussian[step] / loss for step, loss in ours.items() if step in gaussian}
    if not ratios:
        return ""
    first, highest = next(iter(ratios.items()))
    repaired = next((step for step, ratio in ratios.items() if ratio < _REPAIRED), None)
    until = "is not made good for" if repaired is None else f"is made good for by step {repaired}"
    rate = table.config.training(base="", output="-", seed=0).learning_rate
    return (
        f"The Gaussian start costs {highest:.1f} times our training loss over the first {first} "
        f"steps and {until} (within {_REPAIRED - 1:.0%}), probably because nano learns at a rate "
        f"of {rate:g}, {rate / _PAPERS_RATE:.0f} times the paper's."
    )


def _told(number: Estimate | msgspec.UnsetType, *, sign: bool = False) -> str:
    if isinstance(number, msgspec.UnsetType):
        return ""
    form = "+.2f" if sign else ".2f"
    return f"{number.value:{form}} [{number.low:{form}}, {number.high:{form}}]"


_COLORS = dict(zip(("zero", "gaussian", "lite", "no-dropout", "unlocked"), COLORS, strict=True))
_SHOWN = 6  # pictures a strip


@styled
def draw_figure(
    table: Table,
    maps: Sequence[np.ndarray],
    pictures_of: Callable[..., Sequence[RgbU8]],
    path: Path,
) -> None:
    """Draw curves over steps, and what the variants draw with and without control.

    Args:
        table: numbers.
        maps: the conditions that head the strips.
        pictures_of: samples of a variant after a step (name, step, set), of `base` and of `real`.
        path: of the PNG; replaced atomically.
    """
    # Constrained: labels of rows are long, and nobody waits for this figure as for `curves.png`.
    figure = Figure(figsize=(16, 10), dpi=110, layout="constrained")
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.0, 1.6])
    _curves(parts[0, 0], table)
    _strips(parts[1, 0], table, maps, pictures_of)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _curves(figure: SubFigure, table: Table) -> None:
    prompted, empty, quality, start = figure.subplots(1, 4)
    _panel(prompted, table, "Does it obey? Prompts", lambda at: at.prompts.adherence)
    _panel(empty, table, "Does it obey? Empty prompts", lambda at: at.empty_prompts.adherence)
    _panel(quality, table, "Are samples still good?", lambda at: at.prompts.frechet_distance)
    for panel in (prompted, empty):
        panel.set_ylabel(table.judge)
        panel.set_ylim(0, 1.02)
        mark_level(panel, table.real.adherence.value, "ceiling")
        mark_level(panel, table.before.adherence.value, "floor")
    quality.set_ylabel("Fréchet distance (lower is better)")
    use_log_scale(quality)
    mark_level(quality, table.before.frechet_distance.value, "base")
    _losses(start, table)
    handles, labels = prompted.get_legend_handles_labels()
    figure.legend(handles, labels, ncols=5, loc="outside upper center")


def _panel(panel: Axes, table: Table, title: str, number: Callable[[StepScores], Estimate]) -> None:
    panel.set_title(title)
    panel.set_xlabel("optimizer step")
    for row in table.variants:
        steps, color = [look.step for look in row.looks], _COLORS[row.name]
        found = [number(look) for look in row.looks]
        panel.fill_between(
            steps,
            [estimate.low for estimate in found],
            [estimate.high for estimate in found],
            color=color,
            alpha=0.12,
            linewidth=0,
        )
        values = [estimate.value for estimate in found]
        panel.plot(steps, values, color=color, marker="o", label=row.label)


def _losses(panel: Axes, table: Table) -> None:
    """Training loss of the first steps: how long a start has to be made good for."""
    panel.set_title("What does the start cost?")
    panel.set_xlabel("optimizer step")
    panel.set_ylabel("training loss")
    last = table.config.sampled_after[2]  # later all of them lie on each other
    for row in table.variants:
        first = {step: loss for step, loss in row.training_loss.items() if step <= last}
        panel.plot(list(first), list(first.values()), color=_COLORS[row.name], marker="o")
    use_log_scale(panel)


def _strips(
    figure: SubFigure,
    table: Table,
    maps: Sequence[np.ndarray],
    pictures_of: Callable[..., Sequence[RgbU8]],
) -> None:
    """Three columns of strips: without control, under control at the start and the end."""
    end = table.config.steps
    before = pictures_of("base")
    panels = figure.subplots(len(table.variants) + 1, 3, squeeze=False)
    titles = (
        f"base without control, after {end} steps",
        "under control, before the first step",
        f"under control, after {end} steps",
    )
    _strip(panels[0, 0], before, "base without control, before")
    _strip(panels[0, 1], [shown(pixels) for pixels in maps], "condition")
    _strip(panels[0, 2], pictures_of("real"), "real picture")
    for number, row in enumerate(table.variants, start=1):
        free = before if row.locked else pictures_of(row.name, end, "base_without_control")
        controlled = [pictures_of(row.name, step, "prompts") for step in (0, end)]
        for column, pictures in enumerate((free, *controlled)):
            _strip(panels[number, column], pictures, titles[column] if number == 1 else "")
        panels[number, 0].set_ylabel(
            row.label.replace(": ", ":\n").replace(" (", "\n(").replace(", ", ",\n"),
            fontsize=9,
            color=_COLORS[row.name],
            rotation=0,
            ha="right",
            va="center",
        )


def _strip(panel: Axes, pictures: Sequence[RgbU8], title: str) -> None:
    panel.imshow(np.concatenate(pictures[:_SHOWN], axis=1), interpolation="nearest")
    panel.set_title(title, fontsize=9)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(False)
