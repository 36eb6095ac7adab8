"""A whole file of tensors that belongs to another network."""

import pytest
import torch

from annotators.options import AnnotateConfig, configured
from annotators.registry import specs_of
from annotators.runtime import Runtime
from schemas.errors import ConfigError

NAMES = ("hed", "softedge", "lineart", "lineart_anime", "mlsd", "normal", "depth", "pose")


@pytest.mark.filterwarnings("ignore")  # what building old networks with a new timm and scipy says
@pytest.mark.parametrize("name", NAMES)
def test_weights_of_another_network_are_one_line_that_names_the_file(name, tmp_path):
    options = configured(AnnotateConfig, conditions=(name,), depth_model="midas", precision="fp32")
    (spec,) = specs_of(options)
    for weights in spec.weights:
        torch.save({"another.weight": torch.zeros(3)}, tmp_path / weights.file)
    with pytest.raises(ConfigError, match=rf"{spec.weights[0].file}: need the weights of") as error:
        spec.load(Runtime(weights=str(tmp_path)))
    assert "\n" not in str(error.value)
