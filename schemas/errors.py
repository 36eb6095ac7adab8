"""The two expected failures; everything else is a bug or an outage and flies.

ConfigError   do not start: the command, the configuration or the output place is wrong
Rejected      this element can never succeed: it becomes a row of the rejects table
"""

import enum

from schemas.printable import printable_lines


class ConfigError(Exception):
    """The run must not start (or not go on) as configured.

    Message form: *where: need rule, got value; do this.* What it quotes may be a stranger's, and
    the Python API prints it as it is: control characters are shown as escapes.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable_lines(str(message)))


def need(satisfied: bool, where: str, rule: str, value: object) -> None:
    """Refuse a value of an option that breaks its rule.

    Raises:
        ConfigError: it does.
    """
    if not satisfied:
        raise ConfigError(f"{where}: need {rule}, got {value!r}")


def flag_of(name: str) -> str:
    """An option as it is typed: `--batch-size` for the field `batch_size`."""
    return f"--{name.replace('_', '-')}"


def need_field(config: object, satisfied: bool, name: str, rule: str) -> None:
    """As `need`, of a configuration's field, which is named by its flag."""
    need(satisfied, flag_of(name), rule, getattr(config, name))


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its class where it says nothing."""
    text = str(getattr(error, "message", None) or error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


class NothingKept(ConfigError):
    """A run that went to its end and rejected every image: not a data set, exit status 1."""


class Reason(enum.StrEnum):
    """Why an element was rejected; the closed list that the rejects table and reports use."""

    # the source
    SOURCE_MISSING = "source_missing"  # listed, but gone when it was read
    SOURCE_CHANGED = "source_changed"  # size or time differs from the listing
    SOURCE_UNREADABLE = "source_unreadable"  # permission denied and the like
    NOT_A_FILE = "not_a_file"  # a directory or device with a picture's name
    UNSAFE_NAME = "unsafe_name"  # tar member with an absolute path or `..`
    DUPLICATE_NAME = "duplicate_name"  # the same member name twice in one tar
    BROKEN_CONTAINER = "broken_container"  # the tar or Parquet file cannot be read (further)
    NO_IMAGE_COLUMN = "no_image_column"  # Parquet without one clear image column
    NULL_IMAGE = "null_image"  # Parquet cell without image bytes
    # the picture
    EMPTY_FILE = "empty_file"
    NOT_AN_IMAGE = "not_an_image"  # no known picture format
    TRUNCATED = "truncated"  # ends before its last pixel
    CORRUPT = "corrupt"  # a known format that does not decode
    DAMAGED = "damaged"  # it decodes, but some of its pixels are lost
    UNSUPPORTED_PIXELS = "unsupported_pixels"  # e.g. float TIFF, whose range is not known
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SMALL = "too_small"
    TOO_ELONGATED = "too_elongated"
    # the caption (the image stays, `text` is null)
    NO_CAPTION = "no_caption"
    BAD_CAPTION = (
        "bad_caption"  # not UTF-8, not JSON, not a string; or a model's that repeats itself
    )
    # one map or caption of a model (the image stays, the column is null)
    NO_PERSON = "no_person"  # nobody in the picture: there is no pose to draw
    NOT_FINITE = "not_finite"  # the map holds NaN or infinite values
    BAD_MAP = "bad_map"  # the annotator broke its contract: size, type or range
    MAP_MISSING = "map_missing"  # an imported condition: this picture has none
    MAP_MISFIT = "map_misfit"  # an imported condition image of another aspect than its picture
    ANNOTATOR_FAILED = "annotator_failed"  # it raised for this picture alone
    OUT_OF_MEMORY = "out_of_memory"  # for this picture alone


class Rejected(Exception):
    """This element can never succeed; it becomes a reject row.

    Args:
        reason: from the closed list.
        detail: free text for a person: what was found, with its value.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)  # all args, or it does not unpickle on its way back
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
