"""A tiny data set, a run that was trained on it, and an evaluation of that run; all real.

ROOT/place/a/b/set, run, evaluation      what is mutated
ROOT/whole/…                             the same as it was made
ROOT/outside, base, home, cwd, tmp       what nobody may touch
ROOT/out                                 where readers may write
"""

import os
import shutil
import stat
from pathlib import Path

import numpy as np
from PIL import Image

TARGETS = ("set", "run", "evaluation")
SCENES = 12
_MODIFIED_S = 1_700_000_000


class World:
    """Places below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.place = self.root / "place" / "a" / "b"
        self.whole = self.root / "whole"
        self.out = self.root / "out"
        self.base = self.root / "base"

    def at(self, target: str) -> Path:
        return self.place / target

    def restore(self, target: str) -> None:
        """Let the target be as it was made."""
        remove(self.at(target))
        shutil.copytree(self.whole / target, self.at(target), symlinks=True)

    def empty_out(self) -> None:
        remove(self.out)
        self.out.mkdir()

    def enter(self) -> None:
        """Let home, temporary files and the working folder lie below the root."""
        for name in ("home", "tmp", "cwd"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        os.environ |= {
            "HOME": str(self.root / "home"),
            "XDG_CACHE_HOME": str(self.root / "home" / ".cache"),
            "TMPDIR": str(self.root / "tmp"),
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "100",
        }
        os.environ.pop("CONTROLSET_WEIGHTS", None)
        os.chdir(self.root / "cwd")

    def watched(self) -> dict[str, tuple]:
        """Everything below the root but for what readers may write: name -> what is seen of it."""
        seen = {}
        for part in ("place", "outside", "base", "tmp", "cwd"):
            for folder, names, files in os.walk(self.root / part):
                for name in (*names, *files):
                    path = os.path.join(folder, name)
                    state = os.lstat(path)
                    size = state.st_size if not os.path.isdir(path) else 0
                    when = 0 if os.path.isdir(path) else state.st_mtime_ns
                    seen[path] = (state.st_mode, size, when, state.st_ino)
        return seen

    def forget_reads(self) -> None:
        """Make the next `read_files` begin here."""
        for path in self.place.rglob("*"):
            if path.is_file():
                os.utime(path, ns=(0, path.stat().st_mtime_ns))

    def read_files(self) -> set[str]:
        """Files that were read since `forget_reads`, as the file system notes it."""
        files = [path for path in self.place.rglob("*") if path.is_file()]
        return {str(path) for path in files if path.stat().st_atime_ns > 0}

    def other_contents(self, target: str) -> set[str] | None:
        """Files whose contents changed; None where names, kinds or links did too."""
        folder, whole = self.at(target), self.whole / target
        names = [
            {(path.relative_to(at), path.lstat().st_mode) for path in at.rglob("*")}
            for at in (folder, whole)
        ]
        if names[0] != names[1]:
            return None
        files = [name for name, mode in names[0] if stat.S_ISREG(mode)]
        same = {
            name for name in files if (folder / name).read_bytes() == (whole / name).read_bytes()
        }
        return {str(folder / name) for name in set(files) - same}


def remove(path: Path) -> None:
    """Whatever lies there, links themselves and not what they name."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        for folder, _, _ in os.walk(path):
            os.chmod(folder, 0o755)
        shutil.rmtree(path)


def build(root: Path) -> World:
    """Make everything; takes some 15 seconds. For a process of its own: it starts threads."""
    world = World(root)
    world.enter()
    world.place.mkdir(parents=True)
    (world.root / "outside").mkdir()
    for name in ("canary.parquet", "canary.json", "canary.png"):
        (world.root / "outside" / name).write_text("do not touch")
    _write_base(world)
    _generate(world)
    _train(world)
    _evaluate(world)
    for target in TARGETS:
        shutil.copytree(world.at(target), world.whole / target)
    return world


def run_options(world: World) -> list[str]:
    """How the run was trained, but for its number of steps."""
    return [
        "--data", str(world.at("set")), "--condition", "canny", "--base", str(world.base),
        "--output", str(world.at("run")), "--batch-size", "2", "--learning-rate", "0.001",
        "--log-every", "1", "--checkpoint-every", "1", "--probe-every", "1",
        "--probe-images", "2", "--probe-steps", "1", "--loader-workers", "1",
        "--tracker", "none", "--device", "cpu", "--offline",
    ]  # fmt: skip


def evaluate_options(world: World) -> list[str]:
    """How the evaluation was made, but for its place."""
    return [
        "--run", str(world.at("run")), "--data", str(world.at("set")), "--steps", "1",
        "--device", "cpu", "--offline", "--limit", "2", "--batch-size", "2",
    ]  # fmt: skip


def _write_base(world: World) -> None:
    from tests.controlnet.tiny_runs import base

    shutil.copytree(base(), world.base)


def _generate(world: World) -> None:
    from annotators.conditions.pose import PoseSpec
    from annotators.conditions.pose.people import BODY, Keypoint, Person
    from controlnet.nano.scenes import draw, random_scene
    from controlset.cli import main

    def look(images):
        """Somebody in every picture whose first pixel is bright."""
        joints = [Keypoint(x=10.0 + 2 * n, y=8.0 + 3 * n, score=0.5) for n in range(len(BODY))]
        return [[Person(body=joints)] if int(rgb[0, 0].sum()) > 200 else [] for rgb in images]

    # No released weights here: what matters is the column of keypoints and its nulls.
    PoseSpec.weights = property(lambda self: ())
    PoseSpec._network = lambda self, runtime: look
    source = world.root / "scenes"
    source.mkdir()
    rng = np.random.default_rng(7)
    for number in range(SCENES):
        scene = random_scene(rng)
        path = source / f"{number:02d}.png"
        Image.fromarray(draw(scene)).save(path)
        if number == 5:
            path.write_bytes(path.read_bytes()[:300])
        path.with_suffix(".txt").write_text(scene.caption)
        os.utime(path, (_MODIFIED_S, _MODIFIED_S))
    output = str(world.at("set"))
    _need(
        main(
            [
                "generate", str(source), "--output", output, "--conditions", "canny", "pose",
                "--canny-thresholds", "60,120", "--resolution", "64", "--min-side", "64",
                "--image-format", "png", "--validation", "0.35", "--shard-rows", "4",
                "--num-workers", "1",
            ]
        )
    )  # fmt: skip
    _need(main(["add", output, "--latents", str(world.base), "--device", "cpu", "--offline"]))
    shutil.rmtree(source)


def _train(world: World) -> None:
    from controlset.cli import main

    _need(main(["train", *run_options(world), "--steps", "2"]))


def _evaluate(world: World) -> None:
    from controlset.cli import main

    _need(main(["evaluate", *evaluate_options(world), "--output", str(world.at("evaluation"))]))
    (world.root / "hint").mkdir()
    picture = next((world.at("evaluation") / "pictures" / "wanted").glob("*.png"))
    shutil.copy(picture, world.root / "hint" / "hint.png")


def _need(status: int) -> None:
    if status != 0:
        raise SystemExit(f"the tiny world cannot be made: status {status}")
