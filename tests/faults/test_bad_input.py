"""Whatever lies in the source: one row or one reject each, right sums, no crash, no memory spike.

The corpora and what may become of each file are in tests/faults/bad_corpus.py.
"""

import errno
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import GenerateConfig
from pipeline.generate import generate
from pipeline.images import decode
from pipeline.sources import Container, SourceKind, SourceSpec, files, index_container
from schemas.errors import Reason
from schemas.manifest import MANIFEST_NAME, Manifest
from tests.faults import bad_corpus
from tests.faults.bad_corpus import ANY_PICTURE, make_folder, make_parquets, make_tars

# In production `pipeline.images.decode` filters these itself; pytest resets filters for each test.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL[.]")

MAKERS = {"images": make_folder, "tar": make_tars, "parquet": make_parquets}
SPIKE_BYTES = 400 * 1000 * 1000

CHILD = """
import json, logging, sys, time
from pathlib import Path

logging.disable()  # Beam warns about Google's packages when imported; the command line filters that
from pipeline.generate import generate
from pipeline.config import GenerateConfig
logging.disable(logging.NOTSET)

start = time.monotonic()
for source_format, source, output in json.loads(sys.argv[1]):
    config = GenerateConfig(source=source, output=output, conditions=("canny",), resolution=64,
                            source_format=source_format, num_workers=2, shard_rows=300)
    generate(config)
# Not getrusage: its maximum is inherited from the process that forked this one.
status = Path("/proc/self/status").read_text()
peak_kb = int(status.split("VmHWM:")[1].split()[0])
print(json.dumps({"peak_bytes": peak_kb * 1024, "seconds": time.monotonic() - start}))
"""


def generated(source, output, source_format, **changes):
    options = {"resolution": 64, "num_workers": 2, "shard_rows": 300} | changes
    config = GenerateConfig(
        source=str(source),
        output=str(output),
        conditions=("canny",),
        source_format=source_format,
        **options,
    )
    return generate(config)


def outcomes_of(output, manifest):
    """Source -> "row" or reason of each whole image; and the keys."""
    outcomes, keys = defaultdict(list), []
    for shard in manifest.shards:
        rows = pq.read_table(output / shard.data.path, columns=["key", "source"])
        for key, source in zip(*rows.to_pydict().values(), strict=True):
            outcomes[source].append("row")
            keys.append(key)
        if shard.rejects is not None:
            for reject in pq.read_table(output / shard.rejects.path).to_pylist():
                if reject["kind"] is None:
                    outcomes[reject["source"]].append(reject["reason"])
                    keys.append(reject["key"])
    return outcomes, keys


def complaints(made, outcomes):
    """What is not as it must be: missing, too many, wrong outcome, or never made."""
    wrong = []
    expected = defaultdict(list)
    for one in made:
        expected[one.source].append(one)
    known = set(expected)
    for source, ones in expected.items():
        got = outcomes.get(source, [])
        members = ones[0].members
        known.update(members)
        if members and not got and all(member in outcomes for member in members):
            continue  # the damage did not matter
        allowed = frozenset[str]().union(*(one.allowed for one in ones))
        if len(got) != len(ones) or not allowed.issuperset(got):
            wrong.append(f"{source!r} ({ones[0].what}): {got}, need {len(ones)} of {allowed}")
        for member in members:
            bad = set(outcomes.get(member, [])) - ANY_PICTURE - {Reason.BROKEN_CONTAINER}
            wrong += [f"{member!r}: {bad}"] if bad else []
    return wrong + [f"{source!r}: nobody made it" for source in outcomes if source not in known]


def check(made, output, manifest):
    from pipeline.verify.verify import verify_dataset

    outcomes, keys = outcomes_of(output, manifest)
    assert complaints(made, outcomes) == []
    assert len(set(keys)) == len(keys)
    reasons = [outcome for all_of in outcomes.values() for outcome in all_of]
    assert set(reasons) <= {"row", *Reason}
    assert manifest.planned == len(reasons)
    assert manifest.rows == reasons.count("row")
    assert manifest.planned == manifest.rows + manifest.rejected_images
    assert verify_dataset(str(output), audit=1.0, workers=2).ok


def open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("source_format", MAKERS)
def test_every_broken_thing_becomes_one_row_or_one_reject(tmp_path, source_format):
    made = MAKERS[source_format](tmp_path / "in", damages=1)
    assert len(made) > 100
    before = open_files()
    manifest = generated(tmp_path / "in", tmp_path / "out", source_format)
    assert open_files() <= before
    check(made, tmp_path / "out", manifest)


def test_the_comparison_itself_finds_what_is_lost_doubled_wrong_or_invented():
    made = [bad_corpus.Made(source="a", allowed=frozenset({"row"}), what="valid")]
    assert complaints(made, {"a": ["row"]}) == []
    assert len(complaints(made, {})) == 1
    assert len(complaints(made, {"a": ["row", "row"]})) == 1
    assert len(complaints(made, {"a": ["corrupt"]})) == 1
    assert len(complaints(made, {"a": ["row"], "b": ["row"]})) == 1


def test_files_and_folders_that_may_not_be_read_are_rejected_and_the_rest_is_kept(
    tmp_path, monkeypatch
):
    source, output = tmp_path / "in", tmp_path / "out"
    picture = bad_corpus.valid_pictures(random.Random(0))["baseline.jpg"]
    for name in ("open.jpg", "closed.jpg", "closed-caption.jpg", "shut/inside.jpg"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(picture)
    (source / "closed-caption.txt").write_text("secret")
    real_open, real_scan = files._nonblocking, files._scan

    def refuse(path):
        if Path(path).name in {"closed.jpg", "closed-caption.txt", "shut"}:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    # The tests may run as root, whom no permission stops.
    monkeypatch.setattr(files, "_nonblocking", lambda *a: (refuse(a[0]), real_open(*a))[1])
    monkeypatch.setattr(files, "_scan", lambda path: (refuse(path), real_scan(path))[1])
    outcomes, _ = outcomes_of(output, generated(source, output, "images"))
    assert outcomes == {
        "open.jpg": ["row"],
        "closed.jpg": ["source_unreadable"],
        "closed-caption.jpg": ["row"],
        "shut": ["source_unreadable"],
    }


def test_no_flipped_bit_of_a_footer_loses_rows_unseen(tmp_path):
    path = tmp_path / "rows.parquet"
    picture = bad_corpus.valid_pictures(random.Random(3))["baseline.jpg"]
    # Without the optional parts the footer is short enough to flip every bit of it.
    bare = {"store_schema": False, "write_statistics": False, "use_dictionary": False}
    pq.write_table(pa.table({"image": [picture] * 12}), path, row_group_size=6, **bare)
    raw = path.read_bytes()
    spec = SourceSpec(root=str(tmp_path), kind=SourceKind.PARQUET, selections=())
    container = Container(uri=str(path), relative=path.name, size_bytes=len(raw), modified_s=None)
    start = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    seen = Counter()
    for bit in range(8 * start, 8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        refs = list(index_container(container, spec))
        whole = len(refs) == 12 and not any(ref.problem for ref in refs)
        refused = len(refs) == 1 and refs[0].problem is not None
        assert whole or refused, f"bit {bit - 8 * start} of the footer: {len(refs)} rows"
        seen["whole" if whole else "refused"] += 1
    assert min(seen["whole"], seen["refused"]) > 100


@pytest.mark.slow
def test_five_hundred_broken_files_bombs_included_cost_no_memory_time_or_noise(tmp_path, capsys):
    start = time.monotonic()
    jobs, made = [], {}
    for source_format, make in MAKERS.items():
        more = {"damages": 7, "with_bombs": True} if source_format == "images" else {"damages": 3}
        source, output = tmp_path / source_format, tmp_path / f"{source_format}-out"
        made[output] = make(source, **more)
        jobs.append((source_format, str(source), str(output)))
    assert len(made[tmp_path / "images-out"]) > 500
    good = tmp_path / "good"
    good.mkdir()
    pictures = bad_corpus.valid_pictures(random.Random(0))
    for number in range(600):
        name, raw = list(pictures.items())[number % len(pictures)]
        (good / f"{number}-{name}").write_bytes(raw)
    plain, _ = in_a_process([("images", str(good), str(tmp_path / "good-out"))])
    broken, noise = in_a_process(jobs)
    spike = broken["peak_bytes"] - plain["peak_bytes"]
    for output, ones in made.items():
        text = (output / MANIFEST_NAME).read_text()
        check(ones, output, Manifest.from_json(text, where=str(output)))
    seconds = time.monotonic() - start
    with capsys.disabled():
        print(
            f"\n{sum(map(len, made.values()))} broken things: peak {broken['peak_bytes'] / 1e6:.0f}"
            f" MB, {spike / 1e6:+.0f} MB beside 600 good pictures; generated in "
            f"{broken['seconds']:.1f} s, everything {seconds:.1f} s"
        )
    assert spike < SPIKE_BYTES
    assert noise == ""
    assert seconds < 60


@pytest.mark.slow
def test_pictures_just_under_the_pixel_limit_are_never_copied_whole(tmp_path, capsys):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number in range(4):
        depth, colour = ((1, 0), (8, 6))[number % 2]
        raw = bad_corpus.black_png(9_900 + number, depth=depth, colour=colour)
        (source / f"{number}.png").write_bytes(raw)
    measured, _ = in_a_process([("images", str(source), str(output))])
    with capsys.disabled():
        print(f"\nfour pictures of 98 million pixels: peak {measured['peak_bytes'] / 1e6:.0f} MB")
    manifest = Manifest.from_json((output / MANIFEST_NAME).read_text(), where=str(output))
    assert manifest.rows == 4
    # Two at once: 4 bytes a pixel in Pillow, 3 in ours; copied at full size it was 2.2 GB.
    assert measured["peak_bytes"] < 1.4e9


@pytest.mark.parametrize("band_pixels", [1, 7 * bad_corpus.WIDTH + 5])
def test_a_picture_converted_in_bands_has_the_same_pixels(monkeypatch, band_pixels):
    limits = decode.DecodeLimits(max_pixels=10**8, min_side=1, max_aspect=10)
    for name, raw in bad_corpus.valid_pictures(random.Random(1)).items():
        whole = decode.decode(raw, limits=limits, smallest_useful=lambda *size: size)
        with monkeypatch.context() as patched:
            patched.setattr(decode, "_BAND_PIXELS", band_pixels)
            banded = decode.decode(raw, limits=limits, smallest_useful=lambda *size: size)
        np.testing.assert_array_equal(banded.rgb, whole.rgb, err_msg=name)


def in_a_process(jobs):
    """Generate in a fresh process; its measurements and what it wrote to stderr."""
    finished = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(jobs)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout.splitlines()[-1]), finished.stderr
