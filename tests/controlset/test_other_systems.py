"""macOS and Windows lack names that Linux has; the commands start and work without them."""

import os
import subprocess
import sys

from PIL import Image

WITHOUT = """
import os, signal, sys
import psutil  # its half for Linux wants `resource`, the others do not
for module in ("fcntl", "resource"):
    sys.modules[module] = None
for name in ("sched_getaffinity", "sched_setaffinity", "sysconf", "O_NONBLOCK"):
    delattr(os, name)
for name in ("SIGHUP", "SIGXFSZ", "SIGUSR1"):
    delattr(signal, name)
import warnings
warnings.filterwarnings("ignore", message="only soft file lock is available")
from controlset.cli import main
source, output = sys.argv[1:]
assert main(["generate", source, "--output", output, "--conditions", "canny",
             "--resolution", "64", "--num-workers", "1"]) == 0
assert main(["verify", output]) == 0
from schemas.errors import ConfigError
from schemas.files import locked
with locked(output):
    try:
        with locked(output):
            sys.exit("locked twice")
    except ConfigError as error:
        assert "need to be the only run" in str(error)
import controlset.commands.train, controlset.commands.evaluate, controlset.commands.doctor
import controlset.commands.doctor, controlnet.trainer.train, schemas.machine
assert schemas.machine.cores() == os.cpu_count()
"""


def test_a_system_without_the_names_of_linux_makes_and_checks_a_set(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.effect_noise((64, 64), 50).save(tmp_path / "photos" / "one.png")
    command = [sys.executable, "-c", WITHOUT, str(tmp_path / "photos"), str(tmp_path / "set")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "every check passed" in done.stdout
