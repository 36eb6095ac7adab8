"""What a file name tells: picture, caption beside it, container, or nothing for us."""

import posixpath

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .gif .tif .tiff .bmp .avif .heic .heif .jp2 .mpo".split()
)
CAPTION_SUFFIXES = (".txt", ".caption", ".json")  # in this order
TAR_SUFFIXES = frozenset({".tar"})
PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
METADATA_NAMES = ("metadata.jsonl", "metadata.csv")  # Hugging Face ImageFolder

_COMPRESSED_TAR_ENDINGS = (
    *(f".tar.{kind}" for kind in ("gz", "zst", "zstd", "xz", "bz2", "lz4", "lzma", "z")),
    *(".tgz", ".tzst", ".txz", ".tbz", ".tbz2"),
)


def split_suffix(name: str) -> tuple[str, str]:
    """Name without its last suffix, and that suffix in lower case."""
    stem, suffix = posixpath.splitext(name)
    return stem, suffix.lower()


def is_image(name: str) -> bool:
    """Whether the name has a picture's suffix, in any case."""
    return split_suffix(name)[1] in IMAGE_SUFFIXES


def is_compressed_tar(name: str) -> bool:
    """Whether the name is that of a compressed tar, which nobody can seek in."""
    return name.lower().endswith(_COMPRESSED_TAR_ENDINGS)


def is_hidden(relative: str) -> bool:
    """Whether a part of the path starts with a dot, or is the Mac's `__MACOSX`."""
    return any(
        part == "__MACOSX" or (part.startswith(".") and part not in {".", ".."})
        for part in relative.split("/")
    )


def companions(name: str) -> list[str]:
    """Names in the same folder that may hold the caption of the picture `name`."""
    stem = split_suffix(name)[0]
    return [*(stem + suffix for suffix in CAPTION_SUFFIXES), *METADATA_NAMES]


def join(folder: str, name: str) -> str:
    """`folder/name`, or `name` where the folder is the root ("")."""
    return f"{folder}/{name}" if folder else name
