"""What a user can ask of the annotators and the captioner. Light to import."""

import dataclasses
import os
from typing import Literal

from annotators.runtime import PrecisionAsked
from schemas.errors import ConfigError

DEPTH_MODEL = "depth-anything/Depth-Anything-V2-Small-hf"
"""Small and Apache-2.0; the larger ones of its family are non-commercial."""

SoftMode = Literal["soft", "safe", "scribble"]
PosePart = Literal["hands", "face"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EyeOptions:
    """Which conditions, drawn by what, and where the networks run."""

    conditions: tuple[str, ...]
    """Condition maps to extract, e.g. `canny depth pose hed`; `controlset doctor` lists them."""

    device: str = "auto"
    """Where networks run: auto (a GPU if there is one), cpu, cuda, cuda:N or mps."""

    precision: PrecisionAsked = "auto"
    """Number format of the networks. auto: bf16 or fp16 where the hardware has it, else fp32."""

    weights: str | None = dataclasses.field(
        default_factory=lambda: os.environ.get("CONTROLSET_WEIGHTS") or None
    )
    """Folder with weights, searched before the hub's cache. Default: $CONTROLSET_WEIGHTS."""

    offline: bool = False
    """Never touch the network; weights must be here."""

    compile: bool = False
    """torch.compile the networks: worth its minutes for large sets on a GPU."""

    canny_thresholds: str = "100,200"
    """Hysteresis LOW,HIGH in grey levels, or a range for each, e.g. `50-150,150-250`: then every
    image draws its own pair, which is stored beside its map."""

    depth_model: str = DEPTH_MODEL
    """transformers model for depth (Depth Anything, DPT, ZoeDepth, GLPN; hub name or folder), e.g.
    `Intel/dpt-hybrid-midas`; or `midas` for what the ControlNet 1.1 annotator uses."""

    depth_bits: Literal[8, 16] = 8
    """Bits of a depth map's pixels."""

    pose: tuple[PosePart, ...] = ()
    """Parts drawn beside the body: hands, face (OpenPose only)."""

    pose_model: str = "openpose"
    """`openpose` (non-commercial weights), or a transformers ViTPose model (hub name or folder),
    e.g. `usyd-community/vitpose-base-simple` (Apache-2.0)."""

    pose_detector: str = "PekingU/rtdetr_r50vd_coco_o365"
    """transformers detector that finds the persons for ViTPose."""

    keep_empty_pose: bool = False
    """Store a black map where nobody is in the picture, instead of none."""

    hed_mode: SoftMode = "soft"
    """soft: grey edges. safe: quantised to few levels, so that a model cannot read the picture out
    of them. scribble: thick binary lines."""

    softedge_mode: SoftMode = "soft"
    """The same for `softedge`."""

    lineart_coarse: bool = False
    """Coarse line drawings."""

    mlsd_thresholds: str = "0.1,0.1"
    """SCORE,DISTANCE that a straight line must exceed (distance in px of half the image)."""

    segmentation_model: str = "openmmlab/upernet-convnext-small"
    """transformers model for semantic segmentation with ADE20K's 150 classes."""

    tile_factor: int = 4
    """How many times smaller the image is made for `tile`, which is then enlarged again."""

    caption_model: str = "Salesforce/blip-image-captioning-base"
    """transformers model of `--caption blip`: BLIP, BLIP-2 or Florence-2 (hub name or folder)."""

    caption_prompt: str | None = None
    """Beginning of every caption (BLIP), question (BLIP-2) or task (Florence-2: <CAPTION>)."""

    caption_beams: int = 3
    """Beams of the search for a caption; 1 is greedy."""

    caption_top_p: float | None = None
    """Sample captions out of this probability mass (nucleus) instead of searching."""

    caption_max_tokens: int = 40
    """Longest caption."""

    seed: int = 0
    """Seed of everything random (threshold draws, shuffling, sampled captions, split)."""

    def __post_init__(self) -> None:
        need(
            len(set(self.conditions)) == len(self.conditions),
            "--conditions",
            "each one once",
            self.conditions,
        )
        need(len(set(self.pose)) == len(self.pose), "--pose", "each part once", self.pose)
        need(2 <= self.tile_factor <= 64, "--tile-factor", "2 to 64", self.tile_factor)
        need(1 <= self.caption_beams <= 32, "--caption-beams", "1 to 32", self.caption_beams)
        need(
            self.caption_top_p is None or 0 < self.caption_top_p <= 1,
            "--caption-top-p",
            "0 < mass <= 1",
            self.caption_top_p,
        )
        need(
            1 <= self.caption_max_tokens <= 500,
            "--caption-max-tokens",
            "1 to 500",
            self.caption_max_tokens,
        )
        need(
            not (self.depth_bits == 16 and self.precision in {"bf16", "fp16"}),
            "--depth-bits 16",
            "--precision fp32 or auto",
            self.precision,
        )


def need(satisfied: bool, where: str, rule: str, value: object) -> None:
    """Refuse a value of an option that breaks its rule.

    Raises:
        ConfigError: it does.
    """
    if not satisfied:
        raise ConfigError(f"{where}: need {rule}, got {value!r}")
