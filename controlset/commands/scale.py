"""`controlset scale`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro

from annotators.options import AnnotateConfig
from controlset.interrupt import leaving_at_once, load_arrow
from controlset.parse import need, parse
from schemas.printable import say, say_json

with leaving_at_once("scale"):
    from pipeline.scale.cost import CAPTION, Cluster, Prices
    from pipeline.scale.figures import Figures, read, shipped
    from pipeline.scale.simulation import Faults

if TYPE_CHECKING:
    from pipeline.scale.cost import Estimate

COMMAND = "controlset scale"


_Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")]
Kind = TypeVar("Kind", Cluster, Prices, Faults)
_CONDITIONS = ("canny", "depth", "pose", "hed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Question:
    """What stands first in the help."""

    images: Annotated[tuple[float, ...], tyro.conf.arg(metavar="NUMBER [NUMBER ...]")] = (
        *(1e6, 1e8, 1e9),
    )
    """How many images the set has; several numbers make several columns."""

    conditions: _Names = _CONDITIONS

    caption: Literal["none", "blip"] = "none"
    """blip: captions are written by a model, too."""

    figures: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Start from the figures in this file (of `--save`) instead of the ones that come along."""

    measure: Annotated[str | None, tyro.conf.arg(metavar="SOURCE")] = None
    """Measure here and now, on pictures of this source, with the options of `generate` below."""

    pilot_images: int = 48
    """With `--measure`: how many pictures each of the small runs has at least."""

    resolution: int = 512
    """With `--measure`: side of the stored images in pixels."""

    save: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Keep the measured figures in this file."""

    chart: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Draw hours and lost work over the rows of a shard, for the first number of images."""

    json: bool = False
    """Print JSON instead of tables."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options(AnnotateConfig, Faults, Prices, Cluster, _Question):
    # Flags stand in the order of the last base class, then of the one before it, ...
    conditions: _Names = _CONDITIONS
    """Condition maps of the data set."""

    seed: int = 0
    """Seed of the simulation, and of what is drawn at random in measured runs."""

    def __post_init__(self) -> None:
        for kind in (AnnotateConfig, Cluster, Prices, Faults):
            kind.__post_init__(self)
        need(bool(self.conditions), "--conditions", "at least one", self.conditions)
        need(bool(self.images), "--images", "at least one", self.images)
        for number in self.images:
            whole = 1 <= number <= 1e12 and number == int(number)
            need(whole, "--images", "whole numbers from 1 to 1e12", number)
        need(self.pilot_images >= 1, "--pilot-images", "1 or more", self.pilot_images)
        both = self.measure is not None and self.figures is not None
        need(not both, "--figures", "either it or --measure", str(self.figures))
        without = self.save is not None and self.measure is None
        need(not without, "--save", "--measure SOURCE", str(self.save))
        for flag, path in (("--save", self.save), ("--chart", self.chart)):
            writable = path is None or (path.parent.is_dir() and not path.is_dir())
            need(writable, flag, "a file in a folder that exists", str(path))

    def of(self, kind: type[Kind]) -> Kind:
        """A base class of its own."""
        return kind(**{field.name: getattr(self, field.name) for field in dataclasses.fields(kind)})


def run(arguments: Sequence[str]) -> int:
    """Say what a run on many machines takes."""
    options = parse(
        _Options,
        COMMAND,
        arguments,
        description="What a run on many machines takes: shards, machines, hours, bytes, requests "
        "and money, from measured seconds and bytes of an image and a simulation of slow and lost "
        "machines. Prices and faults are assumptions: set yours.",
        example=f"{COMMAND} --images 1e6 --conditions canny depth --hours 12",
    )
    with leaving_at_once("scale"):
        from controlset.console import results
        from controlset.costing import print_estimates
        from pipeline.scale.cost import estimate

    figures = _figures(options)
    parts = (*options.conditions, *((CAPTION,) if options.caption == "blip" else ()))
    cluster, prices, faults = options.of(Cluster), options.of(Prices), options.of(Faults)
    found = [
        estimate(int(n), parts, figures=figures, cluster=cluster, prices=prices, faults=faults)
        for n in options.images
    ]
    if options.json:
        say_json(_plain(figures, cluster, prices, faults, found))
    else:
        print_estimates(found, parts, figures, faults, results())
    if options.chart is not None:
        from controlset.report.scale_figure import draw_scale

        swept = int(options.images[0])
        drawn = draw_scale(swept, figures.core_seconds(parts), cluster, faults)
        options.chart.write_bytes(drawn)
        if not options.json:
            say(f"chart: {options.chart}")
    return 0


def _figures(options: _Options) -> Figures:
    """Measured now, read from a file, or those that come along.

    Raises:
        ConfigError: not such a file, or nothing to measure with.
    """
    if options.measure is None:
        return shipped() if options.figures is None else read(options.figures)
    with leaving_at_once("scale"):
        from controlset.console import progress
        from pipeline.config import GenerateConfig
        from pipeline.scale.pilot import measure

        load_arrow()
    config = GenerateConfig(
        **{name: getattr(options, name) for name in AnnotateConfig.__dataclass_fields__},
        source=options.measure,
        output="not-written",
        caption=options.caption,
        resolution=options.resolution,
    )
    with progress("measuring") as advance:
        figures = measure(config, images=options.pilot_images, on_run=advance)
    if options.save is not None:
        options.save.write_text(figures.to_json(), encoding="utf-8")
    return figures


def _plain(
    figures: Figures,
    cluster: Cluster,
    prices: Prices,
    faults: Faults,
    found: Sequence["Estimate"],
) -> dict[str, object]:
    return {
        "figures": dataclasses.asdict(figures),
        "cluster": dataclasses.asdict(cluster),
        "prices": dataclasses.asdict(prices),
        "faults": dataclasses.asdict(faults),
        "estimates": [
            {**dataclasses.asdict(one), "total": one.total, "stretch": one.outcome.stretch}
            for one in found
        ],
    }
