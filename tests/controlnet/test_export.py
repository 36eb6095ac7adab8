import hashlib
import json
import math
import shutil

import pytest
import torch
from diffusers import ControlNetModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import controlnet.export
from controlnet.export import export
from controlnet.original_keys import to_diffusers
from controlset.commands import export as command
from schemas.errors import ConfigError
from tests.controlnet.tiny_controlnets import NANO, SD1, XL, network, sd1

WEIGHTS = "diffusion_pytorch_model.safetensors"
ANNOTATOR = json.dumps({"name": "canny", "hint_range": [0, 1]})
METADATA = {
    "format": "pt",
    "controlset.condition": "canny",
    "controlset.hint_range": "0..1",
    "controlset.color_order": "RGB",
    "controlset.annotator": ANNOTATOR,
    "somebody.else": "says so",
}


def written(net, folder, **metadata):
    """A run whose ControlNet is `net`."""
    net.save_pretrained(folder / "controlnet")
    file = folder / "controlnet" / WEIGHTS
    save_file(net.state_dict(), file, metadata={**METADATA, **metadata})
    (folder / "config.json").write_text('{"config": {}, "identity": {}}')  # the run's own
    return folder


@pytest.fixture
def run(tmp_path):
    return written(sd1(), tmp_path / "run")


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def original(run, out, name="canny.safetensors", precision=None):
    return export(run, out / name, layout="original", precision=precision)


def read(path):
    with safe_open(path, framework="pt") as file:
        return load_file(path), file.metadata()


def test_diffusers_loads_the_original_file_and_computes_the_same(run, out):
    original(run, out)
    loaded = ControlNetModel.from_single_file(
        str(out / "canny.safetensors"), config=str(run / "controlnet"), local_files_only=True
    )
    assert same_outputs(loaded.eval(), sd1())


def test_diffusers_loads_the_folder_and_computes_the_same(run, out):
    export(run, out / "canny", layout="diffusers")
    loaded = ControlNetModel.from_pretrained(out / "canny", local_files_only=True)
    assert same_outputs(loaded.eval(), sd1())
    assert dict(loaded.config)["block_out_channels"] == list(SD1["block_out_channels"])


def same_outputs(one, other):
    torch.manual_seed(1)
    latent, text, hint = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 24), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        first, second = (net(latent, 7, text, hint, return_dict=False) for net in (one, other))
    pairs = [*zip(first[0], second[0], strict=True), (first[1], second[1])]
    return len(pairs) == 13 and all(torch.equal(a, b) and a.any() for a, b in pairs)


def test_comfyui_knows_it_for_a_controlnet(run, out):
    original(run, out)
    tensors, _ = read(out / "canny.safetensors")
    assert not any("controlnet_cond_embedding" in name for name in tensors)  # or: diffusers' names
    assert "control_model.zero_convs.0.0.weight" in tensors
    assert tensors["control_model.input_hint_block.0.weight"].shape[1] == 3


def test_diffusers_knows_it_for_a_controlnet(run, out):
    original(run, out)
    assert "control_model.time_embed.0.weight" in read(out / "canny.safetensors")[0]


def test_a1111_knows_it_for_a_controlnet_and_finds_the_width_of_the_text(run, out):
    original(run, out)
    tensors, _ = read(out / "canny.safetensors")
    stripped = {name.replace("control_model.", ""): tensor for name, tensor in tensors.items()}
    assert "input_hint_block.0.weight" in stripped
    assert "label_emb.0.0.bias" not in stripped  # or: SDXL
    assert "difference" not in stripped  # or: the base's weights are added
    text = stripped["input_blocks.5.1.transformer_blocks.0.attn2.to_k.weight"]
    assert text.shape[1] == SD1["cross_attention_dim"]


@pytest.mark.parametrize(
    ("precision", "dtype", "size_bytes"),
    [
        (None, torch.float32, 4),
        ("fp32", torch.float32, 4),
        ("fp16", torch.float16, 2),
        ("bf16", torch.bfloat16, 2),
    ],
)
@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_weights_have_the_precision_asked_for(run, out, layout, precision, dtype, size_bytes):
    path = out / ("canny.safetensors" if layout == "original" else "canny")
    done = export(run, path, layout=layout, precision=precision)
    tensors, _ = read(path if layout == "original" else path / WEIGHTS)
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    name = "mid_block.resnets.1.conv2.bias"
    stored = tensors["control_model.middle_block.2.out_layers.3.bias" if path.suffix else name]
    assert torch.equal(stored, sd1().state_dict()[name].to(dtype))
    parameters = sum(parameter.numel() for parameter in sd1().parameters())
    assert parameters * size_bytes < done.size_bytes < parameters * size_bytes + 100_000
    assert done.tensors == len(tensors) == 340


def test_what_the_trainer_said_travels_and_the_rest_stays(run, out):
    original(run, out)
    _, metadata = read(out / "canny.safetensors")
    assert metadata["controlset.condition"] == "canny"
    assert metadata["controlset.hint_range"] == "0..1"
    assert metadata["controlset.color_order"] == "RGB"
    assert metadata["controlset.annotator"] == ANNOTATOR
    assert metadata["format"] == "pt"
    assert "somebody.else" not in metadata


def test_modelspec_says_what_it_is(run, out):
    original(run, out)
    export(run, out / "folder", layout="diffusers")
    _, metadata = read(out / "canny.safetensors")
    assert metadata["modelspec.sai_model_spec"] == "1.0.0"
    assert metadata["modelspec.architecture"] == "latent-diffusion/controlnet"
    assert metadata["modelspec.implementation"] == "https://github.com/lllyasviel/ControlNet"
    assert metadata["modelspec.title"] == "canny"
    assert "modelspec.resolution" not in metadata  # not known: not said
    assert read(out / "folder" / WEIGHTS)[1]["modelspec.implementation"] == "diffusers"


@pytest.mark.parametrize(
    ("kind", "said", "architecture"),
    [
        ("v1", {}, "stable-diffusion-v1/controlnet"),
        ("v2", {}, "stable-diffusion-v2/controlnet"),
        ("v2", {"prediction_type": "epsilon"}, "stable-diffusion-v2-512/controlnet"),
        ("v2", {"prediction_type": "v_prediction"}, "stable-diffusion-v2-768-v/controlnet"),
        ("xl", {}, "stable-diffusion-xl-v1-base/controlnet"),
        (None, {}, "latent-diffusion/controlnet"),
    ],
)
def test_each_family_has_its_architecture(tmp_path, out, monkeypatch, kind, said, architecture):
    monkeypatch.setattr(controlnet.export, "family", lambda config: kind)
    ours = {f"controlset.{name}": value for name, value in said.items()}
    run = written(sd1(), tmp_path / "run", **ours, **{"controlset.resolution": "768x768"})
    original(run, out)
    _, metadata = read(out / "canny.safetensors")
    assert metadata["modelspec.architecture"] == architecture
    assert metadata["modelspec.resolution"] == "768x768"
    shorter = {"v_prediction": "v"}.get(said.get("prediction_type"), said.get("prediction_type"))
    assert metadata.get("modelspec.prediction_type") == shorter


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_the_hash_is_that_of_the_file_after_its_header(run, out, precision):
    original(run, out, precision=precision)
    raw = (out / "canny.safetensors").read_bytes()
    after = raw[8 + int.from_bytes(raw[:8], "little") :]
    _, metadata = read(out / "canny.safetensors")
    assert metadata["modelspec.hash_sha256"] == f"0x{hashlib.sha256(after).hexdigest()}"


def test_everybody_may_read_it_whom_the_system_lets_read_new_files(run, out):
    original(run, out)
    (out / "plain").touch()
    assert (out / "canny.safetensors").stat().st_mode == (out / "plain").stat().st_mode


@pytest.mark.parametrize("source", ["run", "run/controlnet"])
def test_a_run_and_a_plain_folder_are_both_accepted(run, out, source):
    assert original(run.parent / source, out).tensors == 340


def test_nano_is_written_and_read_back_though_no_tool_knows_it(tmp_path, out):
    net = network(**NANO)
    done = original(written(net, tmp_path / "run"), out)
    assert done.readers == "no tool knows its hint block; use --format diffusers"
    back = to_diffusers(read(done.path)[0], NANO)
    assert all(torch.equal(back[name], tensor) for name, tensor in net.state_dict().items())


def test_sdxl_is_refused_as_one_file_and_told_what_loads(tmp_path, out):
    run = written(network(**XL), tmp_path / "run")
    wanted = r"need an SD 1.x or 2.x ControlNet, got one of SDXL; use --format diffusers: ComfyUI, "
    with pytest.raises(ConfigError, match=wanted + "A1111 and diffusers load that for SDXL"):
        original(run, out)
    done = export(run, out / "folder", layout="diffusers")
    assert done.readers == f"diffusers loads it; ComfyUI and A1111 load the {WEIGHTS} inside"
    loaded = ControlNetModel.from_pretrained(out / "folder", local_files_only=True)
    assert loaded.config.addition_embed_type == "text_time"


@pytest.mark.parametrize(
    ("kind", "layout", "wanted"),
    [
        ("v1", "original", "ComfyUI, A1111 and diffusers (from_single_file) load it"),
        ("v2", "original", "controlnet) load it; A1111 takes SD 2.x to have eight heads"),
        (None, "original", "no base of ComfyUI's fits"),
        ("v1", "diffusers", "ComfyUI and A1111 load the"),
        ("v2", "diffusers", "ComfyUI loads the"),
    ],
)
def test_it_says_who_loads_what(run, out, monkeypatch, kind, layout, wanted):
    monkeypatch.setattr(controlnet.export, "family", lambda config: kind)
    assert wanted in export(run, out / "net.safetensors", layout=layout).readers


@pytest.mark.parametrize(
    "name", ["canny.safetensors", "shuffle.safetensors", "Shuffle_v2.safetensors"]
)
def test_a_pooled_network_needs_the_name_by_which_tools_pool(tmp_path, out, name):
    run = written(network(**SD1, global_pool_conditions=True), tmp_path / "run")
    wanted = rf"need a name that ends in _shuffle.safetensors, got '{name}'"
    with pytest.raises(ConfigError, match=wanted):
        original(run, out, name)
    for good in ("sd15_shuffle.safetensors", "sd15_shuffle_fp16.safetensors"):
        assert original(run, out, good).path.is_file()
    export(run, out / "folder", layout="diffusers")
    assert json.loads((out / "folder/config.json").read_text())["global_pool_conditions"] is True


@pytest.mark.parametrize("name", ["a_shuffle.safetensors", "Shuffled.safetensors"])
def test_another_network_must_not_have_that_name(run, out, name):
    with pytest.raises(ConfigError, match=rf"need a name without 'shuffle', got '{name}'"):
        original(run, out, name)


def test_other_file_types_are_refused(run, out):
    with pytest.raises(ConfigError, match=r"need a name that ends in .safetensors .* got 'c.pth'"):
        original(run, out, "c.pth")


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_what_is_there_is_never_overwritten(run, out, layout):
    path = out / "canny.safetensors"
    export(run, path, layout=layout)
    with pytest.raises(ConfigError, match=r"canny.safetensors: exists already; take another"):
        export(run, path, layout=layout)


def test_who_loads_a_pooled_network_is_told_what_to_mind(tmp_path, out, monkeypatch):
    monkeypatch.setattr(controlnet.export, "family", lambda config: "v1")
    run = written(network(**SD1, global_pool_conditions=True), tmp_path / "run")
    one = original(run, out, "a_shuffle.safetensors")
    assert one.readers.endswith(f"(from_single_file with config={run}/controlnet) load it")
    folder = export(run, out / "folder", layout="diffusers")
    assert folder.readers.endswith(f"{WEIGHTS} inside, renamed to end in _shuffle")


def test_a_place_in_no_folder_is_refused(run, out):
    with pytest.raises(ConfigError, match=r"need a place in a folder that exists; make .*/missing"):
        original(run, out / "missing")


def test_a_missing_folder_and_one_without_weights_are_refused(run, out):
    wanted = r"need a run or a ControlNetModel folder with diffusion_pytorch_model.safetensors"
    with pytest.raises(ConfigError, match=rf"{wanted} .*, got no such folder; train first"):
        original(out / "nowhere", out)
    with pytest.raises(ConfigError, match=rf"{wanted} in it or in controlnet/, got none"):
        original(out, out)


def test_a_folder_of_another_model_is_refused(run, out):
    config = run / "controlnet" / "config.json"
    config.write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(ConfigError, match=r"_class_name of ControlNetModel, got 'UNet2DCondition"):
        original(run, out)
    for text, wanted in (("{", "Expecting property name"), ("[]", "got None")):
        config.write_text(text)
        with pytest.raises(ConfigError, match=wanted):
            original(run, out)
    config.unlink()
    with pytest.raises(ConfigError, match=r"need the config of a ControlNetModel, got .*No such"):
        original(run, out)


def test_other_weights_are_refused(run, out):
    save_file({"conv_in.weight": torch.zeros(1)}, run / "controlnet" / WEIGHTS)
    with pytest.raises(ConfigError, match=r"weights of a diffusers ControlNet, got 1 tensors with"):
        export(run, out / "folder", layout="diffusers")


@pytest.mark.parametrize("keep", [0, 100, 60_000])
def test_a_torn_file_is_refused(run, out, keep):
    file = run / "controlnet" / WEIGHTS
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=rf"{WEIGHTS}: need a whole safetensors file, got "):
        original(run, out)
    assert not any(out.iterdir())


@pytest.mark.parametrize(("value", "precision"), [(1e6, "fp16"), (math.nan, None)])
def test_values_that_are_not_finite_are_refused(tmp_path, out, value, precision):
    net = network(**SD1)
    with torch.no_grad():
        net.conv_in.bias[3] = value
    run = written(net, tmp_path / "run")
    kind = "float16" if precision else "float32"
    wanted = rf"need finite values in {kind}, got conv_in.bias with a magnitude of (1e\+06|nan)"
    with pytest.raises(ConfigError, match=wanted):
        original(run, out, precision=precision)
    assert not any(out.iterdir())


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_failure_midway_leaves_nothing(run, out, monkeypatch, layout):
    def half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(controlnet.export, "save_file", half)
    with pytest.raises(ConfigError, match=r"need to write here, got no space left .*; free some"):
        export(run, out / "canny.safetensors", layout=layout)
    assert not any(out.iterdir())


def test_a_killed_exports_leftovers_are_replaced(run, out):
    (out / ".writing-canny.safetensors").mkdir()
    (out / ".writing-canny.safetensors" / "half").touch()
    original(run, out)
    assert [path.name for path in out.iterdir()] == ["canny.safetensors"]


def test_the_command_says_what_it_wrote_and_who_loads_it(run, out, capsys):
    path = out / "canny.safetensors"
    given = [str(run), "--format", "original", "--output", str(path), "--dtype", "fp16"]
    assert command.run(given) == 0
    size = f"{path.stat().st_size / 1e6:,.1f} MB"
    readers = f"diffusers (from_single_file with config={run}/controlnet) loads it"
    wanted = f"{path}: 340 tensors, {size}; {readers}; no base of ComfyUI's fits\n"
    assert capsys.readouterr().out == wanted


def test_the_example_in_the_help_works(run, out, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        command.run(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    example = lines[lines.index("example:") + 1].split()
    shutil.move(run, out / "run")
    monkeypatch.chdir(out)
    assert command.run(example[2:]) == 0
    assert (out / example[-1]).is_file()
