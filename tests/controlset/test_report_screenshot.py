"""The report as a browser shows it: something is there, and nothing sticks out."""

import functools
import html
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from controlset.report import write_report
from tests.controlset.made_evaluations import hostile, made_evaluation

LAPTOP, PHONE = 1280, 390
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
# A window is never narrower than 500 px, a frame may be; the frame's own policy forbids scripts.
MEASURE = """<!doctype html><meta charset="utf-8">
<iframe style="width:{width}px;height:900px;border:0" srcdoc="{page}"></iframe>
<p id="said"></p><script>
document.querySelector("iframe").onload = event => {{
  const inside = event.target.contentDocument;
  const scrolls = one => one.closest(".scroll") !== null;
  const wide = [...inside.querySelectorAll("body *")].filter(
    one => one.getBoundingClientRect().right > {width} + 0.5 && !scrolls(one));
  const broken = [...inside.images].filter(one => one.naturalWidth === 0);
  const names = wide.slice(0, 5).map(one => one.tagName + "." + one.className);
  document.getElementById("said").textContent =
    [inside.documentElement.scrollWidth, broken.length, inside.images.length, names].join(" ");
}};
</script>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed to look at the page"),
]


@pytest.fixture(scope="module", params=["plain", "hostile"])
def report(request, tmp_path_factory):
    place = made_evaluation(tmp_path_factory.mktemp("report"), rows=14, runs=("run", "other"))
    if request.param == "hostile":
        hostile(place)
    return write_report(place)


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """The browser's own folder, which its first start fills."""
    return tmp_path_factory.mktemp("profile")


@pytest.fixture(scope="module")
def screenshot(profile, tmp_path_factory):
    """(report, width, options) -> pixels; each is taken once."""

    @functools.cache
    def taken(report, width, *options):
        file = tmp_path_factory.mktemp("screenshot") / f"{width}.png"
        size = f"--window-size={width},1600"
        browser(profile, *options, f"--screenshot={file}", size, report.as_uri())
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))

    return taken


def browser(profile, *arguments):
    """What Chromium prints."""
    done = subprocess.run(
        [str(BROWSER), *QUIET, f"--user-data-dir={profile}", *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout


@pytest.mark.parametrize("width", [LAPTOP, PHONE])
def test_nothing_sticks_out_and_every_picture_is_drawn(report, profile, tmp_path, width):
    page = html.escape(report.read_text(encoding="utf-8"))
    outer = tmp_path / "outer.html"
    outer.write_text(MEASURE.format(width=width, page=page), encoding="utf-8")
    dom = browser(profile, "--dump-dom", "--window-size=1400,1000", outer.as_uri())
    said = re.search(r'<p id="said">(\d+) (\d+) (\d+) ([^<]*)</p>', dom)
    assert said is not None, "the page did not load"
    assert int(said[1]) == width, f"as wide as {said[1]} px, for {said[4]}"
    assert said[4] == ""
    assert int(said[2]) == 0
    assert int(said[3]) > 60


@pytest.mark.parametrize("width", [LAPTOP, PHONE])
def test_the_page_is_not_blank_and_its_margins_are(report, screenshot, width):
    pixels = screenshot(report, width)
    assert pixels.shape[1] == width
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500
    for margin in (pixels[:, :6], pixels[:, -6:]):
        assert (margin == pixels[0, 0]).all()
    ink = (np.abs(pixels.astype(int) - pixels[0, 0]).max(axis=2) > 60).mean(axis=1)
    assert (ink[:700] > 0).sum() > 150  # text and pictures from the top on


def test_it_is_dark_for_those_who_like_it_dark(report, screenshot):
    light = screenshot(report, LAPTOP)
    dark = screenshot(report, LAPTOP, "--blink-settings=preferredColorScheme=0")
    assert light[0, 0].min() > 230
    assert dark[0, 0].max() < 40
