"""Batches, sizes and order of what goes through a network."""

import numpy as np
import pytest

from annotators.network import NetworkAnnotator, padded
from annotators.runtime import Runtime


def image(height, width, value):
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize(("device", "batches"), [("cpu", [1] * 5), ("cuda", [3, 2])])
def test_images_of_one_size_go_together_and_results_come_in_order(device, batches):
    fed, drawn = [], []

    def network(images):
        fed.append([one.shape[:2] for one in images])
        return [int(one[0, 0, 0]) for one in images]

    def draw(values, height, width):
        drawn.append((height, width))
        return [(value, height, width) for value in values]

    annotate = NetworkAnnotator(runtime=Runtime(device=device), network=network, draw=draw)
    sizes = [(4, 6), (8, 8), (4, 6), (8, 8), (4, 6)]
    images = [image(*size, value) for value, size in enumerate(sizes)]
    assert annotate(images, list("abcde")) == [(n, *size) for n, size in enumerate(sizes)]
    assert [len(batch) for batch in fed] == batches
    assert all(len(set(batch)) == 1 for batch in fed)
    assert drawn == [batch[0] for batch in fed]


def test_a_network_that_forgets_a_picture_is_a_bug():
    annotate = NetworkAnnotator(
        runtime=Runtime(device="cuda"), network=list, draw=lambda images, *_size: images[1:]
    )
    with pytest.raises(ValueError, match="zip"):
        annotate([image(4, 4, 0), image(4, 4, 1)], ["a", "b"])


def test_padding_moves_no_pixel_and_continues_by_the_mirror_image():
    ramp = np.arange(6, dtype=np.uint8)[None, :, None].repeat(5, 0).repeat(3, 2)
    (wide,) = padded([ramp], multiple=4, smallest=8)
    assert wide.shape == (8, 8, 3)
    assert np.array_equal(wide[:5, :6], ramp)
    assert wide[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 5, 4]
    assert padded([wide], multiple=4, smallest=8)[0] is wide
