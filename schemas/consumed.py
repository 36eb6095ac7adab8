"""Shards against their manifest before somebody learns from them or judges by them.

Sizes always; sha256 once: what was hashed is remembered outside the set, with size, time of change
and inode, so that the second start costs nothing.
"""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.fs as pafs

from schemas.dataset import check_at_rest, filesystem_of
from schemas.documents import read_json
from schemas.errors import ConfigError
from schemas.manifest import FileRecord, ShardRecord
from schemas.shards import path_inside, torn
from schemas.writing import write_json

_MOST_REMEMBERED = 20_000  # files; the oldest are forgotten

Seen = tuple[int, int, int, str]  # size, time of change in ns, inode, sha256


def check_shards(path: str, shards: Iterable[ShardRecord]) -> None:
    """Refuse shards that are not those of the manifest.

    Args:
        path: folder or URI of the data set. In a bucket only sizes are compared: hashing would
            read all of it.
        shards: those that will be read.

    Raises:
        ConfigError: a file is missing, or has another size or content; or an addition waits.

    Cost: one pass over the bytes, on all cores, once.
    """
    check_at_rest(path)
    files, root = filesystem_of(path)
    records = [shard.data for shard in shards]
    for record, info in zip(
        records,
        files.get_file_info([path_inside(files, root, record.path) for record in records]),
        strict=True,
    ):
        _demand(record, root, "bytes", record.size_bytes, info.size)
    if not isinstance(files, pafs.LocalFileSystem):
        return
    remembered = _remembered()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = list(pool.map(lambda one: _seen(f"{root}/{one.path}", remembered), records))
    for record, (_, seen) in zip(records, found, strict=True):
        _demand(record, root, "sha256", record.sha256, seen[3])
    _remember(remembered, dict(found))


def _demand(record: FileRecord, root: str, what: str, need: object, got: object) -> None:
    if need != got:
        found = ValueError(f"{what} {got} where the manifest says {need}")
        raise torn(f"{root}/{record.path}", found)


def _seen(path: str, remembered: dict[str, Seen]) -> tuple[str, Seen]:
    real = os.path.realpath(path)
    status = os.stat(real)
    now = (status.st_size, status.st_mtime_ns, status.st_ino)
    before = remembered.get(real)
    if before is not None and before[:3] == now:
        return real, before
    with open(real, "rb") as opened:
        return real, (*now, hashlib.file_digest(opened, "sha256").hexdigest())


def _place() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "controlset", "hashed-shards.json")


def _remembered() -> dict[str, Seen]:
    try:
        return read_json(_place(), dict[str, Seen])
    except ConfigError:
        return {}  # none yet, or damaged: hashed again


def _remember(before: dict[str, Seen], found: dict[str, Seen]) -> None:
    """Keep it for the next start; a home that cannot be written costs the time of hashing."""
    if all(before.get(path) == seen for path, seen in found.items()):
        return
    kept = [(path, seen) for path, seen in before.items() if path not in found]
    try:
        _place().parent.mkdir(parents=True, exist_ok=True)
        write_json(_place(), dict([*kept, *found.items()][-_MOST_REMEMBERED:]))
    except (OSError, ConfigError):
        return
