"""Memory does not grow with the number of images: neither pixels nor rows are kept."""

import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

FEW, MANY = 150, 1200
SIDE = 512
MOST_GROWTH_BYTES = 75 * 1000 * 1000  # 27 to 36 measured; with every row kept 179 to 196

CHILD = """
import sys
from pathlib import Path
from pipeline import shard
from pipeline.generate import generate
from pipeline.config import GenerateConfig

source, output, keep = sys.argv[1:]
if keep:  # the mistake that this test is there for
    kept, real = [], shard.make_batch
    def make_batch(*arguments):
        kept.append(real(*arguments))
        return kept[-1]
    shard.make_batch = make_batch
config = GenerateConfig(source=source, output=output, conditions=("canny",), resolution=256,
                        image_format="png", num_workers=2, shard_rows=60)
print(generate(config).rows)
# Not getrusage: its maximum is inherited from the process that forked this one.
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two folders of photographs, small and large; the same files."""
    root = tmp_path_factory.mktemp("memory")
    photographs = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    for number, photograph in enumerate(photographs):
        picture = Image.fromarray(photograph).resize((SIDE, SIDE))
        picture.save(root / f"{number}.jpg", quality=90)
    folders = {}
    for count in (FEW, MANY):
        folders[count] = root / str(count)
        folders[count].mkdir()
        for number in range(count):
            (folders[count] / f"{number}.jpg").hardlink_to(root / f"{number % 3}.jpg")
    return folders


def peak_bytes(source: Path, output: Path, *, keep: bool = False) -> int:
    """Largest resident set of one run in a fresh process."""
    command = [sys.executable, "-c", CHILD, str(source), str(output), "keep" if keep else ""]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]
    rows, peak_kb = finished.stdout.split()[-2:]
    assert int(rows) == len(list(source.iterdir()))
    return int(peak_kb) * 1024


@pytest.mark.slow
def test_eight_times_the_images_need_no_more_memory(sources, tmp_path):
    few = peak_bytes(sources[FEW], tmp_path / "few")
    many = peak_bytes(sources[MANY], tmp_path / "many")
    assert many < few + MOST_GROWTH_BYTES
    assert many < 1e9


@pytest.mark.slow
def test_the_measurement_sees_rows_that_are_kept(sources, tmp_path):
    few = peak_bytes(sources[FEW], tmp_path / "few", keep=True)
    many = peak_bytes(sources[MANY], tmp_path / "many", keep=True)
    assert many > few + MOST_GROWTH_BYTES
