"""The drawn world, version 2: scenes whose depth, outlines, joints and words are known exactly."""

from controlnet.nano.world.drawing import Drawn, DrawnPerson, draw
from controlnet.nano.world.layout import make_scene
from controlnet.nano.world.scene import CLASSES, Scene, mirrored
from controlnet.nano.world.words import WORDINGS, WORDS, Facts, caption, facts, parse

__all__ = [
    "CLASSES",
    "WORDINGS",
    "WORDS",
    "Drawn",
    "DrawnPerson",
    "Facts",
    "Scene",
    "caption",
    "draw",
    "facts",
    "make_scene",
    "mirrored",
    "parse",
]
