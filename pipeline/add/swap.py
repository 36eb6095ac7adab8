"""From the old data set to the new one, in steps that can be taken again after any interruption.

Staged shards lie in a hidden folder that is laid out like the data set itself. Its manifest is the
point of no return: until it is there, the data set is the old one; from then on whoever writes next
(`add`, or `generate` with all columns) takes all remaining steps. Meanwhile every row and every
old column can be read, from either file of a shard.
"""

import json
import os
import shutil
from typing import Any

from pipeline.output import store
from pipeline.output.finalize import commit_pages
from pipeline.shard import record_path, record_text
from schemas.documents import parse_json
from schemas.errors import ConfigError
from schemas.manifest import (
    ADDING_DIR,
    MANIFEST_NAME,
    RECORDS_DIR,
    RUN_NAME,
    FileRecord,
    Manifest,
)
from schemas.shards import ShardReader, check_inside


def staging_of(output: str) -> str:
    """Folder of a data set's staged shards; it has `data/`, `rejects/` and records of its own."""
    return f"{output}/{ADDING_DIR}"


def pending_manifest(output: str) -> Manifest | None:
    """The manifest of an addition that was interrupted after the point of no return."""
    if not store.is_local(output):
        return None
    where = f"{staging_of(output)}/{MANIFEST_NAME}"
    check_inside(output, f"{ADDING_DIR}/{MANIFEST_NAME}")
    text = store.read_text(where)
    return None if text is None else Manifest.from_json(text, where=where)


def finish_adding(output: str) -> None:
    """Take the remaining steps of an addition, if there are any. The caller holds the lock.

    Raises:
        ConfigError: a staged file is gone.
        OutputError: the output place refuses; all steps can be taken again.
    """
    manifest = pending_manifest(output)
    if manifest is None:
        return
    with store.writing(output):
        for file in manifest.files:
            _move(file, output)
        for shard in manifest.shards:
            store.commit_text(record_text(shard), record_path(output, shard.name))
        _renew_identity(manifest, output)
        # All shards have one schema, which staging has checked.
        path = f"{output}/{manifest.shards[0].data.path}"
        with store.open_binary(path) as file, ShardReader(file, where=path) as reader:
            schema = reader.schema
        # With the manifest, last of all: from here on the set is complete again.
        commit_pages(manifest, schema, output)
        for shard in manifest.shards:
            if shard.rejects is None:  # its last reject got a caption
                store.remove(f"{output}/rejects/{shard.name}.parquet")
        clear_staging(output)


def clear_staging(output: str) -> None:
    """Delete everything that is staged; its manifest last, so that no step is forgotten."""
    place = staging_of(output)
    if not store.is_local(output) or not os.path.isdir(place):
        return
    for name in os.listdir(place):
        path = f"{place}/{name}"
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif name != MANIFEST_NAME:
            store.remove(path)
    store.remove(f"{place}/{MANIFEST_NAME}")
    os.rmdir(place)


def _move(file: FileRecord, output: str) -> None:
    """Let a staged file replace the old one, unless that is done already."""
    for path in (f"{ADDING_DIR}/{file.path}", file.path):
        check_inside(output, path)
    staged, final = f"{staging_of(output)}/{file.path}", f"{output}/{file.path}"
    if store.size_of(staged) == file.size_bytes:
        os.makedirs(os.path.dirname(final), exist_ok=True)
        store.commit(staged, final)
    # Not staged any more: an interrupted try has moved it, or it is lost.
    elif store.size_of(final) != file.size_bytes:
        raise ConfigError(
            f"{final}: need {file.size_bytes} bytes that `controlset add` had staged, found them "
            "nowhere; generate the data set again"
        )


def _renew_identity(manifest: Manifest, output: str) -> None:
    """Let the folder belong to the command that makes all of it; a copy belongs to nobody."""
    where = f"{output}/{RECORDS_DIR}/{RUN_NAME}"
    text = store.read_text(where)
    if text is None:
        return
    identity = parse_json(text, dict[str, Any], where=where) | manifest.told
    store.commit_text(json.dumps(identity, indent=1, sort_keys=True) + "\n", where)
