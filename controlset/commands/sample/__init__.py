"""`controlset sample`."""

from collections.abc import Sequence

from controlset import early
from controlset.commands.sample.config import SampleConfig
from controlset.interrupt import leaving_at_once, load_arrow
from controlset.parse import parse
from schemas.printable import say

COMMAND = "controlset sample"


def run(arguments: Sequence[str]) -> int:
    """Draw pictures under control; print where they lie."""
    with leaving_at_once("sample"):
        config = parse(
            SampleConfig,
            COMMAND,
            arguments,
            description="Draw pictures that obey a condition map: with one ControlNet or several, "
            "from noise, from a picture, or into the masked part of one.",
            example=f'{COMMAND} --run run --hint map.png --prompt "a red star"',
        )
        early.need_runs(config.run)
        early.need_models(config)
        early.need_paths("--hint", config.hint, "a picture")
        given = {"--init-image": config.init_image, "--mask": config.mask}
        for flag, path in given.items():
            early.need_paths(flag, [path], "a picture")
        from controlset.commands.sample.draw import draw

        load_arrow()
    for path in draw(config):
        say(path)
    return 0
