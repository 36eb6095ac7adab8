"""The main job on real photographs, with nothing to download."""

import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

from controlset.console import cores, progress, results
from pipeline.display import speed_text
from pipeline.launch import generate
from pipeline.options import GenerateConfig
from pipeline.progress import TALLY
from pipeline.verify import print_verification, verify_dataset

CROPS_EACH = 40
_SIDES_PX = (320, 900)
_LONGEST_TO_SHORTEST = 1.8


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Photograph:
    """A photograph in scikit-image's wheel, and what it shows."""

    file: str
    shows: str


PHOTOGRAPHS = (
    Photograph(file="astronaut.png", shows="an astronaut in an orange suit before a flag"),
    Photograph(file="chelsea.png", shows="a ginger tabby cat"),
    Photograph(file="coffee.png", shows="a cup of espresso on a wooden table"),
    Photograph(file="rocket.jpg", shows="a rocket on its launch pad at dusk"),
    Photograph(file="motorcycle_left.png", shows="a motorcycle in a garage"),
    Photograph(file="hubble_deep_field.jpg", shows="galaxies in a deep field of the sky"),
    Photograph(file="retina.jpg", shows="the retina of an eye"),
    Photograph(file="camera.png", shows="a photographer with a tripod, in grey"),
)


def demo(output: Path) -> int:
    """Make photographs, generate, verify; print where to look.

    Args:
        output: folder; what an earlier demo made there is kept and checked again.

    Returns:
        Exit status: 0, or 1 if the verification found something.
    """
    photographs, dataset = output / "photographs", output / "dataset"
    write_photographs(photographs)
    console = results()
    manifest = generate(
        GenerateConfig(
            source=str(photographs),
            output=str(dataset),
            conditions=("canny",),
            canny_thresholds="50-150,150-250",
            resolution=512,
            min_side=256,
            validation=0.1,
        ),
        show=True,
    )
    with progress("verifying") as advance:
        report = verify_dataset(str(dataset), audit=1.0, workers=cores(), on_progress=advance)
    print_verification(report, console)
    speed = speed_text(TALLY.images_per_second) if TALLY.work_seconds else "nothing to do"
    console.print(
        f"\n{manifest.rows} rows, {manifest.rejected_images} rejects "
        f"(two files are broken on purpose), {speed}\n{_what_next(output, dataset)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0 if report.ok else 1


def _what_next(output: Path, dataset: Path) -> str:
    """Commands that work as they stand, also where this environment is not on the PATH."""
    here = Path(sys.executable).parent
    if shutil.which("controlset") == str(here / "controlset"):
        bin_ = ""
    else:
        bin_ = f"{here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here}/"
    return (
        f"look:  {dataset}/preview.html\n"
        f"then:  {bin_}controlset inspect {dataset} --html {output}/inspect.html\n"
        f"       {bin_}controlset verify {dataset} --audit 0.1\n"
        f'       {bin_}python -c "import controlset; row = controlset.open({str(dataset)!r})[0]; '
        f'print(row.text, row.image.shape, list(row.maps))"'
    )


def write_photographs(folder: Path) -> None:
    """Crops of different sizes and aspects with honest captions, and two broken files."""
    if (folder / "not-a-picture.jpg").exists():  # written last
        return
    folder.mkdir(parents=True, exist_ok=True)
    for photograph in PHOTOGRAPHS:
        with Image.open(Path(skimage.__file__).parent / "data" / photograph.file) as picture:
            whole = picture.convert("RGB")
        for number in range(CROPS_EACH):
            name = f"{Path(photograph.file).stem}-{number:02d}"
            crop, where = _crop(whole, np.random.default_rng([number, *name.encode()]))
            crop.save(folder / f"{name}.jpg", quality=92)
            (folder / f"{name}.txt").write_text(f"{photograph.shows}, {where}\n", encoding="utf-8")
    whole_file = (folder / "coffee-00.jpg").read_bytes()
    (folder / "cut-short.jpg").write_bytes(whole_file[: len(whole_file) // 2])
    (folder / "not-a-picture.jpg").write_text("This is text.\n", encoding="utf-8")


def _crop(whole: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, str]:
    """A random part, enlarged or shrunk to a random size, and words for where it lies."""
    aspect = float(np.exp(rng.uniform(-1, 1) * np.log(_LONGEST_TO_SHORTEST)))
    share = rng.uniform(0.45, 0.95)
    width = share * min(whole.width, whole.height * aspect)
    height = width / aspect
    left = rng.uniform(0, whole.width - width)
    top = rng.uniform(0, whole.height - height)
    long_side = int(rng.integers(*_SIDES_PX)) * max(aspect, 1 / aspect) ** 0.5
    scale = long_side / max(width, height)
    size = max(288, round(width * scale)), max(288, round(height * scale))
    crop = whole.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))
    across = _third((left + width / 2) / whole.width, ("left", "middle", "right"))
    down = _third((top + height / 2) / whole.height, ("upper", "central", "lower"))
    return crop, f"{down} {across} part of the photograph"


def _third(position: float, words: tuple[str, str, str]) -> str:
    return words[0] if position < 0.42 else words[2] if position > 0.58 else words[1]
