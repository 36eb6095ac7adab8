"""The report of an evaluation: what it says, that nothing breaks out of it, what may be missing."""

import base64
import dataclasses
import html
import json
import re
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from controlnet.evaluator.records import MeasureRecord, NumberRecord
from controlset.report import write_report
from controlset.report.numbers import (
    decimals,
    duration,
    interval,
    plain,
    said,
    verdict_of,
)
from controlset.report.page import by_rank, in_order
from controlset.report.records import gather
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from tests.controlset.made_documents import estimates, four_rows
from tests.controlset.made_evaluations import (
    HOSTILE,
    LONG,
    change,
    hostile,
    made_evaluation,
    made_run,
    read,
    write,
)
from tests.pipeline.test_preview import acting
from tests.schemas.test_records import shard

OPTIONAL = (
    "protocol data runs rows missing warnings comparisons sweeps curve pictures software hardware "
    "seconds"
).split()


@pytest.fixture
def painted():
    """Asked for by tests whose figures are painted."""


@pytest.fixture(autouse=True)
def _unpainted(request, monkeypatch):
    """A figure takes a third of a second to paint: elsewhere a report of 14 has one grey pixel."""
    if "painted" not in request.fixturenames:
        grey = Image.new("L", (1, 1), 128)
        monkeypatch.setattr(Figure, "savefig", lambda _, file, **options: grey.save(file, "png"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    made_evaluation(folder, rows=8)
    return folder


@pytest.fixture
def place(made, tmp_path):
    """A copy of one's own."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    document = tmp_path / "evaluation" / "evaluation.json"
    document.write_text(document.read_text().replace(str(made), str(tmp_path)))
    return document.parent


@pytest.fixture
def lean(place):
    """Without the parts whose figures take time."""
    gone = {"name": "run", "path": "/gone", "step": 1200}
    change(place, sweeps=[], curve=[], runs=[gone])
    return place


def small(tmp_path, rows, *, higher=True, **more):
    """An evaluation without pictures or runs."""
    measure = {"name": "f1_1px", "label": "F1 (1 px)", "higher_is_better": higher}
    document = {"format": "controlset-evaluation", "version": 1, "measures": [measure]}
    return write(tmp_path, {**document, "protocol": {"condition": "canny"}, "rows": rows, **more})


def page_of(place):
    return write_report(place).read_text(encoding="utf-8")


def words_of(page):
    """What a reader sees of a page."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_the_verdict_is_a_sentence_made_of_the_four_numbers(tmp_path):
    words = words_of(page_of(small(tmp_path, four_rows(0.99, 0.883, 0.21, 0.22))))
    assert "Obeys : Canny F1 (1 px) 0.88 (0.87\N{EN DASH}0.89)" in words
    assert (
        "Without control 0.22, with another picture's map 0.21, the real pictures 0.99: "
        "86 % of the way from no control to the real pictures." in words
    )


def test_the_first_screen_says_normalised_obedience_or_why_there_is_none(tmp_path):
    rows = four_rows(0.99, 0.883, 0.21, 0.22)
    one = {"run": "run", "measure": "f1_1px", "why": None}
    shares = {
        "obedience": {"value": 0.861, "low": 0.85, "high": 0.87, "count": 64},
        "specificity": {"value": 0.863, "low": 0.85, "high": 0.87, "count": 64},
    }
    words = words_of(page_of(small(tmp_path, rows, obedience=[one | shares])))
    assert "Obeys : normalised obedience 0.86 (0.85\N{EN DASH}0.87)" in words
    assert (
        "Canny F1 (1 px) 0.88 (0.87\N{EN DASH}0.89), without control 0.22, with another picture's "
        "map 0.21, the real pictures 0.99; specificity 0.86 (0.85\N{EN DASH}0.87)." in words
    )
    none = one | {"obedience": None, "specificity": None, "why": "no room: F1 0.22 <b>"}
    words = words_of(page_of(small(tmp_path, rows, obedience=[none])))
    assert "Obeys : Canny F1 (1 px) 0.88" in words
    assert "to the real pictures; no room: F1 0.22 <b>." in words


def test_by_the_truth_the_judge_itself_has_a_row_and_its_meaning(tmp_path):
    rows = four_rows(0.9, 0.8, 0.21, 0.22)
    without = words_of(page_of(small(tmp_path, rows)))
    assert "the judge itself" not in without
    assert "compared with the map that was asked for." in without
    judge = {"row": "judge", "run": None, "values": estimates(f1_1px=0.95)}
    words = words_of(page_of(small(tmp_path, [judge, *rows])))
    assert "the real pictures 0.90, the judge itself 0.95: 85 % of the way" in words
    assert "the judge itself the original pictures, seen by the annotator" in words
    assert "compared with what is true of the scene that was asked for." in words


@pytest.mark.parametrize(
    ("rows", "word", "good"),
    [
        ((0.99, 0.88, 0.21, 0.22), "obeys", True),
        ((0.99, 0.50, 0.21, 0.22), "obeys in part", False),
        ((0.99, 0.235, 0.21, 0.22), "does not obey", False),
        ((0.99, 0.88, 0.87, 0.22), "does not obey", False),
        ((0.22, 0.88, 0.21, 0.22), "cannot be told: the judge rates", None),
    ],
)
def test_the_word_follows_from_the_intervals(tmp_path, rows, word, good):
    verdict = verdict_of(gather(small(tmp_path, four_rows(*rows))), "run")
    assert verdict.word.startswith(word)
    assert verdict.good is good


def test_an_error_that_falls_obeys_as_well(tmp_path):
    found = gather(small(tmp_path, four_rows(0.05, 0.12, 0.6, 0.5), higher=False))
    assert verdict_of(found, "run").word == "obeys"
    found = gather(small(tmp_path, four_rows(0.05, 0.6, 0.6, 0.5), higher=False))
    assert verdict_of(found, "run").word == "does not obey"


def test_without_rows_to_compare_with_nothing_is_claimed(tmp_path):
    only = [one for one in four_rows(0.99, 0.88, 0.21, 0.22) if one["row"] == "model"]
    verdict = verdict_of(gather(small(tmp_path, only)), "run")
    assert (verdict.word, verdict.good) == ("cannot be told: nothing to compare with", None)
    only[0]["values"]["f1_1px"] = None
    page = page_of(small(tmp_path, only))
    assert "Cannot be told: no number for the model" in words_of(page)


def test_every_number_stands_beside_its_interval_and_direction(lean):
    page = page_of(lean)
    found = gather(lean)
    value = found.value("model")
    ends = f"{value.low:.2f}\N{EN DASH}{value.high:.2f}"
    assert f"<b>{value.value:.2f}</b> <small>{ends}</small>" in page
    assert "<b>F1 (exact)</b><span>↑ higher is better</span>" in page
    assert "<b>density ratio</b><span>1 is best</span>" in page
    assert "<b>FID</b><span>↓ lower is better</span>" in page
    for name in ("real pictures", "model", "another map", "no control"):
        assert f'<th scope="row">{name}' in page


def test_the_page_is_one_file_that_runs_nothing_and_asks_nobody(lean):
    page = page_of(lean)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert "<script" not in page
    sources = re.findall(r'(?:src|href)="([^"]{0,22})', page)
    assert sources
    assert {one for one in sources if not one.startswith("data:image/")} == {"#notes"}
    assert not re.search(r"https?://|url\(", page)


def test_figures_lie_beside_the_page_and_in_it(place, painted):
    page = page_of(place)
    files = sorted(path.name for path in (place / "figures").iterdir())
    assert files == sorted(
        ["rows.png", "training-1-adherence.png", "training-1-loss.png", "training-1-gain.png"]
        + ["strips-1.png", "pictures.png"]
        + [
            f"{name}-{n}.png"
            for name in ("curve", "sweep-guidance", "sweep-scale")
            for n in (1, 2, 3)
        ]
    )
    for name in set(files) - {"rows.png", "pictures.png"}:
        encoded = base64.b64encode((place / "figures" / name).read_bytes()).decode()
        assert encoded in page, name


def test_a_report_written_again_is_the_same_to_the_byte(place, painted):
    before = write_report(place).read_bytes()
    assert write_report(place).read_bytes() == before


def test_the_snap_is_said_and_training_that_left_nothing_is_left_out(place, tmp_path):
    page = page_of(place)
    assert "1,200 steps in 9 min 26 s, 85.2 pictures/s. Control snapped in by step 400." in page
    change(place, runs=[{"name": "run", "path": str(tmp_path / "gone"), "step": None}])
    assert "<h2>Training" not in page_of(place)


def test_a_run_without_judge_or_summary_still_shows_its_loss(place):
    run = place.parent / "runs" / "0"
    lines = [json.loads(line) for line in (run / "probe.jsonl").read_text().splitlines()]
    bare = [{**line, "adherence": None, "shuffled": None} for line in lines]
    (run / "probe.jsonl").write_text("".join(json.dumps(line) + "\n" for line in bare))
    (run / "summary.json").write_text("{")  # cut short
    page = page_of(place)
    assert "Condition gain" in page
    assert "summary.json: need a document of controlset" in page  # said among the warnings
    assert "<b>Loss</b>" in page
    assert "Obedience over steps" not in page


@pytest.mark.parametrize("part", OPTIONAL)
def test_any_part_may_be_missing_or_empty(lean, part):
    change(lean, pictures=read(lean)["pictures"][:1])
    empty = type(read(lean)[part])()
    change(lean, **{part: empty})
    assert "<footer>" in page_of(lean)
    change(lean, **{part: None})
    assert "<footer>" in page_of(lean)


def test_a_document_with_nothing_but_a_measure_is_a_page_that_says_so(tmp_path):
    page = words_of(page_of(small(tmp_path, [])))
    assert "Nothing to judge" in page
    assert "No row has a number of F1 (1 px)." in page


def test_text_from_data_cannot_break_out(place):
    hostile(place)
    page = page_of(place)
    assert "<script" not in page
    assert "<img src=x" not in page
    assert page.count("<img") == page.count('src="data:image/')
    assert html.escape('<script>alert("1")</script>', quote=False).replace('"', "&#34;") in page
    assert "{{ 7*7 }}" in page
    assert not acting(page)
    assert r"\x1b[31m\x00\u202e\x9b" in page


def test_names_that_mathematics_would_choke_on_are_drawn_as_they_are(place, painted):
    document = json.loads(
        json.dumps(read(place)).replace('"run": "run"', '"run": "_$\\\\frac{$ 猫"')
    )
    document["measures"][0]["label"] = "$F_{1$ \\alpha"
    write(place, document)
    page_of(place)  # a warning or a parse error would fail it


def test_pictures_are_picked_by_score_and_shown_in_their_order(tmp_path):
    found = gather(made_evaluation(tmp_path, rows=20))
    groups = dict(by_rank(found))
    scores = {why: [one.score for one in chosen] for why, chosen in groups.items()}
    assert list(groups) == ["best", "median", "worst"]
    everything = sorted((one.score for one in found.pictures), reverse=True)
    assert scores["best"] == everything[:3]
    assert scores["worst"] == everything[-3:]
    assert scores["median"] == sorted(scores["median"], reverse=True)
    assert scores["best"][-1] > scores["median"][0] >= scores["median"][-1] > scores["worst"][0]


def test_without_reasons_in_the_document_ranks_are_worked_out_here(lean):
    found = gather(lean)
    bare = [dataclasses.replace(one, why=None) for one in found.pictures]
    everything = sorted(one.score for one in bare)
    falling = dataclasses.replace(found.headline, higher_is_better=False)
    document = dataclasses.replace(found.document, measures=[falling])
    turned = dataclasses.replace(found, document=document, pictures=bare)
    groups = dict(by_rank(turned))
    assert [one.score for one in groups["best"]] == everything[:2]
    assert [one.score for one in groups["worst"]] == everything[-2:]


def test_rows_in_order_are_one_of_each_image_by_key(lean):
    found = gather(lean)
    again = [dataclasses.replace(one, number=1) for one in found.pictures]
    shown = in_order([*again, *found.pictures[::-1]], 5)
    assert [one.key for one in shown] == sorted(one.key for one in found.pictures)[:5]
    assert {one.number for one in shown} == {0}


def test_a_picture_that_is_gone_broken_or_elsewhere_is_named_not_shown(lean, tmp_path):
    document = read(lean)
    secret = tmp_path / "secret.png"
    Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).save(secret)
    one, other, third = document["pictures"][:3]
    (lean / one["real"]).unlink()
    (lean / other["real"]).write_bytes(b"\x89PNG\r\n\x1a\n torn")
    third["real"] = "../secret.png"
    third["rows"]["model"][0]["found"] = None
    write(lean, document)
    page = page_of(lean)
    assert '<div class="none">not here</div>' in page
    assert '<div class="none">cannot be read</div>' in page
    assert '<div class="none">nothing found</div>' in page
    shown = {picture.real for picture in gather(lean).pictures}
    assert None in shown
    assert secret not in {path.resolve() for path in shown if path}


def test_what_was_not_measured_is_named_with_its_reason(lean):
    words = words_of(page_of(lean))
    assert "KID no Inception weights: give --inception FILE" in words
    assert "the judge is the annotator that drew the training maps" in words
    assert "1 warning, 2 not measured" in words


def test_every_field_of_the_protocol_is_on_the_page(lean):
    words = words_of(page_of(lean))
    for name in ("judge.parameters.low 60", "scheduler ddim", "same_judge yes", "guidance 3.0"):
        assert name in words
    assert "negative_prompt none" in words
    assert "sizes 64 \N{MULTIPLICATION SIGN} 64" in words


def test_a_difference_whose_interval_holds_zero_may_be_chance(tmp_path):
    place = made_evaluation(tmp_path, rows=6, runs=("one", "two"))
    change(place, sweeps=[], curve=[])
    shutil.rmtree(tmp_path / "runs")
    pair = {"a": "one", "b": "two", "measure": "f1_1px", "count": 6}
    change(place, comparisons=[{**pair, "value": -0.01, "low": -0.03, "high": 0.02}])
    assert "may be chance</span>" in page_of(place)
    change(place, comparisons=[{**pair, "value": -0.1, "low": -0.15, "high": -0.05}])
    words = words_of(page_of(place))
    assert "two minus one" in words
    assert "F1 (1 px) worse \N{MINUS SIGN}0.10 \N{MINUS SIGN}0.15 to \N{MINUS SIGN}0.05" in words


def test_a_ratio_of_which_one_is_best_is_neither_better_nor_worse(tmp_path):
    place = made_evaluation(tmp_path, rows=6, runs=("one", "two"))
    pair = {"a": "one", "b": "two", "measure": "density_ratio", "count": 6}
    change(place, comparisons=[{**pair, "value": 0.2, "low": 0.1, "high": 0.3}])
    change(place, sweeps=[], curve=[])
    shutil.rmtree(tmp_path / "runs")
    words = words_of(page_of(place))
    assert "density ratio differs +0.20 0.10 to 0.30" in words


def test_several_runs_each_get_their_verdict(tmp_path):
    place = made_evaluation(tmp_path, rows=6, runs=("one", "two"))
    change(place, sweeps=[], curve=[])
    shutil.rmtree(tmp_path / "runs")
    words = words_of(page_of(place))
    assert re.search(r"one obeys : Canny F1 \(1 px\) 0\.\d\d", words)
    assert re.search(r"two obeys Canny F1 \(1 px\) 0\.\d\d", words)


def test_a_data_set_that_is_still_there_adds_its_source_and_annotators(lean, tmp_path):
    assert "not looked at for this page" in page_of(lean)
    data = tmp_path / "set"
    data.mkdir()
    recipe = {"resolution": 64, "fit": "crop", "image_format": "png", "caption": "sidecar"}
    record = {
        "revision": 3,
        "parameters": {"low": [60, 60]},
        "hint_mode": "bilevel",
        "stats": {},
        "weights": None,
        "licence": "Apache-2.0",
    }
    manifest = Manifest(
        recipe=recipe, source="/photos", annotators={"canny": record}, software={}, shards=[shard()]
    )
    (data / "manifest.json").write_text(manifest.to_json())
    change(lean, data=read(lean)["data"] | {"path": str(data)})
    words = words_of(page_of(lean))
    assert "source /photos" in words
    assert "canny drawn by revision 3, low 60, 60 (Apache-2.0)" in words


def test_samples_of_other_shapes_are_cut_by_the_size_that_was_judged(place, tmp_path):
    samples = tmp_path / "runs" / "0" / "samples"
    for path in samples.iterdir():
        Image.fromarray(np.zeros((32, 4 * 48, 3), np.uint8)).save(path)
    change(place, protocol=read(place)["protocol"] | {"sizes": [[48, 32]]})
    (training,) = gather(place).trainings
    assert {one.shape for strip in training.strips for one in strip.pictures} == {(32, 48, 3)}
    assert [strip.step for strip in training.strips][::6] == [0, 1200]
    assert len(training.strips[0].pictures) == 4


@pytest.mark.slow
def test_a_page_of_three_runs_on_large_pictures_stays_below_five_megabytes(tmp_path, painted):
    place = made_evaluation(tmp_path, rows=12, runs=("a", "b", "c"), size=512, noise=8.0)
    assert write_report(place).stat().st_size < 5e6


def test_a_folder_without_an_evaluation_says_what_to_run(tmp_path):
    with pytest.raises(ConfigError, match=r"need an evaluation, found no evaluation\.json; run"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "need a document of controlset, got .*; run `controlset evaluate` again"),
        ('{"format": "controlset"}', "need controlset-evaluation version 1, got controlset"),
        (
            '{"format": "controlset-evaluation", "version": 2}',
            "got controlset-evaluation version 2; use the release",
        ),
        (
            '{"format": "controlset-evaluation", "version": 1, "measures": []}',
            "need at least one measure, got none",
        ),
    ],
)
def test_a_document_that_cannot_be_read_is_refused(tmp_path, document, message):
    (tmp_path / "evaluation.json").write_text(document)
    with pytest.raises(ConfigError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_not_a_number_is_no_json_and_what_was_not_measured_is_null(tmp_path):
    rows = four_rows(0.99, 0.88, 0.21, 0.22)
    rows[0]["values"] = estimates(f1_1px=float("nan"))
    with pytest.raises(ConfigError, match="need a document of controlset, got"):
        gather(small(tmp_path, rows))
    rows[0]["values"] = {"f1_1px": None}
    found = gather(small(tmp_path, rows))
    assert found.value("ceiling") is None
    assert "not computed" in page_of(tmp_path)


@pytest.mark.parametrize("changes", [{"sha256": "0" * 64}, {"rows": 3}, {"measures": [{}]}])
def test_a_result_that_was_changed_or_is_of_another_form_is_one_line(tmp_path, changes):
    place = small(tmp_path, four_rows(0.99, 0.88, 0.21, 0.22))
    change(place, **changes)
    with pytest.raises(
        ConfigError, match=r"evaluation.json: need .*run `controlset evaluate` again"
    ):
        gather(place)


def test_numbers_have_as_many_digits_as_their_interval_deserves():
    degrees = MeasureRecord(name="a", label="a", unit="°", higher_is_better=False, kind="adherence")
    pixels = dataclasses.replace(degrees, unit="px")

    def value(number, low, high):
        return NumberRecord(value=number, low=low, high=high, count=None)

    assert decimals([value(0.883, 0.87, 0.90)]) == 2
    assert decimals([value(0.8831, 0.8811, 0.8851)]) == 3
    assert decimals([value(41.25, 38.0, 44.0)]) == 1
    assert decimals([value(0.00123, None, None)]) == 4
    assert decimals([]) == 2
    assert said(value(12.34, 12.0, 12.6), degrees, 1) == "12.3°"
    assert said(value(12.34, 12.0, 12.6), pixels, 1) == "12.3\N{NO-BREAK SPACE}px"
    assert interval(value(-0.01, -0.03, 0.01), 2) == "\N{MINUS SIGN}0.03 to 0.01"
    assert interval(value(1.0, None, None), 2) == ""
    assert plain(-0.001, 2) == "0.00"
    assert [duration(one) for one in (3.04, 566, 7500)] == ["3.0 s", "9 min 26 s", "2 h 5 min"]


def test_the_made_run_reads_like_one_of_the_trainer(tmp_path):
    made_run(tmp_path / "run", size=64)
    lines = (tmp_path / "run" / "probe.jsonl").read_text().splitlines()
    assert {"step", "loss_bins", "gain", "adherence", "shuffled"} <= set(json.loads(lines[0]))


def test_long_words_and_hostile_text_reach_the_page_whole_or_cut_with_a_count(place):
    hostile(place)
    page = page_of(place)
    assert LONG in page
    assert re.search(r"… \d+ characters more", page)
    assert HOSTILE not in page
