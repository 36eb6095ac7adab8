"""`evaluation.json` as `controlset evaluate` writes it."""

import numpy as np

from controlnet.evaluator.metrics.base import estimate, estimate_difference, mean


def document_of(folder, runs, scores, data, size):
    fid = {"floor": 63.8, "run-0": 41.2, "run-1": 55.0, "run-2": 60.1}

    def values(name):
        return {
            measure: _json(estimate([np.array([[one[measure]]]) for one in scores[name]], mean))
            for measure in ("f1_1px", "f1", "density_ratio")
        } | ({"fid": _plain(fid[name]), "clip": None} if name in fid else {})

    rows = [{"row": "ceiling", "run": None, "values": values("ceiling")}]
    for row, before in (("model", "run-"), ("shuffled", "shuffled-run-")):
        rows += [
            {"row": row, "run": run, "values": values(f"{before}{number}")}
            for number, run in enumerate(runs)
        ]
    rows.append({"row": "floor", "run": None, "values": values("floor")})
    return {
        "format": "controlset-evaluation",
        "version": 1,
        "protocol": _protocol(size),
        "data": {
            "path": data,
            "split": "validation",
            "rows": len(scores["floor"]) + 2,
            "used": len(scores["floor"]),
            "train_rows": 3800,
            "rejected_images": 2,
            "reasons": {"truncated": 2},
            "conditions": ["canny", "depth"],
            "null_maps": 2,
        },
        "runs": [
            {"name": run, "path": str(folder / "runs" / str(n)), "step": 1200, "base": "nano"}
            for n, run in enumerate(runs)
        ],
        "measures": _measures(),
        "rows": rows,
        "missing": [
            {"measure": "KID", "why": "no Inception weights: give --inception FILE"},
            {"measure": "LPIPS", "why": "no weights: give --lpips FOLDER"},
        ],
        "warnings": [
            "the judge is the annotator that drew the training maps: it may share their faults; "
            "judge with another one, too (--judge canny:low=100,high=200)"
        ],
        "comparisons": [
            _compared(runs[0], run, f"run-{n}", scores) for n, run in enumerate(runs) if n
        ],
        "sweeps": [
            {"what": what, "run": run, "points": _points(values(f"run-{n}"), "at", ats)}
            for n, run in enumerate(runs)
            for what, ats in (("guidance", (1.0, 3.0, 5.0, 7.5)), ("scale", (0.0, 0.5, 1.0, 1.5)))
        ],
        "curve": [
            {"run": run, "points": _points(values(f"run-{n}"), "step", (200, 400, 800, 1200))}
            for n, run in enumerate(runs)
        ],
        "software": {"controlset": "0.1.0", "torch": "2.12.0", "diffusers": "0.39.0"},
        "hardware": "AMD EPYC 7B13, 2 cores, 23 GB",
        "seconds": {"sampling": 40.1, "judging": 3.0},
    }


def _protocol(size):
    return {
        "id": "strict-3f2a91bc",
        "preset": "strict",
        "condition": "canny",
        "scorer": "edges match within 1 px (dilation); F1 of a picture, mean over pictures",
        "judge": {"name": "canny", "revision": 1, "parameters": {"low": 60, "high": 120}},
        "same_judge": True,
        "wanted": "stored",
        "scheduler": "ddim",
        "steps": 20,
        "guidance": 3.0,
        "scale": 1.0,
        "negative_prompt": "",
        "seed": 0,
        "samples_per_image": 1,
        "codec": "png",
        "sizes": [[size, size]],
        "precision": "fp32",
    }


def _measures():
    fields = ("name", "label", "unit", "higher_is_better", "kind")
    lines = (
        ("f1_1px", "F1 (1 px)", "", True, "adherence"),
        ("f1", "F1 (exact)", "", True, "adherence"),
        ("density_ratio", "density ratio", "", True, "adherence"),
        ("fid", "FID", "", False, "quality"),
        ("clip", "CLIP score", "", True, "text"),
    )
    return [dict(zip(fields, line, strict=True)) for line in lines]


def _points(values, axis, ats):
    """Values that rise along an axis and saturate."""
    points = []
    for number, at in enumerate(ats):
        share = 1 - 0.7 * np.exp(-number)
        scaled = {
            name: one and {k: v * share if k != "count" and v else v for k, v in one.items()}
            for name, one in values.items()
        }
        points.append({axis: at, "values": scaled})
    return points


def _compared(a, b, name, scores):
    groups = [[np.array([[one["f1_1px"]]]) for one in scores[run]] for run in ("run-0", name)]
    return {"a": a, "b": b, "measure": "f1_1px", **_json(estimate_difference(*groups, mean))}


def _json(one):
    return {"value": one.value, "low": one.low, "high": one.high, "count": one.count}


def _plain(value):
    return {"value": value, "low": None, "high": None, "count": 24}


def with_reasons(pictures):
    """As the evaluator says why a picture is kept."""
    score = [one["rows"]["model"][0]["score"] for one in pictures]
    ranked = np.argsort(score)
    middle = (len(ranked) - 4) // 2
    whys = dict.fromkeys(range(12), "first")
    whys |= dict.fromkeys(ranked[middle : middle + 4].tolist(), "median")
    whys |= dict.fromkeys(ranked[:4].tolist(), "worst")
    whys |= dict.fromkeys(ranked[-4:].tolist(), "best")
    return [{**one, "why": whys[place]} for place, one in enumerate(pictures) if place in whys]


def estimates(**values: float) -> dict:
    """Values without much interval, as a row holds them."""
    return {
        name: {"value": value, "low": value - 0.01, "high": value + 0.01, "count": 64}
        for name, value in values.items()
    }


def four_rows(ceiling: float, model: float, shuffled: float, floor: float) -> list[dict]:
    """Rows of one run with the headline alone."""
    named = {"ceiling": ceiling, "model": model, "shuffled": shuffled, "floor": floor}
    return [
        {
            "row": row,
            "run": "run" if row in {"model", "shuffled"} else None,
            "values": estimates(f1_1px=value),
        }
        for row, value in named.items()
    ]
