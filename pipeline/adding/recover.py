"""Before a data set is read: take the last steps of an addition that was interrupted. No Beam."""

import os

from schemas.manifest import MANIFEST_NAME, RECORDS_DIR


def recover(path: str) -> None:
    """Finish an addition that was past the point of no return.

    Args:
        path: folder or URI of a data set.

    Raises:
        ConfigError: another run is finishing it just now.
        OutputError: the folder cannot be written.
    """
    folder = path.removeprefix("file://")
    if not os.path.exists(f"{folder}/{RECORDS_DIR}/adding/{MANIFEST_NAME}"):
        return
    from pipeline.adding.swap import finish_adding
    from pipeline.claim import locked, remove_temporary

    with locked(folder):
        finish_adding(folder)
        remove_temporary(folder)
