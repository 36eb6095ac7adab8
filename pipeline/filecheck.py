"""Files of a data set against its manifest: bytes, sums, schema, layout. Never looks at a pixel."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from schemas.manifest import RECORDS_DIR, FileRecord, Manifest, ShardRecord
from schemas.triple import FOOTER_KEY, Condition, rejects_schema, triple_schema

ROW_GROUP_ROWS = 100
ROW_GROUP_BYTES = 300 * 1000 * 1000  # 100 MB are aimed at; above 286 MiB the Hub cannot show them
FINDINGS_KEPT = 20
_READ_BYTES = 1 << 20
_DAMAGE = (OSError, pa.ArrowException, ValueError, KeyError, OverflowError, MemoryError)


@dataclasses.dataclass(kw_only=True, slots=True)
class Check:
    """One question, how many things were looked at, and what was wrong."""

    name: str
    looked_at: int = 0
    found: int = 0
    findings: list[str] = dataclasses.field(default_factory=list)  # the first ones

    def find(self, finding: str) -> None:
        """Add a finding in the form *where: need rule, got value; do this*."""
        self.found += 1
        if len(self.findings) < FINDINGS_KEPT:
            self.findings.append(finding)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A data set that is being verified."""

    files: pafs.FileSystem
    root: str
    manifest: Manifest

    def at(self, path: str) -> str:
        """Full path of a file of the data set."""
        return f"{self.root}/{path}"

    def parquet(self, path: str) -> pq.ParquetFile:
        """Open one of its Parquet files."""
        return pq.ParquetFile(self.at(path), filesystem=self.files)


def check_files(shard: ShardRecord, place: Place, check: Check) -> bool:
    """Whether every file of the shard is there and whole."""
    expected = [file for file in (shard.data, shard.rejects) if file is not None]
    return all([_check_file(file, place, check) for file in expected])


def _check_file(file: FileRecord, place: Place, check: Check) -> bool:
    check.looked_at += 1
    digest = hashlib.sha256()
    size = 0
    try:
        with place.files.open_input_stream(place.at(file.path)) as stream:
            while chunk := stream.read(_READ_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        check.find(f"{file.path}: need a file that can be read, got {error}; generate again")
        return False
    if size != file.size_bytes:
        check.find(f"{file.path}: need {file.size_bytes} bytes, got {size}; generate again")
        return False
    if digest.hexdigest() != file.sha256:
        check.find(
            f"{file.path}: need sha256 {file.sha256[:16]}…, got {digest.hexdigest()[:16]}…; "
            "delete the file and generate again"
        )
        return False
    return True


def check_strays(place: Place) -> Check:
    """Files that the manifest does not know would be read by everybody who globs."""
    check = Check(name="nothing else lies in data/ and rejects/")
    expected = {
        file.path
        for shard in place.manifest.shards
        for file in (shard.data, shard.rejects)
        if file is not None
    }
    for folder in ("data", "rejects"):
        selector = pafs.FileSelector(place.at(folder), allow_not_found=True)
        for found in place.files.get_file_info(selector):
            check.looked_at += 1
            if f"{folder}/{found.base_name}" not in expected:
                check.find(
                    f"{folder}/{found.base_name}: need only files of the manifest; delete it"
                )
    return check


def check_sums(whole: Sequence[ShardRecord], place: Place) -> Check:
    """Footer rows, reject rows and records against the manifest."""
    check = Check(name="rows + rejects = images, in every shard")
    for shard in whole:
        check.looked_at += 1
        try:
            rows = place.parquet(shard.data.path).metadata.num_rows
            rejects = [] if shard.rejects is None else _rejects(shard.rejects, place)
        except _DAMAGE as error:
            check.find(f"{shard.name}: need Parquet files, got {error}; generate again")
            continue
        images = sum(row["kind"] is None for row in rejects)
        if (rows, images) != (shard.data.rows, shard.rejected_images):
            check.find(
                f"{shard.name}: need {shard.data.rows} rows and {shard.rejected_images} rejected "
                f"images, got {rows} and {images}; generate again"
            )
        reasons: dict[str, int] = {}
        for row in rejects:
            reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
        if reasons != dict(shard.reasons):
            check.find(f"{shard.name}: need reasons {dict(shard.reasons)}, got {reasons}")
        _check_record(shard, place, check)
    return check


def _rejects(file: FileRecord, place: Place) -> list[dict[str, Any]]:
    table = place.parquet(file.path).read()
    if not table.schema.equals(rejects_schema(), check_metadata=True):
        raise ValueError(f"{file.path} has another schema than rejects have")
    return table.to_pylist()


def _check_record(shard: ShardRecord, place: Place, check: Check) -> None:
    """A record that is there must agree; a copy of a data set may come without records."""
    where = f"{RECORDS_DIR}/{shard.name}.json"
    if place.files.get_file_info(place.at(where)).type != pafs.FileType.File:
        return
    try:
        with place.files.open_input_stream(place.at(where)) as stream:
            record = ShardRecord.from_json(json.loads(stream.read()))
    except (*_DAMAGE, TypeError) as error:
        check.find(f"{where}: need a shard record, got {error!r}; generate again")
        return
    if record != shard:
        check.find(f"{where}: need the record of the manifest, got another; generate again")


def check_layout(whole: Sequence[ShardRecord], place: Place) -> Check:
    """Schema, Hugging Face features, footer, row groups, encoding."""
    check = Check(name="schema, footer and Parquet layout")
    conditions = [
        Condition(name=name, stats=record["stats"])
        for name, record in place.manifest.annotators.items()
    ]
    for shard in whole:
        check.looked_at += 1
        try:
            reader = place.parquet(shard.data.path)
            footer = json.loads((reader.schema_arrow.metadata or {})[FOOTER_KEY])
        except _DAMAGE as error:
            check.find(f"{shard.data.path}: need a shard's footer, got {error!r}; generate again")
            continue
        manifest = place.manifest
        ours = {
            "recipe": manifest.recipe,
            "annotators": manifest.annotators,
            "captioner": manifest.captioner,
            "latents": manifest.latents,
        }
        if {name: footer.get(name) for name in ours} != ours:
            check.find(f"{shard.data.path}: need the manifest's recipe in the footer, got another")
        if not reader.schema_arrow.equals(triple_schema(conditions, footer), check_metadata=True):
            check.find(
                f"{shard.data.path}: need the columns and features of schema version "
                f"{place.manifest.schema_version}, got {reader.schema_arrow.names}"
            )
        for problem in _layout_problems(reader.metadata):
            check.find(f"{shard.data.path}: {problem}")
    return check


def _layout_problems(metadata: pq.FileMetaData) -> Iterator[str]:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        too_large = group.num_rows > 1 and group.total_byte_size > ROW_GROUP_BYTES
        if group.num_rows > ROW_GROUP_ROWS or too_large:
            yield (
                f"row group {number}: need at most {ROW_GROUP_ROWS} rows and {ROW_GROUP_BYTES} "
                f"bytes, got {group.num_rows} and {group.total_byte_size}"
            )
        for position in range(group.num_columns):
            column = group.column(position)
            dictionary = {"PLAIN_DICTIONARY", "RLE_DICTIONARY"} & set(column.encodings)
            if column.compression != "UNCOMPRESSED" or dictionary:
                yield (
                    f"{column.path_in_schema}: need plain, uncompressed pages, got "
                    f"{column.compression} {column.encodings}"
                )
