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

from pipeline.options import GenerateConfig
from pipeline.pages import templates, visible
from pipeline.preview import reject_lines, stored_size
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
    "crop_y": ("px", "Top edge of the crop in the resized picture (SDXL's micro-conditioning)"),
}

_STATS: Mapping[str, tuple[str, str]] = {
    "low": ("grey levels of gradient", "Lower hysteresis threshold of this row's map"),
    "high": ("grey levels of gradient", "Upper hysteresis threshold of this row's map"),
    "edge_density": ("0 to 1", "Share of the map's pixels that are edges"),
}

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
            splits={
                split: sum(shard.data.rows for shard in shards)
                for split, shards in manifest.splits.items()
            },
            stored_size=stored_size(manifest.recipe),
            command=_fenced(generate_command(manifest), "sh"),
            columns=list(_columns(manifest, schema)),
            annotators=list(_annotators(manifest)),
            rejects=reject_lines(manifest),
            first_split=next(iter(_splits_with_rows(manifest)), "train"),
        )
    )


def generate_command(manifest: Manifest) -> str:
    """The command that makes this data set again; options at their defaults are left out."""
    recipe = dict(manifest.recipe)
    if "resolution" in recipe and recipe.get("min_side") == max(1, recipe["resolution"] // 2):
        del recipe["min_side"]
    defaults = {field.name: field.default for field in dataclasses.fields(GenerateConfig)}
    words = ["controlset", "generate", shlex.quote(manifest.source), "--output", "DIR"]
    for name, value in recipe.items():
        if value is None or value == defaults.get(name, dataclasses.MISSING):
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else "--no-" + flag[2:])
        elif isinstance(value, list | tuple):
            words += [flag, *(shlex.quote(str(one)) for one in value)]
        else:
            words += [flag, shlex.quote(str(value))]
    return " ".join(words)


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


def _features(schema: pa.Schema) -> list[dict[str, str]]:
    """Columns in the card's own notation, which is not the one of the Parquet footer."""
    metadata = json.loads((schema.metadata or {})[b"huggingface"])
    features = metadata["info"]["features"]
    return [
        {
            "name": name,
            "dtype": "image" if features[name]["_type"] == "Image" else features[name]["dtype"],
        }
        for name in schema.names
    ]


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
    for condition, annotator in manifest.annotators.items():
        hint = _HINTS.get(annotator.get("hint_mode"), "PNG")
        meanings[condition] = (hint, f"Map of {condition}, exactly the image's size; null: none")
        for suffix in annotator.get("stats", {}):
            fallback = ("", f"{suffix.replace('_', ' ')} of the {condition} map")
            meanings[f"{condition}_{suffix}"] = _STATS.get(suffix, fallback)
    for feature in _features(schema):
        unit, meaning = meanings.get(feature["name"], ("", ""))
        yield feature["name"], feature["dtype"], unit, meaning


def _annotators(manifest: Manifest) -> Iterator[tuple[str, str, str, str, str]]:
    """(name, revision, parameters, weights, licence)."""
    for name, record in manifest.annotators.items():
        parameters = ", ".join(
            f"{key} = {_range_text(value)}" for key, value in record["parameters"].items()
        )
        weights = "none needed" if record.get("weights") is None else _plain(record["weights"])
        yield name, str(record["revision"]), parameters, weights, str(record.get("licence"))


def _range_text(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        first, last = value
        return str(first) if first == last else f"{first} to {last}, drawn for each image"
    return str(value)


def _plain(weights: Any) -> str:
    if isinstance(weights, Mapping):
        return ", ".join(f"{key} = {value}" for key, value in weights.items())
    return str(weights)


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text)}\n{fence}"
