"""What an inspection's page says of everything that was found and not used."""

import dataclasses

from pipeline.inspection import inspect_dataset, render_inspection
from schemas.ledger import CaptionCounts, ColumnCounts, Ledger, Noted
from tests.pipeline.handmade import PHOTOGRAPHS, photograph, row_of, write_dataset
from tests.pipeline.test_preview import acting, parsed


def test_the_page_tells_what_was_found_and_not_used(tmp_path):
    evil = "<img src=x onerror=alert(1)>\u202e.svg"
    ledger = Ledger(
        found=1_240,
        planned=4,
        ignored={
            "unread_format": Noted(count=1_234, examples=(evil, "b.svg", "x" * 500)),
            "hidden": Noted(count=2, examples=(".a", ".b")),
        },
        captions=CaptionCounts(
            used=3,
            unused={"caption_without_picture": Noted(count=7, examples=("<b>c.txt",))},
            lists=1,
        ),
    )
    rows = [row_of(photograph(name), f"{name}.jpg") for name in PHOTOGRAPHS[:4]]
    write_dataset(tmp_path, {"train": rows}, ledger=ledger)
    found = inspect_dataset(str(tmp_path), workers=2)
    assert found.ledger == ledger
    unusable = Noted(count=1, examples=("a.jpg: need int64",))
    ledger = dataclasses.replace(ledger, columns={"id": ColumnCounts(kept=3, unusable=unusable)})
    page = render_inspection(dataclasses.replace(found, ledger=ledger))
    tags, text = parsed(page)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[lines.index("of the sourcecountwhat it isexamples") + 1 :][:11] == [
        "files not used1,236",
        "unread_format1,234pictures that are not decoded here; convert them to PNG or JPEG"
        r"<img src=x onerror=alert(1)>\u202e.svgb.svg" + "x" * 160 + " …",
        "hidden2hidden.a.b",
        "captions found10",
        "captions used3",
        "of them lists1--caption-list says which one is taken",
        "rows without one1",
        "captions not used7",
        "caption_without_picture7no picture of that name beside it<b>c.txt",
        "column id3values kept",
        "not of its type1null in their rowsa.jpg: need int64",
    ]
    assert not acting(page)
    assert not [attrs for tag, attrs in tags if tag == "img" and attrs["src"] == "x"]
