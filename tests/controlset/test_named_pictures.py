"""Pictures that a user names: hints, masks, photographs."""

import numpy as np
import pytest
from PIL import Image

from controlset.drawing import read_map, read_mask, read_photograph
from schemas.errors import ConfigError


@pytest.mark.parametrize("kind", ["png", "webp", "gif"])
def test_what_is_transparent_in_a_map_or_mask_holds_nothing(tmp_path, kind):
    rgba = np.zeros((8, 16, 4), np.uint8)
    rgba[:, :8] = 255  # white and opaque, then white that nobody sees
    rgba[:, 8:, :3] = 255
    path = tmp_path / f"map.{kind}"
    Image.fromarray(rgba).save(path, lossless=True)
    for pixels in (read_map(path, "--hint"), read_mask(path, "--mask")):
        assert (pixels[:, :8] == 255).all()
        assert (pixels[:, 8:] == 0).all()
    assert (read_photograph(path, "--init-image") == 255).all()  # on white, as in a data set


def test_a_map_keeps_its_values_and_its_kind(tmp_path):
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    palette = Image.fromarray(np.full((8, 8, 3), (10, 200, 30), np.uint8)).quantize(4)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    palette.save(tmp_path / "palette.png")
    Image.new("1", (8, 8), 1).save(tmp_path / "bits.png")
    assert np.array_equal(read_map(tmp_path / "deep.png", "--hint"), deep)
    assert read_map(tmp_path / "palette.png", "--hint")[0, 0].tolist() == [10, 200, 30]
    assert np.array_equal(read_map(tmp_path / "bits.png", "--hint"), np.full((8, 8), 255))
    assert read_mask(tmp_path / "deep.png", "--mask").max() == (63_000 >> 8)


@pytest.mark.parametrize("name", ["x.eps", "x.pdf", "x.ico"])
@pytest.mark.parametrize("reader", [read_map, read_mask, read_photograph])
def test_a_file_that_could_run_code_is_no_picture(tmp_path, name, reader):
    Image.new("RGB", (32, 32)).save(tmp_path / name)
    with pytest.raises(ConfigError, match=rf"--hint .*{name}: need a picture, got not_an_image"):
        reader(tmp_path / name, "--hint")


def test_a_file_that_is_missing_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"--hint .*: need a picture, got .*No such file"):
        read_map(tmp_path / "none.png", "--hint")
