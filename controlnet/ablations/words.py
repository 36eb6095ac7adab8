"""The table in Markdown, and what it says about the paper."""

from controlnet.ablations.quality import PROTOCOL
from controlnet.ablations.results import Row, Table
from controlnet.evaluator.metrics.base import Estimate

_MARKS = {"yes": "✔", "no": "✘", "not decided": "?"}
_PAPERS_RATE = 1e-5
_REPAIRED = 1.1  # times the loss of zero convolutions


def markdown(table: Table) -> str:
    """Two tables and the claims, as a Markdown text."""
    config, first = table.config, table.rows[0]
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
    lines = [_cells(heads), _cells(["---"] * len(heads))]
    lines.append(
        _cells(
            [
                "*base, before training*",
                "",
                f"{_told(table.before.adherence)} (floor)",
                "",
                "",
                "",
                "",
                _told(table.before.distance),
                _told(table.before.text),
            ]
        )
    )
    lines += [_cells(_of_row(row, early, end)) for row in table.rows]
    lines.append(
        _cells(
            [
                "*real pictures*",
                "",
                f"{_told(table.real.adherence)} (ceiling)",
                "",
                "",
                _told(table.real.distance),
                _told(table.real.text),
                "",
                "",
            ]
        )
    )
    claims = [
        f"| {one.text} | {_MARKS[one.verdict]} {one.verdict} | {one.measure} | "
        f"{_told(one.difference, sign=True)} |"
        for one in table.claims
    ]
    return "\n".join(
        [
            *lines,
            "",
            f"Adherence: {table.judge} of {first.prompted[end].adherence.count} samples, "
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


def _of_row(row: Row, early: int, end: int) -> list[str]:
    course = " → ".join(f"{row.prompted[step].distance.value:.2f}" for step in (0, early))
    return [
        row.label,
        f"{row.parameters / 1e6:.2f} M",
        _told(row.prompted[end].adherence),
        _told(row.empty[end].adherence),
        "not yet" if row.snap is None else f"step {row.snap}",
        f"{course} → {_told(row.prompted[end].distance)}",
        _told(row.prompted[end].text),
        "unchanged" if row.is_locked else _told(row.free[end].distance),
        "unchanged" if row.is_locked else _told(row.free[end].text),
    ]


def _verdict(table: Table) -> str:
    """What comes out as in the paper and what does not."""
    by_verdict = {
        verdict: [f"{one.text} ({one.measure})" for one in table.claims if one.verdict == verdict]
        for verdict in _MARKS
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
        next(row.losses for row in table.rows if row.name == name) for name in ("zero", "gaussian")
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


def _told(one: Estimate | None, *, sign: bool = False) -> str:
    if one is None:
        return ""
    form = "+.2f" if sign else ".2f"
    return f"{one.value:{form}} [{one.low:{form}}, {one.high:{form}}]"


def _cells(texts: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(texts)} |"
