"""What a file's name tells, and where it does not, its first bytes: picture, caption, container."""

import posixpath
from collections import Counter
from collections.abc import Callable

from schemas.ledger import Ignored

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .webp .gif .tif .tiff .bmp .dib .avif .heic .heif .jp2 .j2k "
    ".jpx .mpo .ppm .pgm .pbm .pnm .tga".split()
)
UNREAD_SUFFIXES = frozenset(
    ".svg .svgz .jxl .psd .psb .exr .hdr .ico .cur .xcf .eps .ai .qoi .dds .dng .cr2 .cr3 .nef "
    ".arw .raf .orf .rw2 .pef .srw".split()
)
"""Pictures that are not decoded here."""

CAPTION_SUFFIXES = (".txt", ".caption", ".json")  # in this order
TAR_SUFFIXES = frozenset({".tar"})
PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
TABLE_NAMES = (
    # Hugging Face's ImageFolder first, then what others write; the first one that has a line wins.
    *("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.parquet", "metadata.json"),
    *("captions.jsonl", "captions.csv", "captions.tsv", "captions.json"),
    *("meta_cap.json", "meta_cap_dd.json", "meta_clean.json", "meta_lat.json"),  # kohya's
)
_TABLES = frozenset(TABLE_NAMES)
PLAIN_SUFFIXES = frozenset(
    ".txt .caption .json .jsonl .csv .tsv .md .rst .html .htm .xml .yaml .yml .toml .ini .cfg "
    ".log .py .ipynb .sh .js .css .c .h .pdf .doc .docx .zip .7z .rar .gz .bz2 .xz .zst .tgz .tar "
    ".h5 .parquet .pq .arrow .lock .npy .npz .pt .pth .pkl .ckpt .bin .safetensors .onnx .mp4 .mov "
    ".avi .mkv .webm .mp3 .wav .flac .ogg .cls .idx .db .sqlite .mat .ply .obj .tmp .part "
    ".url".split()
)
"""What is certainly no picture: its first bytes are not looked at."""

HEAD_BYTES = 64
_MOST_MISSES = 100  # files of one suffix that were no pictures: the suffix says what they are

_COMPRESSED_TAR_ENDINGS = (
    *(f".tar.{kind}" for kind in ("gz", "zst", "zstd", "xz", "bz2", "lz4", "lzma", "z")),
    *(".tgz", ".tzst", ".txz", ".tbz", ".tbz2"),
)


def split_suffix(name: str) -> tuple[str, str]:
    """Name without its last suffix, and that suffix in lower case.

    An address's query after a picture's suffix, as in `x.jpg?w=800`, belongs to neither.
    """
    dot, start = name.rfind("."), name.rfind("/") + 1
    if dot <= start or name[start] == ".":
        stem, suffix = posixpath.splitext(name)
    else:  # as splitext, in a third of the time: every name of a source comes by several times
        stem, suffix = name[:dot], name[dot:]
    suffix = suffix.lower()
    if "?" in name and suffix not in IMAGE_SUFFIXES:
        before_query, before_suffix = posixpath.splitext(name[: name.index("?")])
        if before_suffix.lower() in IMAGE_SUFFIXES:
            return before_query, before_suffix.lower()
    return stem, suffix


def is_image(name: str) -> bool:
    """Whether the name has a picture's suffix, in any case."""
    return split_suffix(name)[1] in IMAGE_SUFFIXES


def may_be_image(name: str) -> bool:
    """Whether the name is a picture's, or does not tell."""
    suffix = split_suffix(name)[1]
    return suffix not in PLAIN_SUFFIXES and suffix not in UNREAD_SUFFIXES


def is_table(name: str) -> bool:
    """Whether a file of this name, in any case, may be a table of captions."""
    return name[name.rfind("/") + 1 :].lower() in _TABLES


def is_compressed_tar(name: str) -> bool:
    """Whether the name is that of a compressed tar, which nobody can seek in."""
    return name.lower().endswith(_COMPRESSED_TAR_ENDINGS)


def is_tar(name: str) -> bool:
    """Whether the name is that of a tar, compressed or not."""
    return split_suffix(name)[1] in TAR_SUFFIXES or is_compressed_tar(name)


def tar_stem(name: str) -> str:
    """Name of a tar without what says that it is one."""
    for ending in (*_COMPRESSED_TAR_ENDINGS, *TAR_SUFFIXES):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def kind_of(name: str) -> str | None:
    """`images`, `tar` or `parquet`, by the suffix alone; None if it is neither."""
    return _kind_of(name, split_suffix(name)[1])


def _kind_of(name: str, suffix: str) -> str | None:
    if suffix in IMAGE_SUFFIXES:
        return "images"
    if suffix in PARQUET_SUFFIXES:
        return "parquet"
    if suffix in CAPTION_SUFFIXES:
        return None
    return "tar" if suffix in TAR_SUFFIXES or is_compressed_tar(name) else None


def is_hidden(relative: str) -> bool:
    """Whether a part of the path starts with a dot, or is the Mac's `__MACOSX`."""
    return any(
        part == "__MACOSX" or (part.startswith(".") and part not in {".", ".."})
        for part in relative.split("/")
    )


def companions(name: str) -> list[str]:
    """Names in the same folder that may hold the caption of the picture `name`."""
    stem = split_suffix(name)[0]
    own = [beginning + suffix for beginning in (name, stem) for suffix in CAPTION_SUFFIXES]
    return [*own, *TABLE_NAMES]


def join(folder: str, name: str) -> str:
    """`folder/name`, or `name` where the folder is the root ("")."""
    return f"{folder}/{name}" if folder else name


class FirstBytes:
    """Looks into files of unknown names, until a suffix has turned out not to be a picture's."""

    def __init__(self) -> None:
        self._misses: Counter[str] = Counter()

    def reason_against(self, name: str, head: Callable[[], bytes]) -> Ignored | None:
        """Why a file without a picture's suffix is none; None if it is one by its first bytes."""
        suffix = split_suffix(name)[1]
        if suffix in UNREAD_SUFFIXES:
            return Ignored.UNREAD_FORMAT
        if suffix in PLAIN_SUFFIXES or self._misses[suffix] >= _MOST_MISSES:
            return Ignored.NOT_A_PICTURE
        from pipeline.images.formats import looks_like_picture

        if looks_like_picture(head()):
            return None
        self._misses[suffix] += 1
        return Ignored.NOT_A_PICTURE
