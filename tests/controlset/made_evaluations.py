"""Folders as `controlset evaluate` leaves them, made of drawn scenes: every part of a report."""

import json
from pathlib import Path

import cv2
import numpy as np

from controlnet.nano.scenes import draw, random_scene
from tests.controlset.made_documents import document_of, with_reasons
from tests.controlset.made_pictures import edges, grainy, save, scored, shaken

HOSTILE = (
    '<script>alert("1")</script>\'"><img src=x onerror=alert(2)>'
    "\x1b[31m\x00\u202e\x9b {{ 7*7 }} $x^{$"
)
LONG = "Donaudampfschifffahrtsgesellschaft" * 12
BOUNDS = {"floor": 0.22, "ceiling": 0.99}
STEPS = tuple(range(0, 1300, 100))


def made_evaluation(
    folder: Path,
    *,
    rows: int = 24,
    runs: tuple[str, ...] = ("run",),
    size: int = 64,
    noise: float = 0.0,
    data: str = "/gone/shapes-set",
) -> Path:
    """An evaluation with its runs, complete.

    Args:
        folder: becomes `folder/evaluation` and `folder/runs/N`.
        rows: how many pictures are judged.
        runs: their names; the second one obeys a little less than the first.
        size: side of the pictures, px.
        noise: of a camera, grey levels; makes files as large as those of photographs.
        data: path of the data set in the document.
    """
    place = folder / "evaluation"
    rng = np.random.default_rng(0)
    scores: dict[str, list[dict[str, float]]] = {}
    pictures = []
    for number in range(rows):
        record, of_rows = _row(place, rng, f"{number * 7919:016x}", runs, size, noise)
        pictures.append(record)
        for name, one in of_rows.items():
            scores.setdefault(name, []).append(one)
    for number in range(len(runs)):
        made_run(folder / "runs" / str(number), size=min(size, 128))
    document = document_of(folder, runs, scores, data, size)
    document["pictures"] = with_reasons(pictures)
    write(place, document)
    return place


def write(place: Path, document: dict) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "evaluation.json").write_text(json.dumps(document))
    return place


def read(place: Path) -> dict:
    return json.loads((place / "evaluation.json").read_text())


def change(place: Path, **parts) -> None:
    """Other values for some parts of the document; None takes the part away."""
    document = read(place) | parts
    write(place, {name: part for name, part in document.items() if part is not None})


def hostile(place: Path) -> None:
    """Put text that wants to break out wherever text can stand."""
    document = read(place)
    for one in document["pictures"]:
        one["text"], one["key"] = f"{HOSTILE} {LONG}", LONG[:64] + HOSTILE
    names = {run["name"]: f"{HOSTILE}{n}{LONG}" for n, run in enumerate(document["runs"])}
    document = _renamed(document, names)
    for number, run in enumerate(document["runs"]):
        run["path"], run["base"] = str(place.parent / "runs" / str(number)), HOSTILE + LONG
    document["data"] |= {"path": f"/{LONG}/{HOSTILE}", "conditions": [HOSTILE, LONG]}
    document["protocol"] |= {"id": LONG, "scorer": HOSTILE, HOSTILE: LONG, "negative_prompt": LONG}
    document["warnings"] = [HOSTILE, LONG]
    document["missing"] = [{"measure": HOSTILE, "why": LONG}, {"measure": LONG, "why": HOSTILE}]
    document["measures"][1] |= {"label": HOSTILE + LONG, "unit": HOSTILE}
    document["measures"][2] |= {"label": LONG}
    document["software"][HOSTILE] = LONG
    document["hardware"] = LONG
    write(place, document)


def made_run(folder: Path, *, size: int) -> None:
    """A run's folder: metrics, probes, samples, summary and settings."""
    rng = np.random.default_rng(1)
    (folder / "samples").mkdir(parents=True)
    scenes = [draw(random_scene(rng), size_px=size) for _ in range(12)]
    bases = [draw(random_scene(rng), size_px=size) for _ in range(12)]
    probes = []
    for step in STEPS:
        opened = 1 / (1 + np.exp(-(step - 350) / 60)) if step else 0.0
        score = 0.22 + 0.66 * opened
        probes.append(
            {
                "step": step,
                "loss_bins": [0.11 - 0.02 * opened, 0.04, 0.03, 0.02, 0.007],
                "shuffled_bins": [0.11, 0.04, 0.03, 0.02, 0.007],
                "gain": 0.09 * opened,
                "zero_norms": [0.01 * opened] * 7,
                "ratios": [opened] * 7,
                "adherence": score,
                "shuffled": 0.2,
            }
        )
        mixed = [
            (opened * ours + (1 - opened) * base).astype(np.uint8)
            for ours, base in zip(scenes, bases, strict=True)
        ]
        save(folder / "samples" / f"step-{step:08d}.png", np.concatenate(mixed, axis=1))
    losses = 0.032 + 0.018 * np.exp(-np.arange(120) / 30) * rng.uniform(0.6, 1.4, 120)
    metrics = [
        {"step": 10 * n + 10, "epoch": 0, "loss": float(loss)} for n, loss in enumerate(losses)
    ]
    for name, lines in (("metrics", metrics), ("probe", probes)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    summary = {"step": 1200, "seconds": 566.0, "samples_per_s": 85.2, "bounds": BOUNDS}
    (folder / "summary.json").write_text(json.dumps(summary | {"snap": 400}))
    config = {"condition": "canny", "learning_rate": 0.001, "steps": 1200, "batch_size": 32}
    (folder / "config.json").write_text(json.dumps({"config": config}))


def _renamed(part, names):
    """The same JSON with other texts for some."""
    if isinstance(part, dict):
        return {name: _renamed(one, names) for name, one in part.items()}
    if isinstance(part, list):
        return [_renamed(one, names) for one in part]
    return names.get(part, part) if isinstance(part, str) else part


def _row(place, rng, key, runs, size, noise):
    """Files and scores of one row of the data set."""
    scene = random_scene(rng)
    real = grainy(draw(scene, size_px=size), rng, noise)
    wanted = edges(real)
    floor = grainy(draw(random_scene(rng), size_px=size), rng, noise)
    names = [*(f"run-{number}" for number in range(len(runs))), "floor"]
    made = [shaken(real, rng, (1.1 + 0.7 * number) * size / 64) for number in range(len(runs))]
    record = {
        "key": key,
        "number": 0,
        "text": scene.caption,
        "real": _kept(place, f"real/{key}", real),
        "wanted": _kept(place, f"wanted/{key}", wanted),
        "rows": {"model": [], "floor": []},
    }
    others = edges(floor)
    of_rows = {"ceiling": scored(edges(cv2.GaussianBlur(real, (3, 3), 0)), wanted)}
    for name, run, picture in zip(names, [*runs, None], [*made, floor], strict=True):
        found = edges(picture)
        of_rows[name] = scored(found, wanted)
        of_rows[f"shuffled-{name}"] = scored(found, others if run else wanted)
        record["rows"]["floor" if run is None else "model"].append(
            {
                "run": run,
                "picture": _kept(place, f"{name}/{key}-0", picture),
                "found": _kept(place, f"{name}/{key}-0-canny", found),
                "score": of_rows[name]["f1_1px"],
            }
        )
    return record, of_rows


def _kept(place, name, pixels):
    save(place / "pictures" / f"{name}.png", pixels)
    return f"pictures/{name}.png"
