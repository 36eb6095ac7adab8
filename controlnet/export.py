"""A trained ControlNet as other tools want it.

diffusers   folder: `config.json` and `diffusion_pytorch_model.safetensors`
original    one file under the names of the original repository; Stable Diffusion 1.x and 2.x only

Who reads what, from the sources of the readers: diffusers' `from_single_file` and ComfyUI know an
original file by `control_model.time_embed.0.weight` and `control_model.zero_convs.0.0.weight`;
sd-webui-controlnet@56cec5b (A1111) strips `control_model.`. Both user interfaces take the widths of
Stable Diffusion for granted, and A1111 also eight heads, which SD 2.x has not. Both decide from the
file's name whether residuals are pooled: A1111 from `shuffle` anywhere, ComfyUI from its end.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from controlnet.architecture.control_files import POOLED_ENDS
from controlnet.original_keys import family, original_names, to_original
from controlnet.trainer.checkpoint import WEIGHTS
from controlnet.trainer.devices import DTYPES
from controlnet.trainer.run_folder import CONFIG_NAME, CONTROL_DIR, check_result
from schemas.errors import ConfigError
from schemas.files import taking_place

Layout = Literal["diffusers", "original"]
Precision = Literal["fp32", "fp16", "bf16"]

_HINT_CONV = "controlnet_cond_embedding.conv_in.weight"  # only a ControlNet has it
_ORDER = "controlnet_conditioning_channel_order"
_OURS = "controlset."
_IMPLEMENTATION = {"original": "https://github.com/lllyasviel/ControlNet", "diffusers": "diffusers"}
_ARCHITECTURE = {"v1": "stable-diffusion-v1", "xl": "stable-diffusion-xl-v1-base"}
_VERSION_2 = {"epsilon": "stable-diffusion-v2-512", "v_prediction": "stable-diffusion-v2-768-v"}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A ControlNet that was written for other tools."""

    path: Path
    tensors: int
    size_bytes: int
    readers: str  # which tools load it, in words


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """A `ControlNetModel` folder; its tensors are still on disk."""

    weights: Path
    config: Mapping[str, Any]
    metadata: Mapping[str, str]

    @property
    def pools(self) -> bool:
        return bool(self.config.get("global_pool_conditions"))


def export(
    run: Path, output: Path, *, layout: Layout, precision: Precision | None = None
) -> Exported:
    """Write a ControlNet for other tools; whole or not at all.

    Args:
        run: a run's folder, a checkpoint's, or a diffusers `ControlNetModel` folder.
        output: what is made: a folder (`diffusers`) or a `.safetensors` file (`original`).
        layout: see the module.
        precision: of the stored tensors; None leaves them as they are.

    Raises:
        ConfigError: `run` holds no whole ControlNet, `output` exists or its name would make a tool
            pool residuals wrongly, the layout has no place for the network, or a value is not
            finite (any more) in the precision.

    Cost: 3 to 5 s and 1.2 GB beside the mapped source for SD 1.5, 361 M parameters in fp32 (two
    cores, measured 2026-11-23).
    """
    _check_output(output)
    source = _read(run)
    if layout == "original":
        original_names(source.config)  # refused before a gigabyte is read
        _check_name(output, source.pools)
    dtype = None if precision is None else DTYPES[precision]
    bgr = source.config.get(_ORDER) == "bgr"
    tensors = dict(_tensors(source.weights, dtype, bgr=bgr))
    if layout == "original":
        tensors = to_original(tensors, source.config)
    metadata = _metadata(source, tensors, layout, output.stem)
    try:
        with taking_place(output) as temporary:
            if layout == "original":
                save_file(tensors, temporary, metadata=metadata)
            else:
                temporary.mkdir()
                save_file(tensors, temporary / WEIGHTS, metadata=metadata)
                document = json.dumps({**source.config, _ORDER: "rgb"}, indent=2, sort_keys=True)
                (temporary / CONFIG_NAME).write_text(f"{document}\n")
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{output}: need a place that can be written, got {error}") from error
    file = output if layout == "original" else output / WEIGHTS
    return Exported(
        path=output,
        tensors=len(tensors),
        size_bytes=file.stat().st_size,
        readers=_readers(source, layout),
    )


def _check_output(output: Path) -> None:
    if not output.parent.is_dir():
        raise ConfigError(f"{output}: need a place in a folder that exists; make {output.parent}")
    if output.exists() or output.is_symlink():
        raise ConfigError(f"{output}: exists already; take another --output, or delete it")


def _check_name(output: Path, pools: bool) -> None:
    if output.suffix != ".safetensors":
        raise ConfigError(
            f"{output}: need a name that ends in .safetensors for --format original, got "
            f"{output.name!r}; ComfyUI and A1111 list no others"
        )
    if pools and not output.stem.endswith(POOLED_ENDS):
        raise ConfigError(
            f"{output}: need a name that ends in _shuffle.safetensors, got {output.name!r}; this "
            "ControlNet averages its control over the picture, and ComfyUI and A1111 do so only "
            "for files with that name"
        )
    if not pools and "shuffle" in output.stem.lower():
        raise ConfigError(
            f"{output}: need a name without 'shuffle', got {output.name!r}; ComfyUI and A1111 "
            "would average the control over the picture, which this ControlNet does not"
        )


def _read(run: Path) -> _Source:
    """Find the ControlNet and read all but its tensors."""
    folder = next(
        (place for place in (run, run / CONTROL_DIR) if (place / WEIGHTS).is_file()), None
    )
    if folder is None:
        found = "no such folder" if not run.is_dir() else "none"
        raise ConfigError(
            f"{run}: need a run or a ControlNetModel folder with {WEIGHTS} in it or in "
            f"{CONTROL_DIR}/, got {found}; train first, or name a checkpoint of the run"
        )
    if folder != run:  # a run, whose summary says what training wrote
        check_result(run)
    config = _read_config(folder / CONFIG_NAME)
    weights = folder / WEIGHTS
    try:
        with safe_open(weights, framework="pt") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{weights}: need a whole safetensors file, got {error}") from error
    if _HINT_CONV not in names:
        raise ConfigError(
            f"{weights}: need the weights of a diffusers ControlNet, got {len(names)} tensors "
            f"without {_HINT_CONV}"
        )
    return _Source(weights=weights, config=config, metadata=metadata)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: need the config of a ControlNetModel, got {error}") from error
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != "ControlNetModel":
        raise ConfigError(f"{path}: need a _class_name of ControlNetModel, got {kind!r}")
    return config


def _tensors(
    weights: Path, dtype: torch.dtype | None, *, bgr: bool
) -> Iterator[tuple[str, Tensor]]:
    """Tensors one by one: the file is mapped, so that only the converted ones take memory.

    Of a network that was trained on BGR maps the first convolution is turned round to RGB: one file
    has no place to say so, and its readers feed RGB.
    """
    with safe_open(weights, framework="pt") as file:
        for name in file.keys():  # safe_open is no mapping
            stored = file.get_tensor(name)
            if bgr and name == _HINT_CONV:
                stored = stored.flip(1)
            tensor = stored if dtype is None else stored.to(dtype)
            if not tensor.isfinite().all():  # beyond 65504 float16 has only infinity
                kind = str(tensor.dtype).removeprefix("torch.")
                largest = stored.abs().max().item()
                raise ConfigError(
                    f"{weights}: need finite values in {kind}, got {name} with a magnitude of "
                    f"{largest:.3g}; use --dtype fp32 or bf16, or an earlier checkpoint"
                )
            yield name, tensor


def _metadata(
    source: _Source, tensors: Mapping[str, Tensor], layout: Layout, title: str
) -> dict[str, str]:
    """Fields of Stability AI's ModelSpec 1.0.0, and all that the trainer wrote."""
    ours = {name: value for name, value in source.metadata.items() if name.startswith(_OURS)}
    prediction, resolution = ours.get(f"{_OURS}prediction_type"), ours.get(f"{_OURS}resolution")
    kind = family(source.config)
    known = _ARCHITECTURE.get(kind or "", "latent-diffusion")
    if kind == "v2":
        known = _VERSION_2.get(prediction or "", "stable-diffusion-v2")
    fields = {
        "sai_model_spec": "1.0.0",
        "architecture": f"{known}/controlnet",
        "implementation": _IMPLEMENTATION[layout],
        "title": title,
        # As ModelSpec wants it: of the tensors, so that the header can name it.
        "hash_sha256": f"0x{_digest(tensors)}",
    }
    if prediction is not None:
        fields["prediction_type"] = "v" if prediction == "v_prediction" else prediction
    if resolution is not None:
        fields["resolution"] = resolution
    # "format" is what transformers and diffusers want to read there
    return {
        "format": "pt",
        **ours,
        **{f"modelspec.{name}": value for name, value in fields.items()},
    }


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a safetensors file after its header: wider types first, then by name."""
    digest = hashlib.sha256()
    # The order in which safetensors writes them, so that nothing has to be read back.
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        digest.update(tensors[name].flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _readers(source: _Source, layout: Layout) -> str:
    kind = family(source.config)
    if layout == "diffusers":
        if kind is None:
            return "diffusers loads it"
        others = "ComfyUI loads" if kind == "v2" else "ComfyUI and A1111 load"
        renamed = ", renamed to end in _shuffle" if source.pools else ""
        return f"diffusers loads it; {others} the {WEIGHTS} inside{renamed}"
    plain = "from_single_file"
    told = f"{plain} with config={source.weights.parent}"
    if kind == "v1":
        # diffusers takes the config of SD 1.5 where none is given, which does not pool
        return f"ComfyUI, A1111 and diffusers ({told if source.pools else plain}) load it"
    if kind == "v2":
        return f"ComfyUI and diffusers ({told}) load it; A1111 takes SD 2.x to have eight heads"
    if len(source.config.get("conditioning_embedding_out_channels", range(4))) == 4:
        return f"diffusers ({told}) loads it; no base of ComfyUI's fits"
    return "no tool knows its hint block; use --format diffusers"
