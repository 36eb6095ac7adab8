"""Twenty promises broken on purpose, one after another: does a test of `make test` see each?

`python -m tests.faults.broken_promises` changes one line of the sources in a copy of the tree, runs
the test that holds the promise, and wants it to fail (unchanged, `make test` has it pass).
"""

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "annotators", "pipeline", "controlnet", "controlset")


@dataclasses.dataclass(frozen=True, slots=True)
class Break:
    """One line that keeps a promise, and what it becomes."""

    promise: str
    line: str  # stands once in the sources
    broken: str
    test: str  # file::name, or file, in tests/


BREAKS = (
    Break(
        "Canny sees colours",
        "return cv2.Canny(rgb, low, high)",
        "return cv2.Canny(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), low, high)",
        "annotators/test_canny.py",
    ),
    Break(
        "Convolutions out are zero at the start",
        "nn.init.zeros_(parameter)",
        "nn.init.constant_(parameter, 0.01)",
        "claims/test_sec_3_1_zero_convolution.py",
    ),
    Break(
        "The locked encoder is locked",
        "self.locked = block.requires_grad_(False)",
        "self.locked = block",
        "claims",
    ),
    Break(
        "Half of the prompts are dropped",
        'texts=["" if drawn.drop_prompt else row.text or "" for row, drawn in pairs],',
        'texts=[row.text or "" for row, drawn in pairs],',
        "controlnet/test_batch.py",
    ),
    Break(
        "A flip mirrors image and map together",
        "stored[n] = _mirrored(pixels, drawn)",
        "stored[n] = pixels",
        "controlnet/test_batch.py",
    ),
    Break(
        "A run that goes on has its optimizer's state",
        'optimizer.load_state_dict({"state": state, "param_groups": plain["param_groups"]})',
        'optimizer.load_state_dict({"state": {}, "param_groups": plain["param_groups"]})',
        "controlnet/test_trainer_resume.py",
    ),
    Break(
        "A split is a function of key and seed",
        'if validation and unit_interval(f"split:{seed}:{key}") < validation:',
        'if validation and unit_interval(f"split:{key}") < validation:',
        "pipeline/test_plan.py",
    ),
    Break(
        "A file is seen whole or not at all",
        "yield temporary\n            if durable:\n                sync(temporary)\n"
        "            os.replace(temporary, path)",
        "yield path",
        "schemas",
    ),
    Break(
        "found = planned + ignored",
        "if self.found != self.planned + ignored:",
        "if self.found < 0:",
        "pipeline/sources/test_ledger.py",
    ),
    Break(
        "Two runs on one output are refused",
        "stack.enter_context(locked(output))",
        "pass",
        "faults/test_output.py",
    ),
    Break(
        "A flipped bit is seen by whoever reads the row",
        "source, pre_buffer=remote, page_checksum_verification=True",
        "source, pre_buffer=remote, page_checksum_verification=False",
        "faults/test_hostile_set.py",
    ),
    Break(
        "Nothing from data becomes markup",
        'autoescape=jinja2.select_autoescape(("html.j2",)),',
        "autoescape=False,",
        "pipeline/test_preview.py",
    ),
    Break(
        "Every EXIF orientation ends upright",
        "rgb=_turn(rgb, orientation),",
        "rgb=rgb,",
        "pipeline/test_decode.py",
    ),
    Break(
        "A damaged download is refused and deleted",
        "if is_released(weights, path) is False:",
        "if is_released(weights, path) is None:",
        "annotators/test_weights.py",
    ),
    Break(
        "A picture that a network fails on costs its neighbours nothing",
        "results += self._part([image], [key])",
        "results += [_failed(failure, out_of_memory=False)]",
        "faults/test_annotator.py",
    ),
    Break(
        "A border is no part of the picture",
        "return np.ascontiguousarray(rgb[top:bottom, left:right])",
        "return rgb",
        "pipeline/test_padding.py",
    ),
    Break(
        "Intervals are over images",
        "draws = rng.integers(0, len(groups), (resamples, len(groups)))",
        "draws = np.tile(np.arange(len(groups)), (resamples, 1))",
        "controlnet/test_scores_bootstrap.py",
    ),
    Break(
        "Several ControlNets are summed",
        "residuals.added_to(total.skips, total.middle)",
        "total.added_to(total.skips, total.middle)",
        "claims/test_sec_3_4_inference.py",
    ),
    Break(
        "A run that keeps no row ends with status 1",
        "1 if isinstance(error, NothingKept) else 2",
        "0 if isinstance(error, NothingKept) else 2",
        "pipeline/test_launch.py",
    ),
    Break(
        "An expectation that is not met is status 1",
        "return 1 if problem else 0",
        "return 0",
        "controlset/test_evaluate.py",
    ),
)


def file_of(line: str, root: Path = ROOT) -> Path:
    """The source file that a line stands in, once.

    Raises:
        ValueError: it stands nowhere or several times; the list above is to follow the sources.
    """
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    found = [(path, path.read_text(encoding="utf-8").count(line)) for path in files]
    found = [(path, count) for path, count in found if count]
    if [count for _, count in found] != [1]:
        places = ", ".join(f"{path.relative_to(root)} ({count})" for path, count in found)
        raise ValueError(f"need the line once, got it in {places or 'no file'}: {line}")
    return found[0][0]


def _unseen(tree: Path) -> Iterator[str]:
    for number, broken in enumerate(BREAKS, 1):
        path = file_of(broken.line, tree)
        kept = path.read_text(encoding="utf-8")
        path.write_text(kept.replace(broken.line, broken.broken), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", f"tests/{broken.test}"],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )
        path.write_text(kept, encoding="utf-8")
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
        says = failed[0].split(" - ")[0] if failed else f"NOT SEEN (status {done.returncode})"
        print(f"{number:2} {broken.promise}: {says}", flush=True)
        if not failed:
            yield broken.promise


def main() -> int:
    """Print what sees each break; status 1 where one is not seen."""
    with tempfile.TemporaryDirectory(prefix="controlset-promises-") as folder:
        tree = Path(folder, "tree")
        listed = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in listed.stdout.splitlines():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
        unseen = list(_unseen(tree))
    print(f"{len(BREAKS) - len(unseen)} of {len(BREAKS)} broken promises were seen")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
