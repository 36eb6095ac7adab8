"""Small networks of a released one's form are read by its class, and see what they see as padded.

Padded with zeros to the released widths a small network is a file that any loader reads, also
controlnet-aux's; so what the parity tests say of wide networks holds for the small ones.
"""

import numpy as np
import pytest
import skimage.data
import torch

from annotators.conditions.pose import PoseSpec
from annotators.conditions.pose.openpose import OPENPOSE_BODY
from annotators.conditions.soft_edges import HED, PIDINET, HedSpec, SoftedgeSpec
from annotators.network import reference
from annotators.runtime import Runtime
from controlnet.nano.eyes import softedge
from controlnet.nano.eyes.hed import Hed
from schemas.errors import ConfigError
from tests.annotators.reference_weights import narrow_pose, randomised

pytestmark = pytest.mark.filterwarnings("ignore")  # what building old networks says

ROCKET = np.ascontiguousarray(skimage.data.rocket()[100:164, 280:344])


def padded(narrow, make_wide):
    """The wide network's state: zeros, and the narrow tensors in the first channels."""
    with torch.device("meta"):  # random weights of 52 million numbers take their time
        wide = make_wide()
    state = {name: torch.zeros(tensor.shape) for name, tensor in wide.state_dict().items()}
    assert state.keys() == narrow.keys()
    for name, tensor in narrow.items():
        state[name][tuple(slice(0, side) for side in tensor.shape)] = tensor
    return state


@pytest.fixture(scope="module")
def small_hed():
    torch.manual_seed(0)
    state = dict(randomised(Hed()))
    return {name: 0.02 * t if "projection.weight" in name else t for name, t in state.items()}


@pytest.fixture(scope="module")
def small_openpose():
    return narrow_pose()


def written(folder, file, state):
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / file)
    return Runtime(weights=str(folder))


def test_a_narrow_hed_gives_the_map_of_its_padded_twin(small_hed, tmp_path):
    wide = padded(small_hed, reference("hed").ControlNetHED_Apache2)
    maps = [
        HedSpec().load(written(tmp_path / name, HED.file, state))([ROCKET], ["0"])[0].pixels
        for name, state in (("narrow", small_hed), ("wide", wide))
    ]
    assert maps[0].std() > 3  # a flat map would prove nothing
    assert np.abs(maps[0].astype(int) - maps[1]).max() <= 1


def test_the_hed_that_is_trained_computes_what_the_annotator_does(small_hed, tmp_path):
    network = Hed()
    network.load_state_dict(small_hed)
    rgb = torch.from_numpy(ROCKET)[None].permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        edges = torch.stack(network(rgb)).mean(0).sigmoid()[0].numpy()
    runtime = written(tmp_path, HED.file, small_hed)
    (found,) = HedSpec().load(runtime)([ROCKET], ["0"])
    assert np.abs(edges * 255 - found.pixels).max() <= 1.01


def test_a_narrow_pidinet_gives_the_map_of_its_padded_twin_and_as_it_was_trained(tmp_path):
    torch.manual_seed(0)
    network = softedge.new_network()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(2)  # else all edges are one half
    state = network.state_dict()
    wide = padded(state, reference("pidi.model").pidinet)
    maps = [
        SoftedgeSpec()
        .load(written(tmp_path / name, PIDINET.file, {"state_dict": tensors}))([ROCKET], ["0"])[0]
        .pixels
        for name, tensors in (("narrow", state), ("wide", wide))
    ]
    bgr = torch.from_numpy(ROCKET[..., ::-1].copy())[None].permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        edges = network(bgr)[-1][0, 0].numpy()
    assert maps[0].std() > 3
    assert np.abs(maps[0].astype(int) - maps[1]).max() <= 1
    assert np.abs(edges * 255 - maps[0]).max() <= 1.01


def test_a_narrow_openpose_answers_as_its_padded_twin_and_as_it_was_trained(
    small_openpose, tmp_path
):
    wide = reference("open_pose.model").bodypose_model
    # controlnet-aux puts the name of a stage before those of the file.
    names = {name: name.split(".", 1)[1] for name in wide().state_dict()}
    released = small_openpose.released_state()
    narrow = {long: released[short] for long, short in names.items()}
    states = {"narrow": narrow, "wide": padded(narrow, wide)}
    image = torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(1)) / 4
    answers = []
    for name, state in states.items():
        file = {names[long]: tensor for long, tensor in state.items()}
        annotator = PoseSpec().load(written(tmp_path / name, OPENPOSE_BODY.file, file))
        with torch.inference_mode():
            answers.append(annotator.network.body(image))
    with torch.inference_mode():
        answers.append(small_openpose(image)[-1])
    assert answers[0][0].std() > 0.01
    for other in answers[1:]:
        for mine, theirs in zip(answers[0], other, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-4, rtol=1e-3)


def test_widths_that_do_not_fit_each_other_are_one_line(small_hed, tmp_path):
    broken = dict(small_hed)
    broken["block2.convs.0.weight"] = broken["block2.convs.0.weight"][:, :7].clone()
    with pytest.raises(
        ConfigError, match=f"{HED.file}: need layers whose numbers of chan"
    ) as error:
        HedSpec().load(written(tmp_path, HED.file, broken))
    assert "\n" not in str(error.value)


def test_a_pidinet_that_claims_to_be_huge_is_refused_before_it_is_built(tmp_path):
    state = softedge.new_network().state_dict()
    state["init_block.weight"] = torch.zeros(100_000, 3, 3, 3)
    with pytest.raises(ConfigError, match=PIDINET.file) as error:
        SoftedgeSpec().load(written(tmp_path, PIDINET.file, {"state_dict": state}))
    assert "\n" not in str(error.value)
