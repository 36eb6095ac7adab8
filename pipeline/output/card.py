"""The data set's card: a README.md that Hugging Face's hub and `datasets` understand.

Nothing in it depends on when or where it was written, so a re-run gives the same bytes.
"""

import dataclasses
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import yaml

from annotators.latents import LatentSpec
from annotators.options import Option
from annotators.registry import all_options, always_fp32, is_imported
from pipeline.config import GenerateConfig
from pipeline.output.pages import templates, visible
from pipeline.output.preview import reject_lines, stored_size
from schemas.latents import LATENTS, LATENTS_FLIPPED, LatentInfo
from schemas.manifest import Manifest, ShardRecord

_MEANINGS: Mapping[str, tuple[str, str]] = {
    # column -> unit or range, meaning
    "key": ("32 hex digits", "Hash of the source's name; stable across runs, joins everything"),
    "source": ("", "Name of the picture, relative to the source"),
    "sha256": ("64 hex digits", "Of the source's raw bytes"),
    "image": ("RGB, 0 to 255", "The picture at training size"),
    "text": ("", "Caption; null where there is none"),
    "caption_source": ("", "Where the caption came from"),
    "width": ("px", "Of the stored image and its maps"),
    "height": ("px", "Of the stored image and its maps"),
    "original_width": ("px", "Of the source, after EXIF orientation"),
    "original_height": ("px", "Of the source, after EXIF orientation"),
    "crop_x": ("px", "Left edge of the crop in the resized picture (SDXL's micro-conditioning)"),
    "pad_left": ("px", "Border left of the picture; maps show nothing there"),
    "pad_top": ("px", "Border above it"),
    "pad_right": ("px", "Border right of it"),
    "pad_bottom": ("px", "Border below it"),
    "crop_y": ("px", "Top edge of the crop in the resized picture (SDXL's micro-conditioning)"),
}

_STATS: Mapping[str, tuple[str, str]] = {
    # statistic, or condition_statistic where that says more -> unit or range, meaning
    "low": ("grey levels of gradient", "Lower hysteresis threshold of this row's map"),
    "high": ("grey levels of gradient", "Upper hysteresis threshold of this row's map"),
    "edge_density": ("0 to 1", "Share of the map's pixels that are edges (at or above half)"),
    "mean": ("0 to 1", "Mean brightness of the map"),
    "mean_z": ("-1 to 1", "Mean of the normals' third component"),
    "lines": ("", "Straight lines that were found"),
    "classes": ("1 to 150", "Classes of ADE20K in the map"),
    "people": ("", "People that were found"),
    "visible_joints": ("", "Body joints that were found, of all people together"),
    "depth_min": (
        "the network's own",
        "Inverse distance that the map's darkest value stands for, up to an unknown scale and "
        "shift; 1 / metres if the network is metric",
    ),
    "depth_max": ("the network's own", "The same of its brightest value"),
    "depth_flat": ("", "No depth was found: the map is black"),
    "pose_keypoints": (
        "x, y: px of the stored image; score: 0 to 1",
        "One entry a person; joints that were not seen are absent",
    ),
}

# As licences say that something is forbidden, or as we say that we do not know.
_RESTRICTED = re.compile(r"non-?commercial|research|\bnc\b|see the model's card", re.IGNORECASE)

_HINTS: Mapping[str, str] = {
    "bilevel": "1-bit PNG, 0 or 255",
    "grey": "8-bit grey PNG, 0 to 255",
    "grey16": "16-bit grey PNG, 0 to 65535",
    "rgb": "RGB PNG, 0 to 255",
}


def render_card(manifest: Manifest, schema: pa.Schema, *, licence: str = "unknown") -> str:
    """Dataset card with the front matter that `datasets` reads.

    Args:
        manifest: of the whole data set.
        schema: of its shards, with Hugging Face feature metadata.
        licence: of the data set as a whole, in the hub's notation; it cannot be known from here.

    Returns:
        Markdown, the same for the same arguments. `num_bytes` is the size on disk, which for
        uncompressed Parquet is the size in memory to within a few percent.
    """
    return (
        templates()
        .get_template("card.md.j2")
        .render(
            front_matter=_front_matter(manifest, schema, licence),
            manifest=manifest,
            conditions=list(manifest.annotators),
            splits=manifest.rows_of_splits,
            stored_size=stored_size(manifest.recipe),
            metadata_left_out=_metadata_left_out(manifest.recipe),
            command=_fenced("\n".join(commands_of(manifest)), "sh"),
            columns=list(_columns(manifest, schema)),
            makers=list(_makers(manifest)),
            has_networks=any(record.get("weights") for record in _records(manifest).values()),
            restricted=list(_restricted(manifest)),
            rejects=reject_lines(manifest),
            copies_together=manifest.recipe.get("keep_copies_together", False),
            first_split=next(iter(_splits_with_rows(manifest)), "train"),
        )
    )


def _metadata_left_out(recipe: Mapping[str, Any]) -> bool | None:
    """None where the release that made the set did not know the option."""
    kept = recipe.get("keep_metadata")
    return None if kept is None else not kept


def _front_matter(manifest: Manifest, schema: pa.Schema, licence: str) -> str:
    splits = _splits_with_rows(manifest)
    sizes = {
        split: sum(shard.data.size_bytes for shard in shards) for split, shards in splits.items()
    }
    info = {
        "features": _features(schema),
        "splits": [
            {
                "name": split,
                "num_bytes": sizes[split],
                "num_examples": sum(shard.data.rows for shard in shards),
            }
            for split, shards in splits.items()
        ],
        "download_size": sum(sizes.values()),
        "dataset_size": sum(sizes.values()),
    }
    files = [{"split": split, "path": f"data/{split}-*"} for split in splits]
    document = {
        "license": licence,
        "task_categories": ["text-to-image"],
        "tags": ["controlnet", "controlset", *manifest.annotators],
        "size_categories": [_size_category(manifest.rows)],
        "dataset_info": info,
        "configs": [{"config_name": "default", "data_files": files}],
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)


def _splits_with_rows(manifest: Manifest) -> dict[str, list[ShardRecord]]:
    """`datasets` refuses a split without rows, and with it the whole set."""
    return {
        split: shards
        for split, shards in manifest.splits.items()
        if any(shard.data.rows for shard in shards)
    }


def _features(schema: pa.Schema) -> list[dict[str, Any]]:
    """Columns in the card's own notation, which is not the one of the Parquet footer."""
    metadata = json.loads((schema.metadata or {})[b"huggingface"])
    features = metadata["info"]["features"]
    return [{"name": name} | _in_card(features[name]) for name in schema.names]


def _in_card(feature: Mapping[str, Any]) -> dict[str, Any]:
    """A footer's feature as `datasets` writes it into a card."""
    kind = feature.get("_type")
    if kind == "Image":
        return {"dtype": "image"}
    if kind == "Value":
        return {"dtype": feature["dtype"]}
    if kind == "List":
        content = _in_card(feature["feature"])
        # In a card it is `list: float32`, not `list: {dtype: float32}`.
        return {"list": content if "list" in content else next(iter(content.values()))}
    return {"struct": [{"name": name} | _in_card(part) for name, part in feature.items()]}


def _type_text(feature: Mapping[str, Any]) -> str:
    """A column's type for a person: `float32`, `list of body, face`."""
    content = feature.get("list", feature.get("struct"))
    if content is None:
        return feature["dtype"]
    if isinstance(content, list):
        content = ", ".join(part["name"] for part in content)
    elif isinstance(content, dict):
        content = _type_text(content)
    return f"list of {content}" if "list" in feature else content


def _size_category(rows: int) -> str:
    """The hub's own bins."""
    ends = {1e3: "1K", 1e4: "10K", 1e5: "100K", 1e6: "1M", 1e7: "10M", 1e8: "100M", 1e9: "1B"}
    before = "n"
    for end, name in ends.items():
        if rows < end:
            return f"n<{name}" if before == "n" else f"{before}<n<{name}"
        before = name
    return "n>1B"


def _columns(manifest: Manifest, schema: pa.Schema) -> Iterator[tuple[str, str, str, str]]:
    """(column, type, unit or range, meaning) in the order of the table."""
    meanings = dict(_MEANINGS)
    meanings |= dict.fromkeys(manifest.columns, ("", "Kept from the source; null: none that fits"))
    for condition, annotator in manifest.annotators.items():
        hint = _HINTS.get(annotator.get("hint_mode"), "PNG")
        meanings[condition] = (hint, f"Map of {condition}, exactly the image's size; null: none")
        for suffix in annotator.get("stats", {}):
            fallback = ("", f"{suffix.replace('_', ' ')} of the {condition} map")
            column = f"{condition}_{suffix}"
            meanings[column] = _STATS.get(column) or _STATS.get(suffix, fallback)
    if manifest.latents is not None:
        meanings |= _latent_meanings(LatentInfo.from_json(manifest.latents))
    for feature in _features(schema):
        unit, meaning = meanings.get(feature["name"], ("", ""))
        yield feature["name"], _type_text(feature), unit, meaning


def _latent_meanings(info: LatentInfo) -> dict[str, tuple[str, str]]:
    shape = f"{2 * info.channels} x height / {info.factor} x width / {info.factor}"
    unit = f"float16, little-endian: {shape}".replace(" x ", " \N{MULTIPLICATION SIGN} ")
    what = "Means, then log-variances, that the VAE gives of {}, unscaled; null: not finite"
    return {
        LATENTS: (unit, what.format("the image")),
        LATENTS_FLIPPED: (unit, what.format("the mirrored image")),
    }


def _records(manifest: Manifest) -> dict[str, Mapping[str, Any]]:
    """What made maps and captions, in the order of their columns."""
    records = {f"annotator: {name}": record for name, record in manifest.annotators.items()}
    if manifest.captioner is not None:
        records[f"captioner: {manifest.captioner['name']}"] = manifest.captioner
    return records


def _models(manifest: Manifest) -> dict[str, Mapping[str, Any]]:
    """The same with the VAE of the moments, which draws and writes nothing that is seen."""
    records = _records(manifest)
    if manifest.latents is not None:
        info = LatentInfo.from_json(manifest.latents)
        shown = ("scaling_factor", "shift_factor", "flips", "precision")
        weights = {"source": info.base, "file": "VAE", "sha256": info.vae_sha256}
        records["latents"] = {
            "revision": "",
            "parameters": {name: getattr(info, name) for name in shown},
            "weights": [weights | {"licence": "see the model's card"}],
            "licence": LatentSpec.licence,
        }
    return records


def _makers(manifest: Manifest) -> Iterator[tuple[str, str, str, str, str]]:
    """(what, revision, parameters, weights, licence)."""
    for what, record in _models(manifest).items():
        parameters = ", ".join(
            f"{key} = {_range_text(value)}" for key, value in record["parameters"].items()
        )
        files = record.get("weights") or []
        weights = "; ".join(f"{_title(file)}, sha256 {file['sha256']}" for file in files)
        made_with = weights or "none needed"
        yield what, str(record["revision"]), parameters, made_with, _licence_text(record)


def _range_text(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) == 2 and all(isinstance(end, int | float) for end in value):
            first, last = value
            return str(first) if first == last else f"{first} to {last}, drawn for each image"
        return " and ".join(map(str, value)) or "none"
    return str(value)


def _title(weights: Mapping[str, Any]) -> str:
    file = weights.get("file")
    return f"{file} of {weights['source']}" if file else str(weights["source"])


def _licence_text(record: Mapping[str, Any]) -> str:
    """Of the code and, where they are others, of the weights."""
    licences = list(dict.fromkeys(weights["licence"] for weights in record.get("weights") or []))
    if not licences:
        return str(record.get("licence"))
    return f"code: {record.get('licence')}; weights: {'; '.join(licences)}"


def _restricted(manifest: Manifest) -> Iterator[tuple[str, str, str]]:
    """(what, weights, licence) of weights whose licence forbids something or is not known."""
    for what, record in _models(manifest).items():
        for weights in record.get("weights") or []:
            if _RESTRICTED.search(weights["licence"]):
                yield what, _title(weights), weights["licence"]


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text)}\n{fence}"


# The commands that make the set again -------------------------------------------------------------

_SOURCE_ALONE = {"blip": "none", "sidecar-else-blip": "auto"}
"""What `--caption` is without the model."""


@dataclasses.dataclass(kw_only=True, slots=True)
class _Command:
    """One command: models that can have been loaded by the same run."""

    known: Mapping[str, tuple[Option, ...]]  # model -> its options; without those not installed
    conditions: list[str] = dataclasses.field(default_factory=list)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    caption: str | None = None
    seed: int | None = None  # None: nothing in it draws
    precision: str | None = None  # None: no network in it
    has_fixed_precision: bool = False  # a model whose precision `auto` alone gives

    def takes(self, name: str, parameters: Mapping[str, Any]) -> bool:
        """Add a model, if its seed and precision are those of the others."""
        seed, precision, fixed = None, None, False
        if name in self.known:
            fixed = always_fp32(name, parameters)  # whatever precision the others have
            seed = parameters.get("seed")
            precision = None if fixed else parameters.get("precision")
        if seed is not None and self.seed not in (None, seed):
            return False
        if precision is not None and self.precision not in (None, precision):
            return False
        self.has_fixed_precision |= fixed
        self.seed = self.seed if seed is None else seed
        self.precision = self.precision or precision
        for option in self.known.get(name, ()):
            if option.parameters.keys() <= parameters.keys():
                self.options[option.name] = option.value_of(parameters)
        return True


def commands_of(manifest: Manifest) -> list[str]:
    """Commands that make a data set DIR again; options at their defaults are left out.

    One `generate`; where a model had another seed or precision than those before it, it was added
    later, and so an `add` follows. The precision is always said, since its default depends on the
    machine; except beside 16-bit depth, which is never computed in less than fp32: then the other
    networks had the precision that `auto` means on a machine like the one that made the set.

    Returns:
        Command lines for a POSIX shell, in the order in which to run them.
    """
    seed = manifest.recipe.get("seed", 0)
    first, *later = runs = _runs(manifest, seed)
    recipe = dict(manifest.recipe)
    if first.caption is None:
        caption = recipe.get("caption")
        recipe["caption"] = _SOURCE_ALONE.get(str(caption), caption)
    # What follows from the resolution need not be said.
    if "resolution" in recipe and recipe.get("min_side") == max(1, recipe["resolution"] // 2):
        del recipe["min_side"]
    words = ["controlset", "generate", shlex.quote(manifest.source), "--output", "DIR"]
    commands = [" ".join([*words, *_flags_of(runs[0]), *_flags(recipe, first.known)])]
    for run in later:
        said = {"caption": run.caption, "seed": None if run.seed == seed else run.seed}
        words = ["controlset", "add", "DIR", *_flags_of(run), *_flags(said, run.known)]
        commands.append(" ".join(words))
    given = recipe.get("import_condition") or ()
    added = [asked for asked in _imported(manifest) if asked not in given]
    if added:
        words = ["controlset", "add", "DIR", "--import-condition", *map(shlex.quote, added)]
        commands.append(" ".join(words))
    if manifest.latents is not None:
        commands.append(_command_of_latents(LatentInfo.from_json(manifest.latents)))
    return commands


def _imported(manifest: Manifest) -> Iterator[str]:
    """`NAME=WHERE` of every imported condition."""
    for name, record in manifest.annotators.items():
        if is_imported(record):
            yield f"{name}={record['parameters']['imported']}"


def _command_of_latents(info: LatentInfo) -> str:
    words = ["controlset", "add", "DIR", "--latents", shlex.quote(info.base)]
    flips = ["--latent-flips"] if info.flips else []
    return " ".join([*words, *flips, "--precision", info.precision])


def _runs(manifest: Manifest, seed: int) -> list[_Command]:
    """Models in the order of their columns, cut where they cannot have come from one run."""
    known = all_options()
    runs = [_Command(known=known, seed=seed)]
    for name, record in manifest.annotators.items():
        if is_imported(record):
            continue  # the recipe says --import-condition, or an `add` of its own
        # Another seed or precision: it was added later.
        if not runs[-1].takes(name, record["parameters"]):
            runs.append(_Command(known=known))
            runs[-1].takes(name, record["parameters"])
        runs[-1].conditions.append(name)
    captioner = manifest.captioner
    if captioner is None:
        return runs
    name, mode = captioner["name"], manifest.recipe.get("caption")
    if mode in _SOURCE_ALONE and runs[0].takes(name, captioner["parameters"]):
        runs[0].caption = mode
        return runs
    if len(runs) == 1 or not runs[-1].takes(name, captioner["parameters"]):
        runs.append(_Command(known=known))
        runs[-1].takes(name, captioner["parameters"])
    runs[-1].caption = name
    return runs


def _flags_of(run: _Command) -> Iterator[str]:
    options = dict(run.options)
    if run.precision == "fp32" or not run.has_fixed_precision:
        options["precision"] = run.precision
    if run.conditions:
        yield "--conditions"
        yield from (shlex.quote(name) for name in run.conditions)
    yield from _flags(options, run.known)


def _flags(values: Mapping[str, Any], known: Mapping[str, tuple[Option, ...]]) -> Iterator[str]:
    """Flags of what is not at its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(GenerateConfig)}
    defaults |= {option.name: option.default for options in known.values() for option in options}
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        if value is None or value == defaults.get(name, dataclasses.MISSING):
            continue
        if isinstance(value, bool):
            yield flag if value else "--no-" + flag[2:]
        elif isinstance(value, list | tuple):
            yield from (flag, *(shlex.quote(str(word)) for word in value))
        elif str(value).startswith("-"):
            yield shlex.quote(f"{flag}={value}")  # or it would be taken for a flag
        else:
            yield from (flag, shlex.quote(str(value)))
