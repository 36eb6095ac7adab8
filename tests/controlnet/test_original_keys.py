import pytest
import torch

from controlnet.original_keys import family, original_names, to_diffusers, to_original
from schemas.errors import ConfigError
from tests.controlnet.tiny_controlnets import DEEP, NANO, SD1, SD2, XL, network, sd1


def ldm_names():
    """Names in the original `ControlNet` of SD 1.5, by walking how its constructor builds it."""

    def of(module, *parts, bias=True):
        kinds = ("weight", "bias") if bias else ("weight",)
        return [f"{module}.{part}.{kind}" for part in parts for kind in kinds]

    def resnet(module, before, after):
        parts = ["in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3"]
        return of(module, *parts, *(["skip_connection"] if before != after else []))

    def transformer(module):
        block = f"{module}.transformer_blocks.0"
        names = of(module, "norm", "proj_in", "proj_out")
        for attention in ("attn1", "attn2"):
            names += of(f"{block}.{attention}", "to_q", "to_k", "to_v", bias=False)
            names += of(f"{block}.{attention}", "to_out.0")
        return names + of(block, "ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3")

    names = of("time_embed", "0", "2") + of("input_blocks.0", "0")
    names += of("input_hint_block", *(str(2 * conv) for conv in range(8)))
    block, channels = 0, 1
    for level, width in enumerate((1, 2, 4, 4)):
        for _ in range(2):
            block += 1
            names += resnet(f"input_blocks.{block}.0", channels, width)
            names += transformer(f"input_blocks.{block}.1") if level < 3 else []
            channels = width
        if level < 3:
            block += 1
            names += of(f"input_blocks.{block}.0", "op")
    names += [name for number in range(block + 1) for name in of(f"zero_convs.{number}", "0")]
    names += resnet("middle_block.0", 4, 4) + transformer("middle_block.1")
    names += resnet("middle_block.2", 4, 4) + of("middle_block_out", "0")
    return [f"control_model.{name}" for name in names]


def test_the_names_of_a_full_layout_are_those_of_the_original_constructor():
    names = original_names({"cross_attention_dim": 768})
    assert len(names) == len(ldm_names()) == 340
    assert set(names.values()) == set(ldm_names())


@pytest.mark.parametrize("config", [SD1, SD2, NANO, DEEP], ids=["sd1", "sd2", "nano", "deep"])
def test_there_and_back_is_the_identity(config):
    state = network(**config).state_dict()
    there = to_original(state, config)
    assert len(there) == len(state)
    assert all(name.startswith("control_model.") for name in there)
    back = to_diffusers(there, config)
    assert back.keys() == state.keys()
    assert all(back[name] is tensor for name, tensor in state.items())


@pytest.mark.parametrize(("config", "dimensions"), [(SD1, 4), (SD2, 2)])
def test_projections_stay_convolutions_or_matrices(config, dimensions):
    there = to_original(network(**config).state_dict(), config)
    for part in ("proj_in", "proj_out"):
        assert there[f"control_model.input_blocks.1.1.{part}.weight"].dim() == dimensions


def test_a_file_without_the_prefix_or_with_all_of_stable_diffusion_beside_it_is_read():
    state = sd1().state_dict()
    there = to_original(state, SD1)
    bare = {name.removeprefix("control_model."): tensor for name, tensor in there.items()}
    whole = {**there, "model.diffusion_model.out.2.bias": torch.zeros(4)}
    for given in (bare, whole):
        assert to_diffusers(given, SD1).keys() == state.keys()


def test_weights_of_another_config_are_refused_by_name():
    state = sd1().state_dict()
    wanted = (
        r"need the 340 tensors .*, got 1 missing \(conv_in.bias\) and 1 unknown \(conv_on.bias\)"
    )
    renamed = {name.replace("conv_in.bias", "conv_on.bias"): state[name] for name in state}
    renamed["controlnet_cond_embedding.conv_in.bias"] = renamed.pop(
        "controlnet_cond_embedding.conv_on.bias"
    )
    with pytest.raises(ConfigError, match=wanted):
        to_original(renamed, SD1)
    with pytest.raises(ConfigError, match=r"ControlNet weights: need the 168 tensors"):
        to_diffusers(to_original(state, SD1), NANO)


def test_blocks_that_the_original_does_not_have_are_refused():
    config = {**SD1, "mid_block_type": "UNetMidBlock2D"}
    with pytest.raises(ConfigError, match=r"got UNetMidBlock2D; use --format diffusers"):
        original_names(config)


def test_families_are_told_by_what_loaders_take_for_granted():
    two = {"attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
    assert family({"cross_attention_dim": 768}) == "v1"
    assert family({"cross_attention_dim": 1024, **two}) == "v2"
    assert family({"cross_attention_dim": 1024}) is None
    assert [family(one) for one in (XL, SD1, NANO)] == ["xl", None, None]
