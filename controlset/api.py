"""The commands as functions: keywords in, small objects over what lies on disk out.

A function takes the options of its command as keywords, or the configuration that holds them all.
Nothing heavy is imported before a function is called, and nothing before its keywords are right.
"""

import contextlib
import dataclasses
import os
import reprlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from controlnet import nano
from controlnet.evaluator.config import EvaluateConfig
from controlnet.trainer.config import TrainConfig, nano_recipe
from controlset import refusals
from controlset.commands.sample import SampleConfig
from controlset.keywords import (
    AddKeywords,
    EvaluateKeywords,
    GenerateKeywords,
    Place,
    SampleKeywords,
    TrainKeywords,
    command,
    configured,
    value_of,
)
from pipeline.config import AddConfig, GenerateConfig
from schemas.errors import ConfigError
from schemas.machine import cores

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from controlnet.export import Exported
    from controlset.results import Pictures, Rows, Scores, TrainedRun
    from pipeline.inspection import Inspection
    from pipeline.verify.verify import VerifyReport

    Hint = Place | np.ndarray | Image.Image


# Of each function two signatures for type checkers, keywords or one whole configuration; people
# and notebooks see the fields of the configuration, which `command` puts into the third.


@overload
def generate(
    source: Place,
    output: Place,
    *,
    progress: bool = False,
    **options: Unpack[GenerateKeywords],
) -> "Rows": ...


@overload
def generate(source: GenerateConfig, *, progress: bool = False) -> "Rows": ...


@command(GenerateConfig)
def generate(
    source: Place | GenerateConfig,
    output: Place | None = None,
    *,
    progress: bool = False,
    **options: Any,
) -> "Rows":
    """Turn photographs into a data set of images, captions and condition maps.

        photos = controlset.generate("photographs", "canny-set", conditions=["canny"])
        photos[0]["image"], photos[0]["canny"], photos[0]["text"]

    Called again, it goes on where it stopped.

    Args:
        source: folder, glob, tars or Parquet; local, in a bucket, or on the hub. Or a whole
            `GenerateConfig`.
        output: folder that the data set is written to.
        progress: show it, and a table at the end.
        **options: every other option of `controlset generate` with `_` for `-`, as `GenerateConfig`
            has them; those of single annotators, too (`canny_thresholds="50,150"`), which type
            checkers know in the form `options={"canny_thresholds": "50,150"}`.

    Returns:
        The rows of the data set, all splits; its manifest is `.manifest`.

    Raises:
        ConfigError: wrong source, option or output, in one line; nothing was overwritten.
        NothingKept: every image was rejected.
    """
    config = configured(GenerateConfig, source, {"source": source, "output": output, **options})
    refusals.check_generate(config)
    if config.beam_args:  # of a command line they were checked when it was parsed
        from controlset.commands.generate import check_beam_knows

        check_beam_knows(config.beam_args)
    from controlset.results import Rows
    from pipeline.generate import generate  # slow: Beam

    generate(config, show=progress)
    return Rows(config.output)


@overload
def add(output: Place, *, progress: bool = False, **options: Unpack[AddKeywords]) -> "Rows": ...


@overload
def add(output: AddConfig, *, progress: bool = False) -> "Rows": ...


@command(AddConfig)
def add(output: Place | AddConfig, *, progress: bool = False, **options: Any) -> "Rows":
    """Add conditions, captions or latents to a data set; nothing else is made again.

        photos = controlset.add("canny-set", conditions=["grey"])

    Args:
        output: the data set: its folder, or what `generate` returned. Or a whole `AddConfig`.
        progress: show it, and a table at the end.
        **options: every other option of `controlset add`, as `AddConfig` has them; see `generate`.

    Returns:
        The rows of the data set with everything that was asked for.

    Raises:
        ConfigError: no complete data set, a damaged file, or a wrong option; the data set is as it
            was.
    """
    config = configured(AddConfig, output, {"output": output, **options})
    config = refusals.checked_add(config)
    from controlset.results import Rows
    from pipeline.add.add import add

    add(config, show=progress)
    return Rows(config.output)


@overload
def train(
    data: Place,
    output: Place,
    *,
    condition: str,
    base: Place,
    progress: bool = False,
    **options: Unpack[TrainKeywords],
) -> "TrainedRun": ...


@overload
def train(data: TrainConfig, *, progress: bool = False) -> "TrainedRun": ...


@command(TrainConfig)
def train(
    data: Place | TrainConfig,
    output: Place | None = None,
    *,
    condition: str | None = None,
    base: Place | None = None,
    progress: bool = False,
    **options: Any,
) -> "TrainedRun":
    """Train a ControlNet on a data set.

        run = controlset.train(photos, "run", condition="canny", base="nano")

    An interrupt (Ctrl-C, the notebook's stop) saves; `resume=True` goes on exactly there.

    Args:
        data: the data set: folder, address, or what `generate` returned. Or a whole `TrainConfig`.
        output: folder that the run is written to.
        condition: which of the data set's maps to obey.
        base: the locked model: a folder in diffusers' format, a name on the hub, or `nano`, the
            bundled one, with which the options that are not given are those of its recipe.
        progress: show it.
        **options: every other option of `controlset train`, as `TrainConfig` has them.

    Returns:
        The run: its network, its numbers, its pictures.

    Raises:
        ConfigError: something is wrong with data, base, options or output; or a loss is not finite,
            then the last good checkpoint stays.
    """
    given = {"data": data, "output": output, "condition": condition, "base": base, **options}
    config = configured(TrainConfig, data, given)
    # What was not given is the recipe's; a whole configuration stays as it is.
    if config is not data and config.base == nano.NAME:
        recipe = nano_recipe(data=config.data, condition=config.condition, output=config.output)
        own = {name: getattr(config, name) for name, value in given.items() if value is not None}
        config = dataclasses.replace(recipe, **own)
    refusals.check_train(config)
    from controlset.judge import train
    from controlset.results import TrainedRun

    train(config)  # an interrupt saves and comes back, so that the run can be looked at
    return TrainedRun(config.output)


@overload
def evaluate(
    run: Place | Sequence[Place],
    data: Place,
    output: Place,
    *,
    progress: bool = False,
    **options: Unpack[EvaluateKeywords],
) -> "Scores": ...


@overload
def evaluate(run: EvaluateConfig, *, progress: bool = False) -> "Scores": ...


@command(EvaluateConfig)
def evaluate(
    run: Place | Sequence[Place] | EvaluateConfig,
    data: Place | None = None,
    output: Place | None = None,
    *,
    progress: bool = False,
    **options: Any,
) -> "Scores":
    """Say with numbers whether a ControlNet obeys.

        scores = controlset.evaluate(run, photos, "evaluation", limit=128)
        scores.value("model"), scores.value("floor")

    Args:
        run: what `train` returned, the folder of a run, or a ControlNet's; several are compared
            with the first. Or a whole `EvaluateConfig`.
        data: the data set whose validation rows are sampled: folder, address, or what `generate`
            returned.
        output: folder that scores, pictures and the report are written to.
        progress: show it.
        **options: every other option of `controlset evaluate`, as `EvaluateConfig` has them.

    Returns:
        The four rows with intervals, and where report and pictures lie.

    Raises:
        ConfigError: a run, base, data set, option or folder that will not do.
    """
    config = configured(
        EvaluateConfig, run, {"run": run, "data": data, "output": output, **options}
    )
    refusals.check_evaluate(config)
    from controlset.judge import run_evaluation  # slow: torch and diffusers
    from controlset.results import Scores

    run_evaluation(config)
    return Scores(config.output)


@overload
def sample(
    run: Place | Sequence[Place],
    hint: "Hint | Sequence[Hint]",
    output: Place = "sample.png",
    *,
    progress: bool = False,
    **options: Unpack[SampleKeywords],
) -> "Pictures": ...


@overload
def sample(run: SampleConfig, *, progress: bool = False) -> "Pictures": ...


@command(SampleConfig)
def sample(
    run: Place | Sequence[Place] | SampleConfig,
    hint: "Hint | Sequence[Hint] | None" = None,
    output: Place | None = None,
    *,
    progress: bool = False,
    **options: Any,
) -> "Pictures":
    """Draw pictures under one or several ControlNets.

        pictures = controlset.sample(run, photos[0]["canny"], prompt="a red star", count=4)
        pictures.images[0]

    Args:
        run: what `train` returned, the folder of a run, or a ControlNet's; several control every
            picture together. Or a whole `SampleConfig`.
        hint: condition map, or several: files, arrays (H, W) or (H, W, 3) uint8 or (H, W) uint16,
            or pictures of Pillow's.
        output: file for one picture, folder for several.
        progress: show it.
        **options: every other option of `controlset sample`, as `SampleConfig` has them.

    Returns:
        The pictures, which lie on disk, too.

    Raises:
        ConfigError: a run, base, option or file that will not do.
    """
    with _as_files(hint) as files:  # to the end of the drawing, which reads them
        given = {"run": run, "hint": files, "output": output, **options}
        config = configured(SampleConfig, run, given)
        refusals.check_sample(config)
        from controlset.drawing import draw
        from controlset.results import Pictures

        return Pictures(draw(config))


@contextlib.contextmanager
def _as_files(hint: Any) -> Iterator[Any]:
    """Hints as files: arrays and pictures are lossless PNGs for as long as they are needed."""
    # An array is one hint and not several, so it is not asked for its items.
    hints = list(hint) if isinstance(hint, list | tuple) else [] if hint is None else [hint]
    if all(isinstance(given, str | os.PathLike) for given in hints):
        yield hints or None
        return
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        files: list[Any] = []
        for number, given in enumerate(hints):
            if isinstance(given, str | os.PathLike):
                files.append(given)
                continue
            files.append(Path(folder, f"{number:02d}.png"))
            try:
                is_picture = isinstance(given, Image.Image)
                picture = given if is_picture else Image.fromarray(np.asarray(given))
                picture.save(files[-1])
            except (TypeError, ValueError, OSError) as error:
                raise ConfigError(
                    "hint=: need a file, a picture, or an array (H, W) or (H, W, 3) of uint8, "
                    f"got {reprlib.repr(given)}: {error}"
                ) from error
        yield files


@command()
def export(
    run: Place,
    output: Place,
    *,
    format: Literal["diffusers", "original"],
    dtype: Literal["fp32", "fp16", "bf16"] | None = None,
) -> "Exported":
    """Write a trained ControlNet for ComfyUI, A1111 and diffusers; whole or not at all.

        controlset.export(run, "canny.safetensors", format="original", dtype="fp16")

    Args:
        run: what `train` returned, the folder of a run or of a checkpoint, or a ControlNet's.
        output: a folder, or with `original` a file that ends in .safetensors; it must not exist.
        format: `diffusers` is a folder for any base, `original` one file for Stable Diffusion 1.x
            and 2.x.
        dtype: number format of the weights. Default: as they are stored.

    Returns:
        Where it lies, how large it is, and which tools read it.

    Raises:
        ConfigError: no whole ControlNet, an output that exists, or a form that cannot hold it.
    """
    # Literals are for type checkers; a call may still hold anything.
    for name, value in (("format", format), ("dtype", dtype)):
        if value is not None:
            value_of(export, name, value)
    refusals.check_export(run, Path(output))
    from controlnet.export import export as written

    return written(Path(run), Path(output), layout=format, precision=dtype)


@command()
def inspect(
    data: Place,
    *,
    sample: int | None = None,
    num_workers: int | None = None,
    progress: bool = False,
) -> "Inspection":
    """Count, measure and flag: sizes, captions, edge densities, blank maps, copies, rejects.

        controlset.inspect("canny-set").flags

    Args:
        data: the data set: folder, address, or what `generate` returned.
        sample: look at only this many images, spread over the set.
        num_workers: threads that decode. Default: one for each core.
        progress: show it.

    Returns:
        What was found; in a notebook it is the page that `--html` writes.

    Raises:
        ConfigError: there is no complete data set.
    """
    refusals.check_inspect(os.fspath(data), sample, num_workers)
    from pipeline.inspection import inspect_dataset
    from schemas.terminal import counting

    with counting("inspecting") as advance:
        return inspect_dataset(
            os.fspath(data), sample=sample, workers=num_workers or cores(), on_progress=advance
        )


@command()
def verify(
    data: Place,
    *,
    audit: float = 0.0,
    num_workers: int | None = None,
    device: str = "auto",
    weights: Place | None = None,
    trust_model: Sequence[str] = (),
    progress: bool = False,
) -> "VerifyReport":
    """Check a data set against its manifest, its schema and itself.

        assert controlset.verify("canny-set", audit=0.05).ok

    Args:
        data: the data set: folder, address, or what `generate` returned.
        audit: share of the rows, 0 to 1, whose maps are extracted again and have to be equal.
        num_workers: threads that extract maps again. Default: one for each core.
        device: where the audit's networks run: auto, cpu, cuda, cuda:N or mps.
        weights: folder that is searched first for their weights. Default: what the environment
            variable CONTROLSET_WEIGHTS says.
        trust_model: models that the audit may load although only the data set names them.
        progress: show it.

    Returns:
        Every check; `.ok` where nothing was found.

    Raises:
        ConfigError: there is no complete data set to verify.
    """
    refusals.check_verify(os.fspath(data), audit, num_workers)
    from annotators.runtime import Runtime
    from pipeline.verify.verify import verify_dataset
    from schemas.terminal import counting

    # Asked for at each call: a notebook may set the variable after the import.
    folder = os.environ.get("CONTROLSET_WEIGHTS") or None if weights is None else os.fspath(weights)
    with counting("verifying") as advance:
        return verify_dataset(
            os.fspath(data),
            audit=audit,
            workers=num_workers or cores(),
            runtime=Runtime(device=device, weights=folder, offline=True),
            trusted=[trust_model] if isinstance(trust_model, str) else trust_model,
            on_progress=advance,
        )


def load(
    path: Place,
    split: str | None = None,
    *,
    conditions: Sequence[str] | None = None,
    columns: Sequence[str] = (),
) -> "Rows":
    """A data set as torch's `DataLoader` reads one: rows are plain dicts of arrays and texts.

        rows = controlset.load("canny-set", "train", conditions=["canny"])
        batch = next(iter(torch.utils.data.DataLoader(rows, batch_size=4, shuffle=True)))
        batch["image"].shape, batch["canny"].shape, batch["text"]

    Args:
        path: its folder, or a URI that pyarrow's file systems know (`gs://…`, `s3://…`).
        split: `train` or `validation`; None is all of it.
        conditions: whose maps rows have; rows that lack one of them are left out. None: all, and
            a map that a row has not is None.
        columns: other columns that rows have, as they are stored (`width`, `canny_edge_density`,
            kept columns of the source).

    Returns:
        The rows; see there for types and shapes.

    Raises:
        ConfigError: not there, not complete, of another schema version, or without such a column.
    """
    from controlset.results import Rows

    return Rows(os.fspath(path), split=split, conditions=conditions, columns=columns)
