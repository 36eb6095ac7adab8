"""Sources on the web: `https://` from a local server, `hf://` from a hub in memory."""

import contextlib
import http.server
import io
import tarfile
import threading

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from pipeline.config import GenerateConfig
from pipeline.generate import generate
from pipeline.verify.verify import verify_dataset
from schemas import filesystems
from schemas.dataset import open_dataset
from schemas.errors import ConfigError


def picture(number):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def tar_of(count):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(count):
            for suffix, raw in ((".png", picture(number)), (".txt", b"picture %d" % number)):
                member = tarfile.TarInfo(f"{number}{suffix}")
                member.size = len(raw)
                tar.addfile(member, io.BytesIO(raw))
    return buffer.getvalue()


def parquet_of(count):
    cells = [{"bytes": picture(number), "path": None} for number in range(count)]
    table = pa.table({"image": cells, "text": [f"picture {number}" for number in range(count)]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


class Ranges(http.server.BaseHTTPRequestHandler):
    """Files of `served`, with ranges as real servers give them, or without."""

    served: dict
    with_ranges = True

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        raw = self.served.get(self.path)
        if raw is None:
            self.send_error(404)
            return
        asked = self.headers.get("Range") if self.with_ranges else None
        first, last = 0, len(raw) - 1
        if asked:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(last, int(end)) if end else last
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(raw)}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes" if self.with_ranges else "none")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        if body:
            self.wfile.write(raw[first : last + 1])

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(served, *, with_ranges=True):
    kind = type("Handler", (Ranges,), {"served": served, "with_ranges": with_ranges})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def hub(monkeypatch):
    """`hf://` without a network; what it holds can be written to."""

    class Hub(MemoryFileSystem):
        protocol = "hf"
        store = {}  # noqa: RUF012
        pseudo_dirs = [""]  # noqa: RUF012

        @classmethod
        def _strip_protocol(cls, path):
            return "/" + path.removeprefix("hf://").strip("/")

    hub = Hub(skip_instance_cache=True)
    monkeypatch.setattr(filesystems, "_CLIENTS", {})
    monkeypatch.setitem(filesystems._MAKERS, "hf", lambda: hub)
    return hub


def texts_of(output):
    return sorted(row["text"] for b in open_dataset(str(output)).batches() for row in b.to_pylist())


def config_for(source, output):
    return GenerateConfig(
        source=source, output=str(output), conditions=("canny",), resolution=64, num_workers=1
    )


@pytest.mark.parametrize(("name", "make"), [("a.tar", tar_of), ("a.parquet", parquet_of)])
def test_a_file_on_a_web_server_is_read_by_ranges(tmp_path, name, make):
    with serving({f"/sets/{name}": make(3)}) as server:
        manifest = generate(config_for(f"{server}/sets/{name}", tmp_path / "out"))
    assert (manifest.planned, manifest.rows) == (3, 3)
    assert texts_of(tmp_path / "out") == ["picture 0", "picture 1", "picture 2"]


def test_braces_name_several_files_of_a_server(tmp_path):
    with serving({f"/{number:02d}.tar": tar_of(number + 1) for number in range(2)}) as server:
        manifest = generate(config_for(f"{server}/{{00..01}}.tar", tmp_path / "out"))
    assert manifest.rows == 3


def test_a_server_that_gives_no_parts_is_refused_in_one_line(tmp_path):
    with (
        serving({"/a.tar": tar_of(1)}, with_ranges=False) as server,
        pytest.raises(ConfigError, match=r"gives no parts of files.*download the file") as error,
    ):
        generate(config_for(f"{server}/a.tar", tmp_path / "out"))
    assert "\n" not in str(error.value)


def test_an_address_without_a_file_is_refused_in_one_line(tmp_path):
    with (
        serving({}) as server,
        pytest.raises(ConfigError, match=r"need a place that answers, got .*/a.tar; check the ad"),
    ):
        generate(config_for(f"{server}/a.tar", tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"need the address of one file .* web servers list no f"):
        generate(config_for("https://example.invalid/sets/", tmp_path / "out"))


def test_the_web_is_no_output(tmp_path):
    with pytest.raises(ConfigError, match=r"need an output that can be written"):
        generate(config_for(str(tmp_path), "hf://datasets/me/set"))


def test_a_set_on_the_hub_is_read_where_it_lies(tmp_path, hub):
    hub.pipe_file("datasets/me/set/data/train-00000-of-00001.parquet", parquet_of(4))
    hub.pipe_file("datasets/me/set/README.md", b"# set")
    manifest = generate(config_for("hf://datasets/me/set", tmp_path / "out"))
    assert (manifest.planned, manifest.rows) == (4, 4)
    (row,) = [r for r in open_dataset(str(tmp_path / "out")).batches(["source"])][:1]
    assert row.column("source")[0].as_py().startswith("data/train-00000-of-00001.parquet#")


def test_a_data_set_on_the_hub_is_opened_and_verified_as_one_on_the_disk(tmp_path, hub):
    """What was uploaded is trained on and verified where it lies."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.png").write_bytes(picture(number))
    manifest = generate(config_for(str(tmp_path / "in"), tmp_path / "out"))
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            there = path.relative_to(tmp_path / "out")
            hub.pipe_file(f"datasets/me/set/{there}", path.read_bytes())
    assert len(open_dataset("hf://datasets/me/set")) == manifest.rows == 3
    report = verify_dataset("hf://datasets/me/set")
    assert not [finding for check in report.checks for finding in check.findings]
    with pytest.raises(ConfigError, match=r"hf://datasets/me/other: need a complete data set"):
        open_dataset("hf://datasets/me/other")


def test_a_set_that_the_hub_does_not_have_is_one_line(tmp_path, hub):
    with pytest.raises(ConfigError, match=r"need a place that answers.*hf auth login"):
        generate(config_for("hf://datasets/me/other", tmp_path / "out"))


def test_the_hub_of_a_real_installation_is_huggingface_hubs():
    assert fsspec.get_filesystem_class("hf").__module__.startswith("huggingface_hub")
