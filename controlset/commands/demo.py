"""`controlset demo`."""

import dataclasses
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image

from controlnet import nano
from controlnet.evaluator.config import EvaluateConfig
from controlnet.nano.scenes import SIZE_PX, draw, random_scene
from controlnet.trainer.config import nano_recipe
from controlset import refusals
from controlset.commands import leaving_at_once, load_arrow
from controlset.parse import Command
from pipeline.config import AddConfig, GenerateConfig
from schemas.dataset import open_dataset
from schemas.errors import ConfigError, need_field
from schemas.files import held, machine_limits, replacing, taking_place
from schemas.manifest import MANIFEST_NAME
from schemas.printable import say
from schemas.terminal import counting

_LAST = "not-a-picture.png"  # written last: all pictures are there
_VALIDATION = 0.04
_EVERY_KIND = ("canny", "depth", "pose", "hed")
_SHOWN = 4  # rows in the picture, the first ones by key
ROWS = "rows.png"
"""Picture of what `generate` made of drawn scenes."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Demo:
    """What is made, and how much of it."""

    output: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("demo-output")
    """Folder that pictures, data set, run, evaluation and report are written to."""

    source: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Pictures of your own instead of drawn ones. They are shrunk to 64 px, and the bundled base
    knows coloured shapes only: control will work better than the pictures look."""

    pictures: int = 4000
    """How many pictures of shapes to draw."""

    scenes: int = 60
    """How many pictures of the drawn world to make every kind of map of, and a caption."""

    steps: int = 1100
    """How many training steps to take, of 32 samples each."""

    rows: int = 128
    """How many validation rows the ControlNet is judged by."""

    seed: int = 0
    """Seed of everything that is drawn at random; the same seed gives the same numbers."""

    def __post_init__(self) -> None:
        for name in ("pictures", "scenes", "steps", "rows"):
            need_field(self, getattr(self, name) >= 1, name, "1 or more")


COMMAND = Command(
    name="demo",
    kind=Demo,
    description="The whole story on two cores, with nothing to download: draw scenes, and make "
    "every kind of map and a caption of each; draw pictures of shapes, turn them into a set of "
    "Canny triples, train a ControlNet on the bundled base, measure whether it obeys, and write a "
    "report. Run again, it goes on where it stopped.",
    example="--output demo-output",
)


def run(arguments: Sequence[str]) -> int:
    """Pictures -> data set -> ControlNet -> numbers -> report."""
    options = COMMAND.parse(arguments)
    if options.source is not None:
        refusals.need_source(options.source)
    with leaving_at_once("demo"):
        load_arrow()
    return demo(options)


def demo(options: Demo) -> int:
    """Draw, annotate, generate, train, evaluate, report; what an earlier demo finished is kept.

    Args:
        options: how much of it.

    Returns:
        Exit status.

    Raises:
        ConfigError: a folder that will not do, or that holds a demo of other options.
    """
    with machine_limits(options.output), held(options.output):
        return _told_story(options)


def _told_story(options: Demo) -> int:
    from controlset.judge import run_evaluation
    from pipeline.add.add import add
    from pipeline.generate import generate

    started_s = time.monotonic()
    shapes, data, run = (options.output / name for name in ("shapes", "dataset", "run"))
    say("", f"1/5  {options.scenes:,} drawn scenes -> {', '.join(_EVERY_KIND)} and a caption")
    _every_map(options)
    if options.source is None:
        say("", f"2/5  drawing {options.pictures:,} pictures with captions")
        draw_shapes(shapes, options.pictures, options.seed)
    say("", "3/5  pictures -> image, caption and Canny map, on Apache Beam")
    if not _has_latents(data):
        generate(_data_config(options, shapes, data), show=True)
        # encoding is a third of a nano step; `generate` will not touch a set that was added to
        add(AddConfig(output=str(data), latents=str(nano.base_folder()), device="cpu"), show=True)
    say("", f"4/5  training a ControlNet on the nano base, {options.steps:,} steps of 32")
    _train(options, data, run)
    say("", "5/5  does it obey? sampling, looking again, comparing")
    config = EvaluateConfig(
        run=(str(run),),
        data=str(data),
        output=str(options.output / "evaluation"),
        limit=options.rows,
        batch_size=32,
        seed=options.seed,
    )
    document, report = run_evaluation(config)
    if report is not None:
        shutil.copyfile(report, options.output / "report.html")
    minutes = (time.monotonic() - started_s) / 60
    say(*_closing(options, document, minutes))
    return 0


def _every_map(options: Demo) -> None:
    """A set of drawn scenes with all maps and BLIP's captions, and a picture of its first rows."""
    from controlnet.nano.world import make_scene, short_caption
    from controlnet.nano.world.folder import PICTURES, write_scenes
    from controlset.report.rows import draw_dataset_rows
    from controlset.results import Rows
    from pipeline.generate import generate

    drawn, data = options.output / "scenes", options.output / "scenes-dataset"
    if drawn.exists():
        there = len(list((drawn / PICTURES).glob("*.png")))
        _need_as_begun(drawn, there, "--scenes", options.scenes)
    else:
        with taking_place(drawn.absolute()) as unfinished, counting("drawing") as advance:
            write_scenes(
                unfinished,
                options.scenes,
                size_px=SIZE_PX,
                seed=options.seed,
                on_progress=advance,
            )
    config = GenerateConfig(
        source=str(drawn / PICTURES),
        output=str(data),
        conditions=_EVERY_KIND,
        weights="nano",
        caption="blip",  # what was drawn is known, and withheld: so it can be compared
        resolution=SIZE_PX,
        min_side=SIZE_PX,
        image_format="png",
        seed=options.seed,
    )
    generate(config, show=True)
    rows = Rows(str(data), columns=["source"])
    first = [rows[number] for number in range(min(_SHOWN, len(rows)))]
    numbers = [int(Path(row["source"]).stem) for row in first]
    truths = [short_caption(make_scene(options.seed, number)) for number in numbers]
    with replacing(options.output / ROWS) as temporary:
        temporary.write_bytes(draw_dataset_rows(first, _EVERY_KIND, truths=truths))


def _need_as_begun(folder: Path, there: int, option: str, asked: int) -> None:
    """Refuse to go on with a demo of another size.

    Raises:
        ConfigError: says how many there are.
    """
    if there != asked:
        raise ConfigError(
            f"{option}: need {there}, as the demo in {folder.parent} was begun with, got {asked}; "
            "choose another --output"
        )


def draw_shapes(folder: Path, count: int, seed: int) -> None:
    """Coloured shapes with captions, and two files that are broken on purpose.

    Args:
        folder: gets `00000.png` and `00000.txt` and so on.
        count: pictures.
        seed: of the scenes.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    if (folder / _LAST).exists():
        # Two of them are the broken ones.
        _need_as_begun(folder, len(list(folder.glob("*.png"))) - 2, "--pictures", count)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output: need a folder to write to, got {error}") from error
    rng = np.random.default_rng([seed, 77])  # other draws than any other use of the seed
    with counting("drawing") as advance:
        for number in range(count):
            scene = random_scene(rng)
            Image.fromarray(draw(scene)).save(folder / f"{number:05d}.png")
            (folder / f"{number:05d}.txt").write_text(f"{scene.caption}\n", encoding="utf-8")
            advance(number + 1, count)
    # So that the demo shows what becomes of such files: rejects with a reason.
    whole = (folder / "00000.png").read_bytes()
    (folder / "cut-short.png").write_bytes(whole[: len(whole) // 2])
    (folder / _LAST).write_text("This is text.\n", encoding="utf-8")


def _has_latents(data: Path) -> bool:
    """Whether an earlier demo finished the data set."""
    return (data / MANIFEST_NAME).exists() and open_dataset(str(data)).manifest.latents is not None


def _data_config(options: Demo, shapes: Path, data: Path) -> GenerateConfig:
    return GenerateConfig(
        source=options.source or str(shapes),
        output=str(data),
        conditions=("canny",),
        options={"canny_thresholds": "60,120"},
        resolution=SIZE_PX,
        min_side=SIZE_PX,
        validation=_VALIDATION,
        seed=options.seed,
    )


def _train(options: Demo, data: Path, run: Path) -> None:
    """Train, or go on; a run that is finished stays as it is."""
    from controlset.judge import train

    recipe = nano_recipe(data=str(data), condition="canny", output=str(run))
    config = dataclasses.replace(
        recipe,
        steps=options.steps,
        warmup=min(recipe.warmup, options.steps // 4),
        probe_every=100,
        seed=options.seed,
        device="cpu",
        resume=(run / "config.json").exists(),
    )
    if _is_finished(run, options.steps):
        return
    outcome = train(config)
    if outcome.stopped_by is not None:
        raise KeyboardInterrupt  # training saved and returned; the demo ends here, too


def _is_finished(run: Path, steps: int) -> bool:
    from controlnet.trainer.run_folder import SUMMARY_NAME, read_record

    summary = read_record(run / SUMMARY_NAME)  # empty where there is none: not finished
    return summary.get("stopped_by", -1) is None and summary.get("step") == steps


def _closing(options: Demo, document: dict[str, Any], minutes: float) -> list[str]:
    """The headline numbers, and where to look."""
    headline = document["measures"][0]
    values = {row["row"]: row["values"][headline["name"]] for row in document["rows"]}
    lines = [f"Canny {headline['label']}, {document['data']['used']} pictures never trained on:"]
    for row, means in (
        ("model", "sampled with the condition"),
        ("shuffled", "the same against another picture's condition"),
        ("floor", "sampled without the condition"),
        ("ceiling", "the real pictures, through the VAE"),
    ):
        value = values.get(row)
        number = "   -"
        if value is not None:
            number = f"{value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})"
        lines.append(f"  {row:<9} {number}   {means}")
    # The command is printed so that it can be pasted, whether or not the environment is active.
    here = Path(sys.executable).parent
    bin_ = "" if shutil.which("controlset") == str(here / "controlset") else f"{_near(here)}/"
    wanted, text = (document["pictures"][0][name] for name in ("wanted", "text"))
    hint = options.output / "evaluation" / wanted
    return [
        "",
        *lines,
        "",
        f"look:  {options.output}/report.html   ({minutes:.1f} min in this run)",
        f"       {options.output}/{ROWS}, {options.output}/scenes-dataset/preview.html",
        f"       {options.output}/dataset/preview.html, {options.output}/run/strips.png",
        f"then:  {bin_}controlset sample --run {options.output}/run --hint {hint} \\",
        f'         --prompt "{text}" --output {options.output}/sample.png',
    ]


def _near(folder: Path) -> Path:
    """As it is typed from here."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
