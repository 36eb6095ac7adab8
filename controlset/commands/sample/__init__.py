"""`controlset sample`."""

from collections.abc import Sequence

from controlset import refusals
from controlset.commands.sample.config import SampleConfig
from controlset.console import leaving_at_once, load_arrow
from controlset.parse import Command
from schemas.printable import say

COMMAND = Command(
    name="sample",
    kind=SampleConfig,
    description="Draw pictures that obey a condition map: with one ControlNet or several, "
    "from noise, from a picture, or into the masked part of one.",
    example='--run run --hint map.png --prompt "a red star"',
)


def run(arguments: Sequence[str]) -> int:
    """Draw pictures under control; print where they lie."""
    with leaving_at_once("sample"):
        config = COMMAND.parse(arguments)
        refusals.need_runs(config.run)
        refusals.need_models(config)
        refusals.need_paths("--hint", config.hint, "a picture")
        given = {"--init-image": config.init_image, "--mask": config.mask}
        for flag, path in given.items():
            refusals.need_paths(flag, [path], "a picture")
        from controlset.commands.sample.draw import draw

        load_arrow()
    for path in draw(config):
        say(path)
    return 0
