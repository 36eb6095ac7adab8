import pytest

from pipeline.config import GenerateConfig
from pipeline.sources import SourceKind, files, resolve, resolve_source
from schemas.errors import ConfigError


def write(folder, *names, raw=b"x"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)


def sources(refs):
    return [ref.source for ref in refs]


def test_globs_take_what_they_say_and_start_at_the_last_plain_folder(tmp_path, listed):
    write(tmp_path, "a/1.jpg", "a/2.png", "b/1.jpg", "b/c/1.jpg", "b/c/d/10.jpg", ".h/1.jpg")
    spec, refs = listed(f"{tmp_path}/*/*.jpg")
    assert spec.root == str(tmp_path)
    assert sources(refs) == ["a/1.jpg", "b/1.jpg"]
    assert sources(listed(f"{tmp_path}/**/*.jpg")[1]) == [
        "a/1.jpg", "b/1.jpg", "b/c/1.jpg", "b/c/d/10.jpg",
    ]  # fmt: skip
    spec, refs = listed(f"{tmp_path}/b/**")
    assert spec.root == f"{tmp_path}/b"
    assert sources(refs) == ["1.jpg", "c/1.jpg", "c/d/10.jpg"]
    assert sources(listed(f"{tmp_path}/[!b]/?.jp[ga-f]")[1]) == ["a/1.jpg"]
    assert sources(listed(f"{tmp_path}/b/**/d/??.jpg")[1]) == ["c/d/10.jpg"]


def test_a_relative_glob_starts_in_the_working_directory(tmp_path, listed, monkeypatch):
    write(tmp_path, "a.jpg", "b.jpg")
    monkeypatch.chdir(tmp_path)
    spec, refs = listed("*.jpg")
    assert spec.root == str(tmp_path)
    assert sources(refs) == ["a.jpg", "b.jpg"]


def test_a_glob_does_not_look_deeper_than_it_says(tmp_path, listed, monkeypatch):
    write(tmp_path, "a.jpg", "deep/b.jpg")
    scan = files.os.scandir

    def shallow(path):
        assert not str(path).endswith("deep")
        return scan(path)

    monkeypatch.setattr(files.os, "scandir", shallow)
    assert sources(listed(f"{tmp_path}/*.jpg")[1]) == ["a.jpg"]


def test_a_single_picture_is_a_source_with_its_caption(tmp_path, read_all):
    write(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "a.txt").write_text("one")
    read = read_all(tmp_path / "a.jpg")
    assert list(read) == ["a.jpg"]
    assert read["a.jpg"].caption == "one"


def test_brace_lists_name_files_globs_and_folders(tmp_path, listed):
    write(tmp_path, "cats/1.jpg", "dogs/1.jpg", "owls/1.jpg", "owls/2.png")
    spec, refs = listed(f"{tmp_path}/{{cats,dogs}}")
    assert spec.root == str(tmp_path)
    assert sources(refs) == ["cats/1.jpg", "dogs/1.jpg"]
    assert sources(listed(f"{tmp_path}/{{cats/1.jpg,owls/*.png}}")[1]) == [
        "owls/2.png",
        "cats/1.jpg",
    ]


def test_what_several_parts_name_is_listed_once(tmp_path, listed):
    write(tmp_path, "a.jpg", "ab.jpg", "c.png")
    refs = listed(f"{tmp_path}/{{a*.jpg,*.jpg,a.jpg,c.png}}")[1]
    assert sorted(sources(refs)) == ["a.jpg", "ab.jpg", "c.png"]


def test_a_path_that_exists_is_never_taken_for_a_glob_or_a_brace_list(tmp_path, listed):
    write(tmp_path, "set {1,2} [old]*/a.jpg", "set {1,2} [old]*/b[1].jpg")
    folder = tmp_path / "set {1,2} [old]*"
    assert sources(listed(folder)[1]) == ["a.jpg", "b[1].jpg"]
    assert sources(listed(folder / "b[1].jpg")[1]) == ["b[1].jpg"]


@pytest.mark.parametrize(
    ("names", "source", "options", "message"),
    [
        ([], "nowhere", {}, r"nowhere: need a path that exists, got none"),
        ([], "", {}, r"need images, tars or Parquet files, got none"),
        (["a.txt"], "", {}, r"need images, tars or Parquet files, got none; check the path"),
        (["a.tar"], "", {"source_format": "images"}, r"need images files, got tar \(a.tar\)"),
        (["a.tar.gz"], "", {}, r"need tars that are not compressed, got a.tar.gz; decompress"),
        (["a.tgz", "a.parquet"], "", {}, r"need tars that are not compressed, got a.tgz"),
        (["a.tar.zst"], "a.tar.zst", {}, r"need tars that are not compressed, got a.tar.zst"),
        (["a.jpg"], "{a,b}.jpg", {}, r"b.jpg: need a path that exists, got none \(one of 2 in"),
        (["a.jpg"], "{a*,b*}.jpg", {}, r"b\*.jpg: need images, tars or Parquet files, got none"),
        (["a.jpg"], "{a.jpg", {}, r"need balanced braces"),
        (["a.jpg"], "{0..999999999}.jpg", {}, r"braces that stand for 1,000,000 paths or fewer"),
        (["a.jpg"], "{0..9999}{0..9999}.jpg", {}, r"braces that stand for 1,000,000 paths"),
        (["a.jpg"], "{a..z}" * 30, {}, r"braces that stand for 1,000,000 paths or fewer"),
        (["a.jpg"], "{a,b,c}" * 30, {}, r"braces that stand for 1,000,000 paths or fewer"),
        (["a.jpg"], "{0.." + "9" * 5000 + "}", {}, r"braces that stand for 1,000,000 paths"),
        (["a.jpg"], "{" * 3000 + "}" * 3000, {}, r"need balanced braces"),
        (["a.jpg"], "", {"caption": "column"}, r"need one of .* with a source of images"),
        (["a.tar"], "", {"caption": "metadata"}, r"--caption: need one of .* with a source of tar"),
        (["a.jpg"], "", {"image_column": "x"}, r"--image-column: need a Parquet source"),
        (
            ["a.jpg"], "", {"caption": "fixed", "caption_text": "\udce9"},
            r"--caption-text: need valid UTF-8",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_a_clear_error(tmp_path, listed, names, source, options, message):
    write(tmp_path, *names)
    with pytest.raises(ConfigError, match=message):
        listed(tmp_path / source, **options)


def test_a_zip_and_an_arrow_folder_are_told_what_to_do(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    arrow = tmp_path / "arrow"
    arrow.mkdir()
    (arrow / "state.json").write_text("{}")
    (arrow / "data-00000-of-00001.arrow").write_bytes(b"ARROW")
    for name, advice in (("images.zip", "unzip images.zip -d FOLDER"), ("arrow", "to_parquet")):
        config = GenerateConfig(
            source=str(tmp_path / name), output=str(tmp_path / "out"), conditions=("canny",)
        )
        with pytest.raises(ConfigError, match=advice) as error:
            resolve_source(config)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wanted", "others"),
    [("parquet", "{}.jpg"), ("tar", "{}.jpg"), ("images", "{}.parquet"), ("tar", "{}.tgz")],
)
def test_a_kind_that_is_asked_for_is_found_behind_any_number_of_others(
    tmp_path, monkeypatch, wanted, others
):
    last = {"parquet": "z.parquet", "tar": "z.tar", "images": "z.jpg"}[wanted]
    write(tmp_path, last)
    most = files.first_look(resolve.Selection(base=str(tmp_path)))
    asked = []

    def listing(selection):
        asked.append(selection)
        yield from (others.format(number) for number in range(3 * most))
        yield from ("metadata.parquet", last)  # the former may be a table of captions

    monkeypatch.setattr(files, "file_names", listing)
    config = GenerateConfig(
        source=str(tmp_path), output="out", conditions=("canny",), source_format=wanted
    )
    assert resolve_source(config).kind is SourceKind(wanted)
    assert len(asked) == 1  # for kind and splits


def test_metadata_beside_tars_is_no_parquet_source_however_many_come_first(tmp_path, monkeypatch):
    """Memory holds the names of so many tars; of the others, the listing says what they are."""
    monkeypatch.setattr(resolve, "_MOST_STEMS", 10)
    seen = resolve._Seen()
    for number in range(10):
        seen.look_at(f"{number}.tar", "")
        seen.look_at(f"{number}.parquet", "")
    assert list(seen.kinds) == [SourceKind.TAR]
    for number in range(10, 1000):
        seen.look_at(f"{number}.parquet", "")
        seen.look_at(f"{number}.tar", "")
    assert list(seen.kinds) == [SourceKind.TAR]
    assert len(seen._tars) + len(seen._alone) == 10
    seen.look_at("own.parquet", "")
    assert seen.kinds[SourceKind.PARQUET] == "own.parquet"
