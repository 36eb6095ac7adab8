"""Everything that reads a set, a run or an evaluation, each in a forked child that is watched."""

import contextlib
import hashlib
import importlib
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from schemas.errors import ConfigError
from tests.faults.mutation_world import World, evaluate_options, run_options

LIMIT_S = 60
MORE_MEMORY = 3 << 30  # bytes of address space beyond what the parent has

_MODULES = (
    "controlset.commands.verify", "controlset.commands.inspect", "controlset.commands.train",
    "controlset.commands.evaluate", "controlset.commands.sample", "controlset.commands.export",
    "pipeline.verify.verify", "pipeline.inspection", "pipeline.add.swap",
    "controlset.judge", "controlset.drawing", "controlset.report.page",
    "controlnet.export",
    "schemas.dataset", "annotators.conditions.pose", "tests.controlnet.tiny_runs",
    "matplotlib.pyplot", "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip", "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl", "diffusers.schedulers.scheduling_ddim",
    "diffusers.schedulers.scheduling_ddpm",
)  # fmt: skip
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Seen(NamedTuple):
    """What one reader did."""

    status: int | None  # as the command line; None: it raised, crashed or hung
    value: str  # digest of what it gave; "" where there is nothing to compare
    told: str  # the last line that it wrote to stderr, or the error
    fault: str  # "", traceback, crash, hang, ugly


class Reader(NamedTuple):
    """How a folder is read."""

    name: str
    read: Callable[[World], tuple[int, str]]  # exit status, value
    writes: str | None = None  # the target that it may change


def import_everything() -> None:
    """Once, in the parent, what every child needs; leaves no thread."""
    for name in _MODULES:
        importlib.import_module(name)
    import pyarrow
    import torch

    torch.set_num_threads(1)
    pyarrow.array([0])  # imports pandas


def hold_base(world: World) -> None:
    """Read the base once, too: nobody mutates it, and a child is a copy of this process."""
    import torch

    from controlnet.architecture import backbone
    from controlnet.evaluator import models
    from controlnet.trainer import setup

    load = backbone.load_base
    base = load(str(world.base), dtype=torch.float32, offline=True)

    def loaded(name: str, *arguments: Any, **options: Any) -> Any:
        return base if name == str(world.base) else load(name, *arguments, **options)

    models.load_base = setup.load_base = loaded


def _main(world: World, *words: str) -> int:
    from controlset.cli import main

    try:
        return main(list(words))
    except SystemExit as error:  # the parser's own
        return error.code if isinstance(error.code, int) else 1


def _digest(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _verify(world: World) -> tuple[int, str]:
    return _main(world, "verify", str(world.at("set")), "--num-workers", "1"), ""


def _inspect(world: World) -> tuple[int, str]:
    numbers, page = world.out / "numbers.json", world.out / "page.html"
    words = ["inspect", str(world.at("set")), "--json", str(numbers), "--html", str(page)]
    status = _main(world, *words, "--num-workers", "1")
    value = ""
    if status == 0:
        document = json.loads(numbers.read_text())
        value = _digest(json.dumps(document, sort_keys=True), page.read_bytes())
    return status, value


def _open(world: World) -> tuple[int, str]:
    from schemas.dataset import open_dataset

    data = open_dataset(str(world.at("set")))
    parts: list[object] = [len(data), data.conditions, data.manifest.splits.keys()]
    for split in data.manifest.splits:
        for one in open_dataset(str(world.at("set")), split=split):
            parts += [split, one.key, one.text, sorted(one.fields.items(), key=repr)]
            parts.append(one.image.tobytes())
            parts += [(n, None if m is None else m.tobytes()) for n, m in one.maps.items()]
    parts.append(data.rejects())
    return 0, _digest(*parts)


def _load(latents: bool) -> Callable[[World], tuple[int, str]]:
    def read(world: World) -> tuple[int, str]:
        from controlnet.trainer.batch import DrawOptions
        from controlnet.trainer.index import scan
        from controlnet.trainer.loader import Loader

        index = scan(str(world.at("set")), split="train", condition="canny", wants_latents=latents)
        options = DrawOptions(num_train_timesteps=1000)
        loader = Loader(
            index, seed=1, batch_size=2, options=options, latent_channels=4, latent_factor=4,
            workers=1,
        )  # fmt: skip
        parts: list[object] = []
        for batch in loader.iterate(0):
            parts += [batch.keys, batch.texts, batch.hint_BCHW.numpy().tobytes()]
            parts += [batch.original_size_B2.tolist(), batch.crop_B2.tolist()]
            for tensor in (batch.image_BHWC, batch.moments_BCHW):
                parts.append(None if tensor is None else tensor.numpy().tobytes())
        return 0, _digest(*parts)

    return read


def _train(world: World) -> tuple[int, str]:
    words = run_options(world)
    words[words.index("--output") + 1] = str(world.out / "run")
    words[words.index("--probe-every") + 1] = "0"
    status = _main(world, "train", *words, "--steps", "1")
    return status, _weights(world.out / "run") if status == 0 else ""


def _resume(world: World) -> tuple[int, str]:
    words = run_options(world)
    words[words.index("--probe-every") + 1] = "0"
    status = _main(world, "train", *words, "--steps", "3", "--resume")
    return status, _weights(world.at("run")) if status == 0 else ""


def _weights(run: Path) -> str:
    return _digest((run / "controlnet" / "diffusion_pytorch_model.safetensors").read_bytes())


def _evaluate(place: str | None) -> Callable[[World], tuple[int, str]]:
    """Judges; goes on with the evaluation, or begins one that samples anew."""

    def read(world: World) -> tuple[int, str]:
        output = world.out / "evaluation" if place is None else world.at(place)
        words = ["evaluate", *evaluate_options(world), "--output", str(output), "--no-report"]
        status = _main(world, *words)
        if status != 0:
            return status, ""
        document = json.loads((output / "evaluation.json").read_text())
        kept = {name: document.get(name) for name in ("rows", "data", "measures", "runs")}
        return status, _digest(json.dumps(kept, sort_keys=True), document["protocol"]["id"])

    return read


def _sample(world: World) -> tuple[int, str]:
    import numpy as np
    from PIL import Image

    output = world.out / "picture.png"
    words = ["sample", "--run", str(world.at("run")), "--hint", str(world.root / "hint/hint.png")]
    words += ["--prompt", "a star", "--output", str(output), "--steps", "1", "--device", "cpu"]
    status = _main(world, *words, "--offline")
    if status != 0:
        return status, ""
    with Image.open(output) as picture:
        return status, _digest(np.asarray(picture).tobytes())


def _export(world: World) -> tuple[int, str]:
    from safetensors.torch import load_file

    output = world.out / "exported"
    words = ["export", str(world.at("run")), "--format", "diffusers", "--output", str(output)]
    status = _main(world, *words)
    if status != 0:
        return status, ""
    tensors = load_file(output / "diffusion_pytorch_model.safetensors")
    parts = [(name, one.numpy().tobytes()) for name, one in sorted(tensors.items())]
    return status, _digest(*parts, (output / "config.json").read_bytes())


def _report(world: World) -> tuple[int, str]:
    """Status 1 where the page warns of more than the evaluation did: of changed files."""
    from controlset.report.page import write_report
    from controlset.report.records import gather

    folder = world.at("evaluation")
    page = write_report(folder).read_bytes()
    known = set(json.loads((folder / "evaluation.json").read_bytes())["warnings"])
    return (0, _digest(page)) if set(gather(folder).warnings) <= known else (1, "")


def _report_of_run(world: World) -> tuple[int, str]:
    """Curves of a run are shown as they lie there, so their value is not compared."""
    _report(world)
    return 0, ""


READERS: Mapping[str, tuple[Reader, ...]] = {
    "set": (
        Reader("verify", _verify),
        Reader("inspect", _inspect),
        Reader("open", _open),
        Reader("loader", _load(latents=False)),
        Reader("loader of latents", _load(latents=True)),
        Reader("train", _train),
        Reader("evaluate", _evaluate(None)),
    ),
    "run": (
        Reader("export", _export),
        Reader("sample", _sample),
        Reader("evaluate", _evaluate(None)),
        Reader("report", _report_of_run, writes="evaluation"),
        Reader("resume", _resume, writes="run"),
    ),
    "evaluation": (
        Reader("report", _report, writes="evaluation"),
        Reader("evaluate", _evaluate("evaluation"), writes="evaluation"),
    ),
}


def in_child(world: World, work: Callable[[], Any], limit_s: float = LIMIT_S) -> tuple[Any, str]:
    """Run `work` in a fork of this process.

    Returns:
        Its JSON-able result, or None; and what went wrong: "", crash, hang.
    """
    place = world.root / "result.json"
    place.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            place.write_text(json.dumps(work()))
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(0)
    end = time.monotonic() + limit_s
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None, "hang"
        time.sleep(0.003)
    if not place.exists():
        return None, "crash"
    return json.loads(place.read_text()), ""


def look(world: World, reader: Reader) -> Seen:
    """Let one reader read."""
    world.empty_out()
    paths = {name: world.root / f"{name}.txt" for name in ("stdout", "stderr")}

    def work() -> dict[str, Any]:
        for descriptor, path in enumerate(paths.values(), 1):
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, descriptor)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MORE_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            status, value = reader.read(world)
            found = {"status": status, "value": value, "error": "", "trace": ""}
        except BaseException as error:  # noqa: BLE001  # any of them is what we look for
            kind = type(error).__name__
            refused = isinstance(error, ConfigError)
            trace = "" if refused else traceback.format_exc()[-6000:]
            status = 2 if refused else None
            text = f"{kind}: {error}"
            found = {"status": status, "value": "", "error": text, "trace": trace}
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        return found

    found, fault = in_child(world, work)
    out, err = (paths[n].read_bytes().decode(errors="replace") for n in ("stdout", "stderr"))
    last = (err.strip().splitlines() or [""])[-1]
    if found is None:
        return Seen(None, "", f"{fault}: {last[:300]}", fault)
    told = found["error"] or last
    if found["trace"] or "Traceback (most recent" in err + out:
        return Seen(found["status"], "", (found["trace"] or err)[-4000:], "traceback")
    ugly = _CONTROL.search(out + err + found["error"])
    if found["status"] == 2:
        plain = told.split(": ", 1)
        ugly = ugly or "\n" in told or len(plain) != 2
    return Seen(found["status"], found["value"], told[:600], "ugly" if ugly else "")
