"""Small or random weights for every model of the README's command, without the hub.

They lie where `controlset weights fetch --weights DIR` would put the real ones, so the very command
of the README runs on them. Only PiDiNet's are real, where they are at hand.
"""

import shutil
from pathlib import Path

from tests.annotators import reference_weights
from tests.annotators.tiny_captioners import make_blip
from tests.annotators.tiny_models import save_depth_anything

REAL_PIDINET = Path(__file__).parents[3] / "shared/weights/pidinet/table5_pidinet.pth"


def write_small_weights(folder: Path) -> Path:
    """Write them and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    reference_weights.write(folder, "hed", "softedge")
    reference_weights.write_narrow_pose(folder)
    if REAL_PIDINET.exists():
        shutil.copy(REAL_PIDINET, folder)
    save_depth_anything(folder / "depth-anything--Depth-Anything-V2-Small-hf")
    make_blip(folder / "Salesforce--blip-image-captioning-base")
    return folder
