import dataclasses
import os

import pytest

from schemas import documents
from schemas.documents import parse_json, read_json
from schemas.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    name: str
    rows: int

    def __post_init__(self):
        if self.rows < 0:
            raise ValueError(f"rows: need at least 0, got {self.rows}")


def test_a_document_becomes_its_record():
    assert parse_json(b'{"name": "a", "rows": 3}', _Record, where="m") == _Record(name="a", rows=3)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"\xff\xfe{", "malformed"),
        (b'{"name": "\xff", "rows": 3}', "UTF-8"),
        (b'{"name": "a"}', "rows"),
        (b'{"name": 1, "rows": 3}', "Expected `str`, got `int` - at `$.name`"),
        (b'{"name": "a", "rows": NaN}', "malformed"),
        (b'{"name": "a", "rows": 1.5}', "Expected `int`, got `float`"),
        (b'{"name": "a", "rows": -1}', "need at least 0, got -1"),
        (b'{"name": "a", "rows": ' + b"9" * 5000 + b"}", "rows"),
        (b'{"more": ' + b"[" * 100_000, "recursion"),
        (b"[]", "Expected `object`, got `array`"),
    ],
)
def test_what_does_not_fit_is_one_line(raw, said):
    with pytest.raises(ConfigError) as caught:
        parse_json(raw, _Record, where="set/manifest.json", advice="run `controlset verify`")
    message = str(caught.value)
    assert message.startswith("set/manifest.json: need a document of controlset, got ")
    assert message.endswith("; run `controlset verify`")
    assert said in message
    assert "\n" not in message


def test_a_file_that_is_not_there_or_too_large_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"got No such file or directory$"):
        read_json(tmp_path / "state.json", _Record)
    (tmp_path / "state.json").write_bytes(b'{"name": "a", "rows": 3}')
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 20)
    with pytest.raises(ConfigError, match="24 bytes, more than 20"):
        read_json(tmp_path / "state.json", _Record)


def test_a_pipe_or_a_device_in_place_of_a_document_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "zero.json"):
        with pytest.raises(ConfigError, match=f"{name}: need a document of controlset, got"):
            read_json(tmp_path / name, dict)
