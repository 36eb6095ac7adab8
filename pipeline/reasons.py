"""What each reject reason means to the person who owns the pictures, and what to do about it."""

from collections.abc import Mapping

from schemas.errors import Reason

ADVICE: Mapping[str, str] = {
    Reason.SOURCE_MISSING: "Listed, but gone when it was read. Run again once the source is still.",
    Reason.SOURCE_CHANGED: "Changed between listing and reading. Run again once it is still.",
    Reason.SOURCE_UNREADABLE: "No permission to read it, or a disk error. Check its rights.",
    Reason.NOT_A_FILE: "A folder or device with a picture's name. Nothing to do.",
    Reason.UNSAFE_NAME: "A tar member that points outside of its archive. Pack the tar again.",
    Reason.DUPLICATE_NAME: "The same name twice in one tar; the first one was kept.",
    Reason.BROKEN_CONTAINER: "The tar or Parquet file is damaged. Copy or download it again.",
    Reason.NO_IMAGE_COLUMN: "Name the column that holds the image with --image-column.",
    Reason.NULL_IMAGE: "The cell is empty in the source table. Nothing to do.",
    Reason.EMPTY_FILE: "The file has no bytes: often a download that failed. Fetch it again.",
    Reason.NOT_AN_IMAGE: "No known picture format: often an HTML error page. Fetch it again.",
    Reason.TRUNCATED: "Ends before its last pixel: a download that broke off. Fetch it again.",
    Reason.CORRUPT: "Starts as a picture, but does not decode. Fetch it again.",
    Reason.DAMAGED: "Some of its pixels are lost, e.g. the lower half is grey. Fetch it again.",
    Reason.UNSUPPORTED_PIXELS: "Pixel values of unknown range, e.g. float TIFF. Convert it first.",
    Reason.TOO_MANY_PIXELS: "Larger than --max-pixels; raise that if you trust the source.",
    Reason.TOO_SMALL: "The shorter side is under --min-side; it would have to be enlarged a lot.",
    Reason.TOO_ELONGATED: "Longer and thinner than --max-aspect allows; a crop would lose most.",
    Reason.NO_CAPTION: "The image was kept without text. Add a caption file, or caption the image.",
    Reason.BAD_CAPTION: "Kept without text: the caption is not UTF-8 or JSON, or repeats itself.",
    Reason.NO_PERSON: "Nobody was found; the pose is null. --keep-empty-pose stores a black map.",
    Reason.NOT_FINITE: "The network gave NaN for this image. Try --precision fp32.",
    Reason.BAD_MAP: "The annotator gave a map of another size or type: a bug in it.",
    Reason.ANNOTATOR_FAILED: "The annotator fails on this image alone; its error is in the detail.",
    Reason.OUT_OF_MEMORY: "Not enough memory even for this image alone. Use a larger machine.",
}


def advice_for(reason: str) -> str:
    """A sentence or two for a person; empty for a reason that this release does not know."""
    return ADVICE.get(reason, "")
