"""What the functions return: small objects over what lies on disk, which show it in a notebook.

None holds numbers of its own: each property reads the file that the command wrote, so an object
made of a folder (`controlset.TrainedRun("run")`) is the same as the one that training returned.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from controlset.refusals import no_condition
from schemas.dataset import Dataset, example, open_dataset
from schemas.documents import read_checked
from schemas.errors import ConfigError, Rejected
from schemas.files import read_plain
from schemas.manifest import Manifest
from schemas.pixels import decode_stored_rgb

if TYPE_CHECKING:
    from pipeline.output.pages import MapForm

_SHOWN_ROWS = 4
_SIDE_PX = 176  # of a picture of a row
_WIDE_PX = 1600  # of a figure; twice the width of a notebook's column, for sharp screens
_AS_IT_IS_BYTES = 1_500_000  # a larger figure is made smaller
_TEXT_LIMIT = 200  # characters of a caption

_FRAGMENT = """\
<div style="max-width: 100%; overflow-x: auto">
<p style="margin: 0 0 8px"><b>{{ title }}</b>
{%- for fact in facts %} &middot; {{ fact }}{% endfor %}</p>
{% if header %}
<table style="margin: 0 0 8px; border-collapse: collapse">
<tr>{% for name in header %}
<th style="text-align: left; padding: 4px 8px">{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for cell in row %}
<td style="text-align: left; vertical-align: top; padding: 4px 8px
{%- if numbers %}; white-space: pre{% endif %}">
{%- if cell is string %}{{ cell }}{% elif cell is none %}none{% else %}
<img src="{{ cell.uri }}" alt="{{ cell.label }}"
 style="width: {{ cell.width }}px; max-width: none; image-rendering: {{ cell.rendering }}">
{%- endif %}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endif %}
{% for picture in pictures %}
<div style="margin: 0 0 8px"><img src="{{ picture.uri }}" alt="{{ picture.label }}"
 style="max-width: 100%"></div>
{% endfor %}
{% for path in paths %}
<div style="opacity: 0.7; font-size: 90%">{{ path }}</div>
{% endfor %}
</div>
"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Shown:
    """A picture in a page."""

    uri: str
    label: str
    width: int = 0  # px on the screen
    rendering: str = "auto"


def _html(
    title: str,
    facts: Sequence[str] = (),
    *,
    header: Sequence[str] = (),
    rows: Sequence[Sequence[str | _Shown | None]] = (),
    pictures: Sequence[_Shown] = (),
    paths: Sequence[Path] = (),
    numbers: bool = False,
) -> str:
    """A piece of a page; styles stand in it, since a notebook takes no others.

    `numbers` keeps the lines of cells as they are.
    """
    from pipeline.output.pages import templates

    fragment = templates().from_string(_FRAGMENT)  # escapes whatever came from data
    return fragment.render(
        title=title,
        facts=facts,
        header=header,
        rows=rows,
        pictures=pictures,
        paths=paths,
        numbers=numbers,
    )


def _tile(label: str, pixels: np.ndarray | None, form: "MapForm | None") -> _Shown | None:
    """A row's picture in small; of little ones each pixel stays a square."""
    from pipeline.output.pages import data_uri, map_thumbnail, photo_jpeg

    if pixels is None:
        return None
    tiny = max(pixels.shape[:2]) <= _SIDE_PX
    if form is None and not tiny:
        encoded = photo_jpeg(pixels, _SIDE_PX)
    else:  # lossless; a small photograph, too, in which blocks of JPEG would show
        encoded = map_thumbnail(pixels, _SIDE_PX, form or "lines")
    width = round(_SIDE_PX * pixels.shape[1] / max(pixels.shape[:2]))
    return _Shown(
        uri=data_uri(encoded),
        label=label,
        width=width,
        rendering="pixelated" if tiny else "auto",
    )


def _figure(path: Path) -> list[_Shown]:
    """A figure that a command drew; nothing where it is not there or torn."""
    from pipeline.output.pages import data_uri, photo_jpeg

    try:
        stored = read_plain(path)
        pixels = decode_stored_rgb(stored)
    except (OSError, Rejected):
        return []
    small = len(stored) <= _AS_IT_IS_BYTES  # a notebook keeps the picture in its file
    uri = data_uri(stored if small else photo_jpeg(pixels, _WIDE_PX))
    return [_Shown(uri=uri, label=path.name)]


class Rows:
    """The rows of a data set, or of a part of it: a map-style dataset for torch's `DataLoader`.

    `rows[i]` is a dict of

    - `key`: the row's name, stable across runs;
    - `image`: (H, W, 3) uint8, RGB, 0..255;
    - `text`: its caption, `""` where it has none;
    - each condition's map, e.g. `canny`: (H, W) uint8 of one-bit (0 or 255) and grey maps, (H, W)
      uint16 of 16-bit ones, (H, W, 3) uint8 of coloured ones; exactly the image's size;
    - each of `columns` as it is stored.

    Arrays are the caller's own and may be written to. An object goes to other processes as what it
    was opened with, so a loader may have workers.

    Args:
        path: folder or URI of a complete data set.
        split: `train` or `validation`; None is all of it.
        conditions: whose maps rows have; rows that lack one of them are left out. None: all, and a
            map that a row has not is None, which torch's default collate does not take.
        columns: other columns that rows have.

    Raises:
        ConfigError: not there, not complete, or without such a split or column.
    """

    def __init__(
        self,
        path: str,
        *,
        split: str | None = None,
        conditions: Sequence[str] | None = None,
        columns: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.split = split
        self.dataset: Dataset = open_dataset(path, split=split)
        """The same as it is stored: Arrow batches, encoded bytes, rejects."""
        # Conditions are read from a shard's schema, and a split may have no shard.
        there = self.dataset.conditions if len(self.dataset) else []
        self.conditions: list[str] = there if conditions is None else _several(conditions)
        self._columns = _several(columns)
        self._asked = conditions
        for name in self.conditions:
            if name not in there:
                raise no_condition(path, name, there)
        for name in self._columns:
            if name not in self.dataset.schema.names:
                names = ", ".join(self.dataset.schema.names)
                raise ConfigError(f"{path}: need a column out of {names}, got {name!r}")
        # Numbers of rows in the data set: a range costs nothing, whatever the set's size.
        self._numbers: Sequence[int] = range(len(self.dataset))
        if conditions is not None:
            self._numbers = self._whole()

    def _whole(self) -> list[int]:
        """Which rows have every map. Of maps only `path` is read, which is null where they are."""
        narrow = [f"{name}.path" for name in self.conditions]
        numbers, start = list[int](), 0
        for shard in self.dataset.shards if narrow else []:  # one open file at a time
            with self.dataset.reader(shard) as reader:
                table = reader.read(narrow)
            valid = zip(
                *(table[name].is_valid().to_pylist() for name in self.conditions), strict=True
            )
            numbers += [start + place for place, each in enumerate(valid) if all(each)]
            start += table.num_rows
        return numbers if narrow else list(range(len(self.dataset)))

    @property
    def manifest(self) -> Manifest:
        """What the data set says of itself: recipe, annotators, counts, rejects by reason."""
        return self.dataset.manifest

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = self._numbers[index]
        wanted = ["key", "image", "text", *self.conditions, *self._columns]
        row = self.dataset.row(number, list(dict.fromkeys(wanted)))  # a column may be asked twice
        found = example(row, self.conditions)
        return {
            "key": found.key,
            "image": found.image.copy(),  # decoded pictures are read-only, which torch warns of
            "text": found.text or "",  # torch's default collate takes no None
            **{name: None if map is None else map.copy() for name, map in found.maps.items()},
            **{name: row[name] for name in self._columns},
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __fspath__(self) -> str:
        return self.path

    def __reduce__(self) -> tuple[Any, ...]:
        # Open files do not go to another process; a loader's worker opens its own.
        again = functools.partial(
            Rows, split=self.split, conditions=self._asked, columns=self._columns
        )
        return again, (self.path,)

    def __repr__(self) -> str:
        split = "" if self.split is None else f", split={self.split!r}"
        names = ", ".join(self.conditions)
        return f"Rows({self.path!r}{split}): {len(self):,} rows with {names or 'no condition'}"

    def _repr_html_(self) -> str:
        """A few rows with their maps."""
        from pipeline.output.pages import form_of, shortened

        records = self.manifest.annotators
        count = min(_SHOWN_ROWS, len(self))
        # Spread over the set: neighbours may be frames of one film.
        shown = [self[round(place * (len(self) - 1) / max(1, count - 1))] for place in range(count)]
        rows: list[list[str | _Shown | None]] = []
        for row in shown:
            text, left_out = shortened(row["text"], _TEXT_LIMIT)
            maps = [
                _tile(name, row[name], form_of(records.get(name, {}))) for name in self.conditions
            ]
            rows.append([_tile("image", row["image"], None), *maps, text + "…" * bool(left_out)])
        splits = {
            split: rows
            for split, rows in self.manifest.rows_of_splits.items()
            if self.split in {None, split}
        }
        facts = [f"{len(self):,} rows", *(f"{name} {count:,}" for name, count in splits.items())]
        if rejected := self.manifest.rejected_images:
            facts.append(f"{rejected:,} images rejected")
        header = ["image", *self.conditions, "text"]
        return _html(f"Data set {self.path}", facts, header=header, rows=rows)


def _several(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


class _Folder:
    """Something that lies in a folder, and may be given wherever its path may."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)


class TrainedRun(_Folder):
    """The folder of a run: a trained ControlNet, and how it came about."""

    @property
    def controlnet(self) -> Path:
        """The network, a diffusers `ControlNetModel` folder."""
        return self.path / "controlnet"

    @property
    def config(self) -> Mapping[str, Any]:
        """The options that it was trained with, from `config.json`."""
        return self._record("config.json").get("config", {})

    @property
    def summary(self) -> Mapping[str, Any]:
        """How it ended, from `summary.json`.

        `step`; `stopped_by`, the signal, None where all steps are done; `seconds` of the last
        process; `samples_per_s`; `loss`, mean of the last lines; `adherence` of the last probe,
        with `floor` and `ceiling` in `bounds`; `snap`, the step at which control was there.
        """
        return self._record("summary.json")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Lines of `metrics.jsonl`: `step`, `loss` and more; `pandas.DataFrame` takes them."""
        return self._lines("metrics.jsonl")

    @property
    def probes(self) -> list[dict[str, Any]]:
        """Lines of `probe.jsonl`: `step`, `adherence`, `gain` and more."""
        return self._lines("probe.jsonl")

    @property
    def curves(self) -> Path:
        """Loss and adherence over steps, PNG; there where the run was probed."""
        return self.path / "curves.png"

    @property
    def strips(self) -> Path:
        """Samples of the probes, one line each, PNG; there where the run was probed."""
        return self.path / "strips.png"

    def _record(self, name: str) -> dict[str, Any]:
        from controlnet.trainer.run_folder import read_record

        return read_record(self.path / name)

    def _lines(self, name: str) -> list[dict[str, Any]]:
        from controlnet.trainer.log import read_journal

        return read_journal(self.path / name).lines

    def __repr__(self) -> str:
        return f"TrainedRun({str(self.path)!r}): {', '.join(self._facts())}"

    def _facts(self) -> list[str]:
        summary = self.summary
        if not summary:  # it is written at the end, also where a signal was the end
            return ["not finished"]
        facts = [f"{summary['step']:,} steps"]
        adherence, bounds = summary.get("adherence"), summary.get("bounds")
        if adherence is not None and bounds:
            ends = f"floor {bounds['floor']:.2f}, ceiling {bounds['ceiling']:.2f}"
            facts.append(f"adherence {adherence:.2f} ({ends})")
        if summary.get("snap") is not None:
            facts.append(f"snapped in by step {summary['snap']:,}")
        if summary.get("stopped_by") is not None:
            facts.append("stopped by a signal; resume=True goes on")
        return facts

    def _repr_html_(self) -> str:
        """What came out, samples over the steps, and the curves."""
        pictures = [*_figure(self.strips), *_figure(self.curves)]
        paths = [self.controlnet]
        return _html(f"Run {self.path}", self._facts(), pictures=pictures, paths=paths)


class Scores(_Folder):
    """The folder of an evaluation: does it obey? Four rows, with 95 % intervals."""

    @property
    def document(self) -> dict[str, Any]:
        """All of it, from `evaluation.json`."""
        return read_checked(
            self.path / "evaluation.json", dict, advice="run `controlset evaluate` again"
        )

    @property
    def table(self) -> list[dict[str, Any]]:
        """One dict for each row and measure; `pandas.DataFrame` takes them.

        `row` (ceiling, model, shuffled, floor), `run` (None where a row is of no run), `measure`,
        `value`, and `low` and `high`, the ends of its 95 % interval. A value that could not be
        computed is None.
        """
        document = self.document
        labels = {measure["name"]: measure["label"] for measure in document["measures"]}
        return [
            {
                "row": row["row"],
                "run": row["run"],
                "measure": labels[name],
                **{part: (value or {}).get(part) for part in ("value", "low", "high")},
            }
            for row in document["rows"]
            for name, value in row["values"].items()
        ]

    def value(
        self, row: str = "model", *, measure: str | None = None, run: str | None = None
    ) -> float | None:
        """One number.

        Args:
            row: ceiling, model, shuffled or floor.
            measure: label of one, as in `table`; None is the first, by which runs are judged.
            run: name of one; None is the first.

        Returns:
            None where it could not be computed.

        Raises:
            ConfigError: there is no such number.
        """
        for line in self.table:
            is_run = run in {None, line["run"]}
            if line["row"] == row and is_run and measure in {None, line["measure"]}:
                return line["value"]
        what = " ".join(filter(None, [row, measure, run]))
        raise ConfigError(f"{self.path}: need a number of this evaluation, got {what!r}")

    @property
    def verdict(self) -> str:
        """Whether the first run obeys, in a sentence, by the rule that the report states."""
        from controlset.report.numbers import verdict_of
        from controlset.report.records import gather

        found = gather(self.path)  # by the report's own code, so that they say the same
        verdict = verdict_of(found, found.document.runs[0].name)
        parts = [verdict.word, verdict.obedience, verdict.number, verdict.beside]
        return "; ".join(filter(None, [*parts, verdict.specificity]))

    @property
    def report(self) -> Path:
        """The page with everything; there unless it was evaluated with `report=False`."""
        return self.path / "report.html"

    @property
    def pictures(self) -> Path:
        """The first rows by key: condition, sample, what the judge sees in it, original; PNG."""
        return self.path / "figures" / "pictures.png"

    @property
    def per_picture(self) -> Path:
        """Score of every picture, Parquet."""
        return self.path / "scores.parquet"

    def __repr__(self) -> str:
        document = self.document
        first = document["measures"][0]
        numbers = [
            f"{_name(row)} {_number(row['values'][first['name']])}" for row in document["rows"]
        ]
        return f"Scores({str(self.path)!r}): {first['label']} {', '.join(numbers)}"

    def _repr_html_(self) -> str:
        """The four rows with intervals, and the sheet of samples."""
        document = self.document
        measures, data = document["measures"], document["data"]
        names = [measure["name"] for measure in measures]
        return _html(
            f"Evaluation {self.path}",
            [f"{data['used']:,} rows of {data['split']}", self.verdict],
            header=["", *(measure["label"] for measure in measures)],
            rows=[
                [_name(row), *(_number(row["values"].get(name), "\n") for name in names)]
                for row in document["rows"]
            ],
            numbers=True,
            pictures=_figure(self.pictures),
            paths=[self.report] if self.report.exists() else [],
        )


def _name(row: Mapping[str, Any]) -> str:
    return " ".join(filter(None, [row["row"], row["run"]]))


def _number(value: Mapping[str, Any] | None, before: str = " ") -> str:
    if value is None or value["value"] is None:
        return "-"
    number = f"{value['value']:.3f}"
    if value["low"] is None:  # a measure without an interval
        return number
    return f"{number}{before}({value['low']:.2f} to {value['high']:.2f})"


@dataclasses.dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures that were drawn; each file holds the options it was drawn with."""

    files: Sequence[Path]
    """As they were written; of several the last one is the grid."""

    @property
    def paths(self) -> Sequence[Path]:
        """The pictures alone."""
        return self.files if len(self.files) == 1 else self.files[:-1]

    @property
    def images(self) -> list[Image.Image]:
        """The pictures, decoded."""
        return [Image.fromarray(decode_stored_rgb(read_plain(path))) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return f"Pictures({', '.join(map(str, self.files))})"

    def _repr_html_(self) -> str:
        """The picture, or the grid with its hints."""
        title = "1 picture" if len(self) == 1 else f"{len(self)} pictures"
        return _html(title, pictures=_figure(self.files[-1]), paths=self.paths)
