"""An audit of maps that a network drew: with its weights, with others, with none."""

import pytest
import skimage
from PIL import Image

from controlset.cli import main
from tests.annotators.reference_weights import write

pytestmark = pytest.mark.slow


def test_an_audit_needs_the_weights_that_made_the_maps(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CONTROLSET_WEIGHTS", raising=False)
    for name in ("photos", "mine", "others"):
        (tmp_path / name).mkdir()
    Image.fromarray(skimage.data.coffee()).save(tmp_path / "photos" / "coffee.png")
    write(tmp_path / "mine", "hed")
    write(tmp_path / "others", "hed", seed=1)
    output = str(tmp_path / "set")
    generate = ["generate", str(tmp_path / "photos"), "--output", output, "--conditions", "hed"]
    on_cpu = ["--device", "cpu", "--offline", "--weights", str(tmp_path / "mine")]
    assert main([*generate, "--resolution", "128", *on_cpu]) == 0
    audit = ["verify", output, "--audit", "1", "--device", "cpu"]
    assert main([*audit, "--weights", str(tmp_path / "mine")]) == 0
    capsys.readouterr()
    assert main(audit) == 1
    assert "not audited: weights: need ControlNetHED.pth" in capsys.readouterr().out
    assert main([*audit, "--weights", str(tmp_path / "others")]) == 1
    assert "not audited: hed: need ControlNetHED.pth (lllya" in capsys.readouterr().out
    monkeypatch.setenv("CONTROLSET_WEIGHTS", str(tmp_path / "mine"))
    assert main(audit) == 0
    assert main(["verify", output, "--audit", "1", "--device", "cuda:99"]) == 2
    assert "--device cuda:99: need that GPU" in capsys.readouterr().err
