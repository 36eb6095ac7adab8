"""OpenPose's body with two people in every picture: random networks find nobody.

Both sides compute the network on the picture, and then go on with the same made answer.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.annotators.pose.people import answers, standing

Images = Sequence[np.ndarray]


def write_body(folder: Path) -> None:
    """Random weights of body, hands and face."""
    from tests.annotators.reference_weights import write

    write(folder, "pose")


def with_people(network: Any, side_px: int) -> Any:
    """A network that computes, and answers with two people."""
    import torch

    grid = 184 // 8
    people = [standing(20, 20, 200, 470), standing(260, 30, 200, 470)]
    heat, field = (
        torch.from_numpy(answer) for answer in answers(people, side_px, side_px, (grid, grid))
    )

    class WithPeople(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            fields, heats = self.network(batch)
            assert fields.shape[-2:] == (grid, grid), fields.shape
            count = len(heats)
            return field.expand(count, -1, -1, -1), heat.expand(count, -1, -1, -1)

    return WithPeople()


def seeing_people(annotator: Any, side_px: int) -> Any:
    """Our annotator with such a network."""
    body = with_people(annotator.look.body, side_px)
    return dataclasses.replace(annotator, look=dataclasses.replace(annotator.look, body=body))


def detector(side_px: int, threads: int) -> Callable[[Path], Callable[[Images], None]]:
    """controlnet-aux's detector with such a network, body alone."""

    def loaded(weights: Path) -> Callable[[Images], None]:
        import torch
        from controlnet_aux import OpenposeDetector

        torch.set_num_threads(threads)
        openpose = OpenposeDetector.from_pretrained(str(weights))
        body = openpose.body_estimation
        body.model = with_people(body.model, side_px)

        def run(images: Images) -> None:
            for image in images:
                size = {"detect_resolution": side_px, "image_resolution": side_px}
                assert openpose(image, **size, output_type="np").any()

        return run

    return loaded
