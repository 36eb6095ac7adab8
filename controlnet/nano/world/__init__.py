"""The drawn world, version 2: scenes whose depth, outlines, joints and words are known exactly."""

from controlnet.nano.world.drawing import Drawn, DrawnPerson, draw
from controlnet.nano.world.layout import make_scene
from controlnet.nano.world.scene import CLASSES, Scene, mirrored
from controlnet.nano.world.words import (
    WORDINGS,
    WORDS,
    Facts,
    ShortFacts,
    caption,
    facts,
    parse,
    short_caption,
    short_facts,
)

__all__ = [
    "CLASSES",
    "WORDINGS",
    "WORDS",
    "Drawn",
    "DrawnPerson",
    "Facts",
    "Scene",
    "ShortFacts",
    "caption",
    "draw",
    "facts",
    "make_scene",
    "mirrored",
    "parse",
    "short_caption",
    "short_facts",
]
