"""`controlset ablate` as typed, but for the table itself: see tests/controlnet."""

import pytest

from controlnet.ablations.config import AblationConfig
from controlset.cli import main
from tests.controlnet.tiny_runs import data


def in_process(capsys, *arguments):
    status = main(["ablate", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_help_fits_a_terminal_and_has_an_example_and_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["ablate", "--help"])
    assert stop.value.code in {0, None}
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "controlset ablate --data shapes-set --output ablation" in out
    for name in AblationConfig.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in out


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (["--condition", "depth"], "need the condition 'depth', found canny"),
        (["--data", "nowhere"], "nowhere: need a complete data set, found no"),
        (["--steps", "100"], "--steps: need a multiple of 16, got 100"),
        (["--images", "500"], "need 500 validation rows of one size, got"),
    ],
)
def test_what_cannot_work_is_one_line_and_writes_nothing(capsys, tmp_path, change, line):
    options = ["--data", data(), "--output", tmp_path / "table", *change]
    status, out, err = in_process(capsys, *options)
    assert (status, out) == (2, "")
    assert err.startswith("controlset ablate: ")
    assert line in err
    assert err.count("\n") == 1
    assert not (tmp_path / "table").exists()
