"""What Dataflow's flex template launcher starts: parameters in, a submitted job out."""

import os
import sys

from controlset.commands.generate import parse_config
from pipeline.generate import submit
from pipeline.runners.dataflow import arguments_of
from schemas.errors import ConfigError

if __name__ == "__main__":
    arguments = arguments_of(sys.argv[1:])
    image = os.environ.get("CONTROLSET_WORKER_IMAGE")
    if image and not any(one.startswith("--sdk_container_image") for one in arguments):
        arguments.append(f"--sdk_container_image={image}")
    if not any(one.startswith("--runner") for one in arguments):
        arguments.append("--runner=DataflowRunner")
    try:
        submit(parse_config(arguments))
    except ConfigError as error:
        sys.exit(f"controlset: {error}")
