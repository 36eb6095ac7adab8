"""Keys and bytes of a data set do not depend on the locale of whoever makes it."""

import io
import json
import os
import subprocess
import sys
import tarfile

import pytest
from PIL import Image

from controlset.cli import main
from schemas.dataset import open_dataset
from schemas.errors import ConfigError
from schemas.records import as_utf8, key_of

NAMES = ["é☃.png", "plain.png", "ordner ä/日本.png"]
ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
READ = """
import sys
from pipeline.config import GenerateConfig
from pipeline.sources import Container, index_container, list_source, resolve_source
assert sys.getfilesystemencoding() == "ascii"
for source in sys.argv[1:]:
    spec = resolve_source(GenerateConfig(source=source, output="out", conditions=("canny",)))
    for one in list_source(spec):
        for ref in index_container(one, spec) if isinstance(one, Container) else [one]:
            sys.stdout.buffer.write(f"{ref.key} {ref.source}\\n".encode())
"""


@pytest.fixture
def folder(tmp_path):
    photos = tmp_path / "photos"
    for number, name in enumerate(NAMES):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((64, 64), 40 + number).save(photos / name)
    lines = [json.dumps({"file_name": name, "text": f"{name}!"}) for name in NAMES]
    (photos / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return photos


def test_the_key_of_a_name_is_the_hash_of_its_bytes_in_utf8():
    assert key_of("é☃.png") == key_of("é☃.png".encode().decode("ascii", "surrogateescape"))
    assert as_utf8("é☃.png".encode().decode("ascii", "surrogateescape")) == "é☃.png"
    assert as_utf8("\udce9.png") == r"\xe9.png"


def test_a_folder_and_a_tar_are_read_with_the_same_keys_and_names_in_ascii(tmp_path, folder):
    with tarfile.open(tmp_path / "photos.tar", "w") as packed:
        for name in NAMES:
            raw = (folder / name).read_bytes()
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            packed.addfile(info, io.BytesIO(raw))
    command = [sys.executable, "-c", READ, str(folder), str(tmp_path / "photos.tar")]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | ASCII)
    expected = {f"{key_of(name)} {name}" for name in NAMES}
    expected |= {f"{key_of(f'photos.tar/{name}')} photos.tar/{name}" for name in NAMES}
    assert set(told.stdout.decode().splitlines()) == expected


def test_a_command_under_an_ascii_locale_makes_the_same_set(tmp_path, folder):
    words = ["generate", str(folder), "--conditions", "canny", "--resolution", "64", "--output"]
    assert main([*words, str(tmp_path / "here")]) == 0
    command = [sys.executable, "-m", "controlset", *words, str(tmp_path / "dört")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ASCII)
    assert done.returncode == 0, done.stderr  # which has a line of progress where it is slow
    assert r"d\xf6rt" in done.stdout  # a terminal that has no such letter
    here, there = (open_dataset(str(tmp_path / name)) for name in ("here", "dört"))
    assert here.manifest.splits == there.manifest.splits  # rows, bytes and sha256 of every file
    assert {row.text for row in there} == {f"{name}!" for name in NAMES}


def test_python_under_an_ascii_locale_is_told_how_to_start(tmp_path, folder):
    code = (
        "import controlset, sys\n"
        "config = controlset.GenerateConfig(source=sys.argv[1], output=sys.argv[2],"
        " conditions=('canny',))\n"
        "try: controlset.generate(config)\n"
        "except controlset.ConfigError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "dört")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ASCII)
    assert done.stdout == (
        "names of files: need UTF-8, got ascii from this locale; start Python with -X utf8\n"
    ), done.stderr
    assert not (tmp_path / "dört").exists()


def test_a_set_is_opened_and_added_to_under_an_ascii_locale_or_refused(tmp_path, folder):
    words = ["generate", str(folder), "--conditions", "canny", "--resolution", "64", "--output"]
    for name in ("set", "utf8"):
        assert main([*words, str(tmp_path / name)]) == 0
    assert main(["add", str(tmp_path / "utf8"), "--conditions", "grey"]) == 0
    (tmp_path / "utf8").rename(tmp_path / "d\u00f6rt")
    code = (
        "import controlset, sys\n"
        "for place in sys.argv[1:]:\n"
        "    config = controlset.AddConfig(output=place, conditions=('grey',))\n"
        "    for use in (lambda: controlset.add(config), lambda: controlset.open(place)):\n"
        "        try: print(ascii([row.text for row in controlset.open(place)]), bool(use()))\n"
        "        except controlset.ConfigError as error: print(ascii(str(error)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "set"), str(tmp_path / "d\u00f6rt")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ASCII)
    assert done.returncode == 0, done.stderr
    texts = [row.text for row in open_dataset(str(tmp_path / "set"))]
    refusal = (
        f"{tmp_path}/d\u00f6rt: need names of files in UTF-8, got ascii from this locale; start "
        "Python with -X utf8"
    )
    assert done.stdout.splitlines() == [f"{texts!a} True"] * 2 + [ascii(refusal)] * 2
    there, here = (open_dataset(str(tmp_path / name)) for name in ("set", "d\u00f6rt"))
    assert there.manifest.splits == here.manifest.splits


def test_a_set_whose_name_is_not_in_utf8_is_refused_in_one_line():
    with pytest.raises(ConfigError, match="need a name in UTF-8, got bytes that are none; rename"):
        open_dataset("/tmp/\udce9")
