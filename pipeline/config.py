"""What a user can ask of `generate` and of `add`. Light to import: no Beam, no OpenCV, no Arrow."""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any, Literal

from annotators.options import AnnotateConfig
from schemas.errors import need
from schemas.machine import cores

Fit = Literal["crop", "pad", "stretch", "bucket"]
SourceCaption = Literal[
    "auto", "none", "sidecar", "metadata", "column", "fixed", "filename", "folder"
]
CaptionMode = Literal[SourceCaption, "blip", "sidecar-else-blip"]
CaptionList = Literal["first", "random", "join"]
SourceFormat = Literal["auto", "images", "tar", "parquet"]
SourceSplit = Literal["auto", "all", "train", "validation", "test"]
ImageFormat = Literal["jpeg", "png", "webp"]

_KEPT = re.compile(
    r"[A-Za-z][A-Za-z0-9_-]{0,63}"
    r"(:(list:)?(bool|u?int(8|16|32|64)|float(32|64)|string))?",
    re.ASCII,
)

# Where the run happens and how it is watched; none of it may change a stored byte.
_NOT_IN_RECIPE = frozenset({"source", "output", "overwrite", "dry_run", "num_workers", "beam_args"})

# What annotators and captioner are made from stands in their own records.
_IN_OTHER_RECORDS = frozenset(
    field.name for field in dataclasses.fields(AnnotateConfig) if field.name != "seed"
)

# With a model, what the source itself may say.
_OF_THE_SOURCE: dict[str, SourceCaption] = {"blip": "none", "sidecar-else-blip": "auto"}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig(AnnotateConfig):
    """Everything that `controlset generate` needs to know."""

    source: str
    """Folder (read recursively), glob, tar(s) (`{00000..00041}.tar` works) or Parquet; local, in a
    bucket (`gs://…`, `s3://…`, `az://…`), `hf://datasets/OWNER/NAME`, or files at `https://…`."""

    output: str
    """Folder that the data set is written to."""

    caption: CaptionMode = "auto"
    """Where captions come from. auto: sidecar, tar member, metadata.jsonl or the column text,
    caption or prompt, whichever is there. The named ones report every image without a caption.
    filename, folder: the image's name or its folder's, with `_` as spaces.
    blip: `--caption-model` describes every image. sidecar-else-blip: those without a caption."""

    caption_list: CaptionList = "first"
    """What to take where a source has a list of captions or tags for an image. first: the first
    one. random: one drawn by seed and image. join: all of them, with commas between."""

    caption_text: str | None = None
    """Caption of every image, with `--caption fixed`."""

    caption_column: str | None = None
    """Parquet column, or field of a JSON sidecar or metadata.jsonl, that holds the caption."""

    image_column: str | None = None
    """Parquet column that holds the image; needed only where there are several."""

    import_condition: tuple[str, ...] = ()
    """Conditions whose maps the source brings along: NAME=TEMPLATE of files beside the pictures,
    e.g. `scribble=source/{name}.png` ({name}, {stem} with folders, {folder}), in tars of members,
    e.g. `scribble={key}.scribble.png`; or NAME=column:COLUMN of Parquet, or of prompt.json or
    metadata.jsonl."""

    keep_columns: tuple[str, ...] = ()
    """Other columns of the source that rows keep: of Parquet, of caption tables, and of JSON beside
    pictures or in their tar. COLUMN, or COLUMN:TYPE (`id:string`) where the type is not clear."""

    source_format: SourceFormat = "auto"
    """What to read in the source. auto: whichever of these it holds; needed only where it holds
    several."""

    source_split: SourceSplit = "auto"
    """Which split to read where names of files tell several (`test-00000.parquet`, a folder `val`):
    one of them, or all joined. auto: refused where there are several."""

    resolution: int = 512
    """Side of the stored images in pixels; with `--fit bucket` the square root of their area."""

    fit: Fit = "crop"
    """How an image gets its size. crop: what lies outside of a centred square is cut off. pad: a
    border makes it square. stretch: its aspect is lost. bucket: the nearest of several aspects,
    with sides that are multiples of 64, then as crop."""

    pad_color: str = "white"
    """Colour of the border of `--fit pad`: white, black, grey or RRGGBB. Maps have none: there they
    show their background."""

    image_format: ImageFormat = "jpeg"
    """How images that had to change are stored. Ones that already fit keep their own bytes."""

    quality: int = 95
    """Quality of JPEG or WebP, 1 to 100."""

    keep_metadata: bool = False
    """Leave EXIF (places, names, devices), XMP and comments in images that keep their own bytes.
    Without it they are taken out; not one pixel changes."""

    max_pixels: int = 100_000_000
    """Pictures with more pixels are rejected before they are unpacked (decompression bombs)."""

    min_side: int | None = None
    """Pictures whose shorter side has fewer pixels are rejected. Default: half the resolution."""

    max_aspect: float = 4.0
    """Pictures more elongated than this (long side / short side) are rejected."""

    shard_rows: int = 1000
    """About how many rows a shard, which is one Parquet file, should have."""

    validation: float = 0.0
    """Fraction of the images that goes to the validation split, chosen by the hash of their key."""

    keep_copies_together: bool = False
    """Put exact and near copies of a picture into one split, so that no copy of a validation
    picture is trained on. Every run, also a resumed one, then reads all pictures once more, before
    the first shard."""

    limit: int | None = None
    """Take only this many images: a fixed sample of a folder, the first ones of tars and
    Parquet."""

    num_workers: int | None = None
    """How many threads decode, annotate and encode. Default: one for each core."""

    overwrite: bool = False
    """Delete the data set that is in the output folder first."""

    dry_run: bool = False
    """Print the resolved configuration and the plan, and write nothing."""

    beam_args: tuple[str, ...] = ()
    """Options for Apache Beam, e.g. `--runner=DataflowRunner`; what the command line does not know
    goes here."""

    def __post_init__(self) -> None:
        AnnotateConfig.__post_init__(self)
        for column in self.keep_columns:
            need(
                _KEPT.fullmatch(column) is not None,
                "--keep-columns",
                "names of letters, digits, _ and - (64 at most) as COLUMN or COLUMN:TYPE, TYPE "
                "being bool, int64, float64, string, list:string and the like",
                column,
            )
        conditions = bool(self.conditions or self.import_condition)
        kept = [column.partition(":")[0] for column in self.keep_columns]
        color = "white, black, grey or six hexadecimal digits RRGGBB"
        is_multiple = 8 <= self.resolution <= 8192 and self.resolution % 8 == 0
        fits_buckets = self.fit != "bucket" or self.resolution % 64 == 0
        apart = bool(self.validation) or not self.keep_copies_together
        for holds, option, rule, got in (
            (self.output, "--output", "a folder", self.output),
            (self.source, "SOURCE", "a folder, glob, tar or Parquet file", self.source),
            (conditions, "--conditions", "at least one, or --import-condition", self.conditions),
            (len({*kept}) == len(kept), "--keep-columns", "each column once", " ".join(kept)),
            (is_multiple, "--resolution", "a multiple of 8 from 8 to 8192", self.resolution),
            (fits_buckets, "--resolution", "a multiple of 64 with --fit bucket", self.resolution),
            (_rgb_of(self.pad_color), "--pad-color", color, self.pad_color),
            (self.fit == "pad" or self.pad_color == "white", "--pad-color", "--fit pad", self.fit),
            (1 <= self.quality <= 100, "--quality", "1 to 100", self.quality),
            (self.max_pixels > 0, "--max-pixels", "a positive number", self.max_pixels),
            (_or_none(self.min_side), "--min-side", "1 or more", self.min_side),
            (self.max_aspect >= 1, "--max-aspect", "1 or more", self.max_aspect),
            (self.shard_rows >= 1, "--shard-rows", "1 or more", self.shard_rows),
            (0 <= self.validation < 1, "--validation", "0 <= fraction < 1", self.validation),
            (apart, "--keep-copies-together", "--validation above 0", self.validation),
            (_or_none(self.limit), "--limit", "1 or more", self.limit),
            (_or_none(self.num_workers), "--num-workers", "1 or more", self.num_workers),
        ):
            need(bool(holds), option, rule, got)
        if self.caption == "fixed":
            need(bool(self.caption_text), "--caption fixed", "--caption-text TEXT", None)
        else:
            need(self.caption_text is None, "--caption-text", "--caption fixed", self.caption)

    @property
    def smallest_side(self) -> int:
        """Pictures with a shorter side are rejected, px."""
        return self.min_side if self.min_side is not None else max(1, self.resolution // 2)

    @property
    def border_rgb(self) -> tuple[int, int, int]:
        """Colour of a padded image's border."""
        return _rgb_of(self.pad_color) or (255, 255, 255)

    @property
    def source_caption(self) -> SourceCaption:
        """What captions the source is asked for."""
        return _OF_THE_SOURCE.get(self.caption) or self.caption  # type: ignore[return-value]  # the others are the source's own

    @property
    def captioner(self) -> str | None:
        """Name of the model that describes images without a caption."""
        return "blip" if self.caption in _OF_THE_SOURCE else None

    @property
    def workers(self) -> int:
        """Threads to use on this machine."""
        return self.num_workers or cores()

    def recipe(self) -> dict[str, Any]:
        """Every option that can change a stored byte, resolved; JSON-able."""
        recipe: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in _NOT_IN_RECIPE | _IN_OTHER_RECORDS
        }
        recipe["min_side"] = self.smallest_side
        # Options that only some recipes have: the others stay what they always were, and with
        # them the identity of data sets that exist.
        if self.fit == "pad":
            recipe["pad_color"] = _name_of(self.border_rgb)
        else:
            del recipe["pad_color"]
        if self.caption_list == "first":
            del recipe["caption_list"]
        if self.source_split == "auto":
            del recipe["source_split"]
        for name in ("import_condition", "keep_columns", "keep_copies_together"):
            if not recipe[name]:
                del recipe[name]
        return recipe


def _or_none(count: int | None) -> bool:
    """Whether it is left out, or 1 or more."""
    return count is None or count >= 1


_COLORS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128)}


def _rgb_of(color: str) -> tuple[int, int, int] | None:
    """R, G and B, 0..255, of a name or RRGGBB (with or without #); None if it is neither."""
    color = color.lower()
    if color in _COLORS:
        return _COLORS[color]
    if re.fullmatch("#?[0-9a-f]{6}", color) is None:
        return None
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue


def _name_of(rgb: tuple[int, int, int]) -> str:
    """The one spelling that a recipe has for a colour."""
    names = {value: name for name, value in _COLORS.items()}
    return names.get(rgb) or bytes(rgb).hex()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AddConfig(AnnotateConfig):
    """Everything that `controlset add` needs to know."""

    output: str
    """Folder of a complete data set."""

    conditions: tuple[str, ...] = ()
    """Condition maps to add, e.g. `lineart normal`; `controlset doctor` lists them."""

    import_condition: tuple[str, ...] = ()
    """Conditions whose maps are files of yours: NAME=TEMPLATE, as for `generate`, relative to the
    source that the set was made of, or with its whole path, e.g. `scribble=/maps/{stem}.png`."""

    latents: str | None = None
    """Base (folder in diffusers' format, or hub name) whose VAE encodes every image once, so that
    training on it need not do it in every step. In fp32 unless --precision says otherwise."""

    latent_flips: bool = False
    """Also encode the mirrored images, for training with `--flip`."""

    caption: Literal["none", "blip"] = "none"
    """blip: `--caption-model` describes the images that have no caption."""

    seed: int | None = None  # type: ignore[assignment]  # None is the set's own
    """Seed of everything that is drawn at random: thresholds, shuffling, sampled captions. Default:
    the one that the data set was generated with."""

    num_workers: int | None = None
    """How many threads decode, annotate and encode. Default: one for each core."""

    dry_run: bool = False
    """Print what would be added, and write nothing."""

    def __post_init__(self) -> None:
        from schemas.manifest import ADDING_DIR, MANIFEST_NAME  # which brings Arrow

        AnnotateConfig.__post_init__(self)
        need(bool(self.output), "DATASET", "the folder of a data set", self.output)
        need(
            self.asks_for_something
            or os.path.lexists(f"{self.folder}/{ADDING_DIR}/{MANIFEST_NAME}"),  # to be finished
            "--conditions",
            "at least one, or --caption blip, --latents BASE or --import-condition NAME=WHERE",
            self.conditions,
        )
        need(self.latents != "", "--latents", "a folder, or a name on the hub", self.latents)
        need(
            not self.latent_flips or self.latents is not None,
            "--latent-flips",
            "--latents BASE",
            self.latents,
        )
        need(_or_none(self.num_workers), "--num-workers", "1 or more", self.num_workers)

    @property
    def asks_for_something(self) -> bool:
        """False where an addition that waits shall be finished, and nothing else."""
        return (
            bool(self.conditions)
            or self.caption != "none"
            or self.latents is not None
            or bool(self.import_condition)
        )

    @property
    def folder(self) -> str:
        """The data set's folder without a trailing slash."""
        return self.output.removeprefix("file://").rstrip("/") or "/"

    @property
    def workers(self) -> int:
        """Threads to use on this machine."""
        return self.num_workers or cores()

    def with_seed_of(self, recipe: Mapping[str, Any]) -> "AddConfig":
        """The same, with the data set's seed where none is asked for."""
        if self.seed is not None or not self.asks_for_something:
            return self
        return dataclasses.replace(self, seed=recipe.get("seed", 0))
