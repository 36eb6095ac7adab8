"""Files of a data set against its manifest: bytes, sums, schema, layout. Never looks at a pixel."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from schemas.dataset import read_small
from schemas.documents import parse_json
from schemas.errors import ConfigError
from schemas.manifest import (
    ADDING_DIR,
    CARD_NAME,
    MANIFEST_NAME,
    PREVIEW_NAME,
    RECORDS_DIR,
    RUN_NAME,
    FileRecord,
    Manifest,
    ShardRecord,
    read_record,
)
from schemas.shards import ShardReader, path_inside
from schemas.triple import FOOTER_KEY, REJECTS, SHARD_KEY, rejects_schema, triple_schema

ROW_GROUP_ROWS = 100
ROW_GROUP_BYTES = 300 * 1000 * 1000  # 100 MB are aimed at; above 286 MiB the Hub cannot show them
FINDINGS_KEPT = 20  # of each check; a broken set has as many as it has rows
_READ_BYTES = 1 << 20
_DAMAGE = (OSError, pa.ArrowException, ConfigError)


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
class DatasetFolder:
    """A data set that is being verified."""

    files: pafs.FileSystem
    root: str
    manifest: Manifest

    def at(self, path: str) -> str:
        """Full path of a file of the data set."""
        return f"{self.root}/{path}"

    def open(self, file: FileRecord) -> ShardReader:
        """Open one of its Parquet files.

        Raises:
            ConfigError: gone, torn or not what the manifest says.
        """
        types = self.manifest.column_types if file.path.startswith("data/") else REJECTS
        path = path_inside(self.files, self.root, file.path)
        return ShardReader(path, where=path, filesystem=self.files, columns=types, rows=file.rows)


def check_files(shard: ShardRecord, dataset: DatasetFolder, check: Check) -> bool:
    """Whether every file of the shard is there and whole."""
    # A list: every file is looked at, not only those up to the first bad one.
    return all([_check_file(file, dataset, check) for file in shard.files])


def _check_file(file: FileRecord, dataset: DatasetFolder, check: Check) -> bool:
    check.looked_at += 1
    digest = hashlib.sha256()
    size = 0
    try:
        path = path_inside(dataset.files, dataset.root, file.path)
        with dataset.files.open_input_stream(path) as stream:
            # In pieces, since it may lie in a bucket.
            while chunk := stream.read(_READ_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except (OSError, ConfigError) as error:
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


def check_strays(dataset: DatasetFolder) -> Check:
    """Files that the manifest does not know would be read by everybody who globs."""
    check = Check(name="nothing unknown lies in the folder (README.md, preview.html not read)")
    shards = dataset.manifest.shards
    expected = {
        MANIFEST_NAME,
        CARD_NAME,
        PREVIEW_NAME,
        RECORDS_DIR,
        "data",
        "rejects",
        f"{RECORDS_DIR}/{RUN_NAME}",
        ADDING_DIR,
        *(file.path for file in dataset.manifest.files),
        *(f"{RECORDS_DIR}/{shard.name}.json" for shard in shards),
    }
    for folder in ("", "data", "rejects", RECORDS_DIR):
        selector = pafs.FileSelector(dataset.at(folder), allow_not_found=True)
        for found in dataset.files.get_file_info(selector):
            path = f"{folder}/{found.base_name}".lstrip("/")
            hidden = not folder and found.base_name.startswith(".")  # of git, or of the hub
            check.looked_at += 1
            if path not in expected and not hidden:
                check.find(f"{path}: need only files of the manifest; delete it")
    return check


def check_identity_file(dataset: DatasetFolder) -> Check:
    """What `generate` and `add` would take the folder for; a copy may come without it."""
    check = Check(name="manifest and records have no other fields, and one recipe")
    check.looked_at += 1
    manifest = dataset.manifest
    where = f"{RECORDS_DIR}/{RUN_NAME}"
    try:
        raw = read_small(dataset.files, dataset.root, MANIFEST_NAME) or b""
        if parse_json(raw, dict[str, Any], where=MANIFEST_NAME) != parse_json(
            manifest.to_json(), dict[str, Any], where=MANIFEST_NAME
        ):
            check.find(f"{MANIFEST_NAME}: need only the fields that we write, got others")
        raw = read_small(dataset.files, dataset.root, where)
        identity = None if raw is None else parse_json(raw, dict[str, Any], where=where)
    except _DAMAGE as error:
        check.find(f"{where}: need the record of a run, got {error}; generate again")
        return check
    if identity is not None:
        check.looked_at += 1
        differing = [name for name, ours in manifest.told.items() if identity.get(name) != ours]
        if differing:
            check.find(f"{where}: need the manifest's {differing[0]}, got another; generate again")
    return check


def check_sums(whole: Sequence[ShardRecord], dataset: DatasetFolder) -> Check:
    """Footer rows, reject rows and records against the manifest."""
    check = Check(name="rows + rejects = images, in every shard")
    for shard in whole:
        check.looked_at += 1
        try:
            with dataset.open(shard.data) as reader:
                rows = reader.metadata.num_rows
            rejects = [] if shard.rejects is None else _rejects(shard.rejects, dataset)
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
        _check_record(shard, dataset, check)
    return check


def _rejects(file: FileRecord, dataset: DatasetFolder) -> list[dict[str, Any]]:
    with dataset.open(file) as reader:
        if not unnamed(reader.schema).equals(rejects_schema(), check_metadata=True):
            raise ConfigError(f"{file.path} has another schema than rejects have")
        return reader.read().to_pylist()


def _check_record(shard: ShardRecord, dataset: DatasetFolder, check: Check) -> None:
    """A record that is there must agree; a copy of a data set may come without records."""
    where = f"{RECORDS_DIR}/{shard.name}.json"
    try:
        raw = read_small(dataset.files, dataset.root, where)
        record = None if raw is None else read_record(raw, where=where)
    except _DAMAGE as error:
        check.find(f"{where}: need a shard record, got {error}; generate again")
        return
    if record is None:
        return
    if record != shard:
        check.find(f"{where}: need the record of the manifest, got another; generate again")


def check_layout(whole: Sequence[ShardRecord], dataset: DatasetFolder) -> Check:
    """Schema, Hugging Face features, footer, row groups, encoding."""
    check = Check(name="schema, footer and Parquet layout")
    for shard in whole:
        check.looked_at += 1
        try:
            with dataset.open(shard.data) as reader:
                schema, metadata = reader.schema, reader.metadata
            raw = (schema.metadata or {}).get(FOOTER_KEY, b"")
            footer = parse_json(raw, dict[str, Any], where=shard.data.path)
        except _DAMAGE as error:
            check.find(f"{shard.data.path}: need a shard's footer, got {error!r}; generate again")
            continue
        # A footer that does not name them says that there are none.
        ours = {"latents": None, "columns": None} | dataset.manifest.told
        if {name: footer.get(name) for name in ours} != ours:
            check.find(f"{shard.data.path}: need the manifest's recipe in the footer, got another")
        if not unnamed(schema).equals(
            triple_schema(dataset.manifest.conditions, footer), check_metadata=True
        ):
            check.find(
                f"{shard.data.path}: need the columns and features of schema version "
                f"{dataset.manifest.schema_version}, got {schema.names}"
            )
        for problem in _layout_problems(metadata):
            check.find(f"{shard.data.path}: {problem}")
    return check


def unnamed(schema: pa.Schema) -> pa.Schema:
    """Without the shard's own name, which the reader has checked."""
    metadata = schema.metadata or {}
    return schema.with_metadata({key: metadata[key] for key in metadata if key != SHARD_KEY})


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
