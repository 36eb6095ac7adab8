"""Who owns the output folder: one run at a time, one recipe from its first shard on."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, NotRequired, TypedDict

from pipeline.add.swap import clear_staging, finish_adding, pending_manifest
from pipeline.job import Job
from pipeline.output import store
from pipeline.output.finalize import is_shard_file
from schemas.documents import as_record, parse_json
from schemas.errors import ConfigError
from schemas.files import locked
from schemas.manifest import (
    ADDING_DIR,
    CARD_NAME,
    MANIFEST_NAME,
    PREVIEW_NAME,
    RECORDS_DIR,
    RUN_NAME,
)
from schemas.shards import check_inside

_FOLDERS = ("data", "rejects", RECORDS_DIR)
_FILES = (CARD_NAME, PREVIEW_NAME, MANIFEST_NAME)


@contextlib.contextmanager
def holding_output(job: Job) -> Iterator[None]:
    """Hold the output folder for one run.

    Deletes temporary files of runs that were killed. Locks a local folder against a second run; the
    lock goes with the process, however it ends.

    Raises:
        ConfigError: the folder holds something else, was made by another configuration, or another
            run is writing there.
        OutputError: it cannot be written.
    """
    output = job.output
    with contextlib.ExitStack() as stack:
        if store.is_local(output):
            with store.writing(output):
                os.makedirs(output, exist_ok=True)
            stack.enter_context(locked(output))
            check_folders(output)
            if not job.config.overwrite:
                _finish_own_addition(job)
        if job.config.overwrite and _identity_of(output) is not None:
            delete_dataset(output)  # other files that lie there stay
        else:  # also where nobody owns it: nothing is deleted, and the check says what lies there
            check_identity(job)
        remove_temporary(output)
        store.commit_text(_identity_text(job), f"{output}/{RECORDS_DIR}/{RUN_NAME}")
        yield
        if store.is_local(output):
            remove_temporary(output)  # of workers elsewhere that died while the run went on


class _Made(TypedDict, total=False):
    parameters: dict[str, Any]


class _Latents(TypedDict, total=False):
    base: str


class _Identity(TypedDict):
    """What is relied on in the record of a run; there is more."""

    recipe: dict[str, Any]
    annotators: NotRequired[dict[str, _Made] | None]
    captioner: NotRequired[_Made | None]
    latents: NotRequired[_Latents | None]


def check_folders(output: str) -> None:
    """Refuse a local folder whose parts are links to elsewhere: files there would be deleted.

    Raises:
        ConfigError: says which link, and where it leads.
    """
    for folder in ("", f"{ADDING_DIR}/"):
        for name in _FOLDERS:
            check_inside(output, f"{folder}{name}")


def _finish_own_addition(job: Job) -> None:
    """Take the last steps of an addition to what would be this job's own data set.

    Raises:
        ConfigError: it is another one's.
    """
    waiting, text = pending_manifest(job.output), _identity_of(job.output)
    if waiting is None or text is None:
        return
    where = f"{job.output}/{RECORDS_DIR}/{RUN_NAME}"
    theirs = parse_json(text, dict[str, Any], where=where, advice="use --overwrite")
    if changes(theirs | waiting.told, json.loads(_identity_text(job))):
        raise ConfigError(
            f"{job.output}: need a data set at rest, but an addition of columns waits to be "
            f"finished; run `controlset add {job.output}`, choose another --output, or delete it "
            "with --overwrite"
        )
    finish_adding(job.output)


def check_identity(job: Job) -> None:
    """Refuse an output folder that is not this job's.

    Raises:
        ConfigError: says which options differ, or what else lies there.
    """
    output = job.output
    text = _identity_of(output)
    if text is None:
        others = [
            name
            for name in store.names_in(output)
            # Both are left by a run that was killed before its identity was whole.
            if name != RECORDS_DIR and not name.startswith(store.TEMP_PREFIX)
        ]
        if others:
            raise ConfigError(
                f"{output}: need an empty folder or a data set of controlset, "
                f"found {', '.join(others[:3])}; choose another --output"
            )
        return
    # A run that ended before its first shard (its source was refused) binds nobody. In a bucket
    # there is no lock that would tell that it ended.
    if store.is_local(output) and not _holds_shards(output):
        return
    where = f"{output}/{RECORDS_DIR}/{RUN_NAME}"
    theirs = parse_json(text, dict[str, Any], where=where, advice="use --overwrite")
    as_record(theirs, _Identity, where=where, advice="use --overwrite")
    differences = _differences(theirs, json.loads(_identity_text(job)))
    if differences:
        raise ConfigError(
            f"{output}: holds a data set made with {'; '.join(differences)}; "
            "choose another --output, or delete it with --overwrite"
        )


def _holds_shards(output: str) -> bool:
    """Whether a run committed something: a shard, its rejects or its record, or a manifest."""
    return store.read_text(f"{output}/{MANIFEST_NAME}") is not None or any(
        is_shard_file(name)
        for folder in (*_FOLDERS, *(f"{ADDING_DIR}/{name}" for name in _FOLDERS))
        for name in store.names_in(f"{output}/{folder}")
    )


def delete_dataset(output: str) -> None:
    """Delete the files of a data set, and nothing else that may lie in the folder.

    The identity stays until the next run replaces it: the folder never looks like somebody else's.
    """
    with store.writing(output):
        store.remove(f"{output}/{MANIFEST_NAME}")  # first: from here on it is not complete
        clear_staging(output)
        for folder in _FOLDERS:
            for name in filter(is_shard_file, store.names_in(f"{output}/{folder}")):
                store.remove(f"{output}/{folder}/{name}")
        for name in _FILES:
            store.remove(f"{output}/{name}")


def _identity_of(output: str) -> str | None:
    """Who owns the folder; None where nobody does."""
    with store.writing(output):
        return store.read_text(f"{output}/{RECORDS_DIR}/{RUN_NAME}")


def _identity_text(job: Job) -> str:
    source = job.config.source
    if store.is_local(source):
        # A relative path names another source where the command runs in another folder.
        source = os.path.abspath(source)
    return json.dumps({"source": source} | job.footer, indent=1, sort_keys=True) + "\n"


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Options that differ; the rest of the identity only if no option does."""
    options = changes(_options(theirs), _options(ours))
    return options or changes(theirs, ours)


def _options(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for: the recipe, and each annotator's and the captioner's parameters."""
    annotators = identity.get("annotators") or {}
    options = {**identity.get("recipe", {}), "conditions": " ".join(annotators)}
    options["latents"] = (identity.get("latents") or {}).get("base")
    models = {**annotators, "captioner": identity.get("captioner") or {}}
    for name, record in models.items():
        for parameter, value in record.get("parameters", {}).items():
            options[f"{name} {parameter}"] = value
    return options


def changes(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """`name=theirs (now ours)` of whatever differs, by name."""
    return [
        f"{name}={theirs.get(name)} (now {ours.get(name)})"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]


def remove_temporary(output: str) -> None:
    """Delete what a killed run left half written; the caller holds the lock."""
    for folder in (output, *(f"{output}/{name}" for name in _FOLDERS)):
        for name in store.names_in(folder):
            if store.is_temporary(name):
                store.remove(f"{folder}/{name}")
