"""What both trainers start from, one of them in a process of its own, and whether they agree.

    python -m benchmarks.trainer_contest ours|diffusers SCRIPT BASE SET OUTPUT STEPS [flags …]
    python -m benchmarks.trainer_contest gradients SCRIPT BASE SET

A run prints one line of JSON: when each optimizer step ended and how large the process was. Both
are watched from outside, by a hook that PyTorch calls after every optimizer step of anybody.
"""

import dataclasses
import functools
import io
import json
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook

BATCH = 2
SIZE_PX = 256
PICTURES = 64


GRADIENT_CASES = (
    ("the trainer's VAE, contiguous", False, False),
    ("the trainer's VAE, channels last", True, False),
    ("stored moments (float16), channels last", True, True),
)
"""What is compared with the script, whether weights lie channels last, and which moments."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Widths of a base; all else of Stable Diffusion 1.5 is diffusers' default."""

    unet: tuple[int, int, int, int] = (320, 640, 1280, 1280)
    vae: tuple[int, int, int, int] = (128, 256, 512, 512)
    text: int = 768
    heads: int = 8


TINY = Sizes(unet=(32, 64, 64, 64), vae=(32, 32, 32, 32), text=64, heads=4)


def write_base(folder: Path, sizes: Sizes = Sizes()) -> Path:
    """A base of Stable Diffusion 1.5's architecture with random weights; 4.3 GB at its own widths.

    Args:
        folder: gets diffusers' files; what is there already is kept.
        sizes: widths.
    """
    import diffusers as library
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from controlnet.nano.build import write_tokenizer

    if (folder / "model_index.json").exists():  # written last
        return folder
    torch.manual_seed(0)
    write_tokenizer(folder / "words")
    unet = library.UNet2DConditionModel(
        sample_size=64,
        block_out_channels=sizes.unet,
        cross_attention_dim=sizes.text,
        attention_head_dim=sizes.heads,
    )
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=sizes.text,
        intermediate_size=4 * sizes.text,
        num_hidden_layers=12,
        num_attention_heads=sizes.text // 64,
        max_position_embeddings=77,
    )
    pipeline = library.StableDiffusionPipeline(
        vae=library.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=sizes.vae,
            layers_per_block=2,
            sample_size=512,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "words", model_max_length=77),
        unet=unet,
        scheduler=library.DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def write_set(folder: Path, base: Path | None, *, pictures: int = PICTURES) -> Path:
    """Drawn scenes as a data set of ours with Canny maps and captions.

    Args:
        folder: gets `scenes/` and `set/`; what is there already is kept.
        base: whose VAE's moments are added; None adds none.
        pictures: how many.
    """
    from controlnet.nano.scenes import draw, random_scene
    from controlset.cli import main

    scenes, data = folder / "scenes", folder / "set"
    if not (data / "manifest.json").exists():
        scenes.mkdir(parents=True, exist_ok=True)
        for number in range(pictures):
            scene = random_scene(np.random.default_rng(number))
            Image.fromarray(draw(scene, size_px=SIZE_PX)).save(scenes / f"{number:03d}.png")
            (scenes / f"{number:03d}.txt").write_text(scene.caption)
        given = ["--conditions", "canny", "--resolution", str(SIZE_PX)]
        _succeed(main(["generate", str(scenes), "--output", str(data), *given]))
    if base is not None and "latents" not in json.loads((data / "manifest.json").read_text()):
        _succeed(main(["add", str(data), "--latents", str(base)]))
    return data


def ours(base: Path, data: Path, output: Path, steps: int, *flags: str) -> None:
    """`controlset train` with its defaults, in diffusers' setting of what is learnt."""
    from controlset.cli import main

    given = ["--data", str(data), "--condition", "canny", "--base", str(base)]
    given += ["--output", str(output), "--batch-size", str(BATCH), "--steps", str(steps)]
    given += ["--precision", "fp32", "--device", "cpu", "--tracker", "none", "--probe-every", "0"]
    _succeed(main(["train", *given, "--checkpoint-every", "100000", *flags]))


def diffusers(script: Path, base: Path, data: Path, output: Path, steps: int, *flags: str) -> None:
    """The script as it is, on the same shards."""
    sys.argv = [
        str(script),
        *("--pretrained_model_name_or_path", str(base), "--dataset_name", str(data)),
        *("--image_column", "image", "--conditioning_image_column", "canny"),
        *("--caption_column", "text", "--resolution", str(SIZE_PX), "--output_dir", str(output)),
        *("--train_batch_size", str(BATCH), "--max_train_steps", str(steps), "--seed", "0"),
        *("--proportion_empty_prompts", "0.5", "--lr_warmup_steps", "0"),
        *("--learning_rate", "1e-5", "--cache_dir", str(output / "cache"), *flags),
    ]
    runpy.run_path(str(script), run_name="__main__")


def largest_bytes() -> int:
    """Largest resident set of this process so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def gradients_agree(base: Path, data: Path) -> Iterator[tuple[str, float]]:
    """Compare the gradients of one step: ours from the shards, the script's from the pictures.

    Equal weights, noise, timesteps and points in the VAE's posterior. The zero convolutions get
    values, else most gradients would be zero. The script's mathematics is in `_theirs`.

    Yields:
        What is compared, and a difference: the largest one over the largest entry of the
        gradient, or the distance of both gradients over their length.
    """
    from diffusers import ControlNetModel

    from controlnet.architecture.backbone import load_base, new_control, scheduler
    from controlnet.trainer.batch import DrawOptions
    from controlnet.trainer.index import scan
    from controlnet.trainer.loader import Loader
    from controlnet.trainer.step import Diffusion, Learner, Texts, inputs_of, losses

    loaded = load_base(str(base), offline=True)
    assert loaded.text is not None
    theirs = ControlNetModel.from_unet(loaded.unet)
    torch.manual_seed(0)
    for zero in (*theirs.controlnet_down_blocks, theirs.controlnet_mid_block):
        torch.nn.init.normal_(zero.weight, std=0.02)
    torch.nn.init.normal_(theirs.controlnet_cond_embedding.conv_out.weight, std=0.02)
    mine = new_control(loaded, widths=(16, 32, 96, 256))
    mine.load_state_dict(theirs.state_dict())
    expected: dict[str, torch.Tensor] = {}
    for label, channels_last, stored in GRADIENT_CASES:
        index = scan(str(data), split="train", condition="canny", wants_latents=stored)
        loader = Loader(
            index,
            seed=0,
            batch_size=BATCH,
            options=DrawOptions(),
            latent_channels=loaded.space.channels,
            latent_factor=loaded.space.factor,
        )
        batch = next(iter(loader.iterate(0)))
        if not expected:
            _theirs(theirs, loaded, batch, data)
            expected = {name: value.grad for name, value in theirs.named_parameters()}
        if channels_last:
            loaded.unet.to(memory_format=torch.channels_last)
            mine.to(memory_format=torch.channels_last)
        schedule = scheduler(loaded, "DDPMScheduler")
        diffusion = Diffusion.of(schedule.alphas_cumprod, schedule.config.prediction_type)
        inputs = inputs_of(
            batch,
            Texts(loaded.text, None)(batch.texts),
            loaded,
            device=torch.device("cpu"),
            channels_last=channels_last,
            noise_offset=0.0,
        )
        mine.zero_grad(set_to_none=True)
        losses(Learner(mine, loaded.unet, diffusion, torch.float32), inputs).mean().backward()
        pairs = [(value.grad, expected[name]) for name, value in mine.named_parameters()]
        # Of all tensors together: where a normalization follows, a bias has no gradient but noise.
        apart = max(float((a - b).abs().max()) for a, b in pairs)
        yield f"{label}: largest difference", apart / max(float(b.abs().max()) for _, b in pairs)
        far = sum(float((a - b).double().square().sum()) for a, b in pairs)
        length = sum(float(b.double().square().sum()) for _, b in pairs)
        yield f"{label}: distance", (far / length) ** 0.5


def _theirs(controlnet: Any, base: Any, batch: Any, data: Path) -> None:
    """Backward of the script's loss, line by line; only what it draws is given."""
    from torch.nn import functional
    from torchvision import transforms

    from controlnet.architecture.backbone import scheduler
    from schemas.dataset import open_dataset

    rows = {row["key"]: row for row in map(open_dataset(str(data)).row, range(PICTURES))}
    pictures = [
        [Image.open(io.BytesIO(rows[key][column]["bytes"])).convert("RGB") for key in batch.keys]
        for column in ("image", "canny")
    ]
    scaled = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])
    pixel_values = torch.stack([scaled(picture) for picture in pictures[0]])
    controlnet_image = torch.stack([transforms.ToTensor()(picture) for picture in pictures[1]])
    noise_scheduler = scheduler(base, "DDPMScheduler")
    with torch.no_grad():
        posterior = base.vae.encode(pixel_values).latent_dist
        latents = posterior.mean + posterior.std * batch.posterior_BCHW
        latents = latents * base.vae.config.scaling_factor
        encoder_hidden_states = base.text(batch.texts).text_BLD
    noise, timesteps = batch.noise_BCHW, batch.timestep_B
    noisy_latents = noise_scheduler.add_noise(latents.float(), noise.float(), timesteps)
    down_block_res_samples, mid_block_res_sample = controlnet(
        noisy_latents,
        timesteps,
        encoder_hidden_states=encoder_hidden_states,
        controlnet_cond=controlnet_image,
        return_dict=False,
    )
    model_pred = base.unet(
        noisy_latents,
        timesteps,
        encoder_hidden_states=encoder_hidden_states,
        down_block_additional_residuals=down_block_res_samples,
        mid_block_additional_residual=mid_block_res_sample,
        return_dict=False,
    )[0]
    functional.mse_loss(model_pred.float(), noise.float(), reduction="mean").backward()


def _succeed(status: int | None) -> None:
    if status:
        raise SystemExit(status)


def main() -> None:
    """See above."""
    name, script, base, data, *rest = sys.argv[1:]
    if name == "gradients":
        for what, apart in gradients_agree(Path(base), Path(data)):
            print(json.dumps([what, apart]), flush=True)
        return
    output, steps, *flags = rest
    ended_s, sizes = list[float](), list[int]()

    def look(*_: Any) -> None:
        ended_s.append(time.monotonic())
        sizes.append(largest_bytes())

    register_optimizer_step_post_hook(look)
    started_s = time.monotonic()
    paths = Path(base), Path(data), Path(output)
    run = ours if name == "ours" else functools.partial(diffusers, Path(script))
    run(*paths, int(steps), *flags)
    seconds = [round(end_s - started_s, 3) for end_s in ended_s]
    print(json.dumps({"ended_s": seconds, "bytes": sizes, "whole_bytes": largest_bytes()}))


if __name__ == "__main__":
    main()
