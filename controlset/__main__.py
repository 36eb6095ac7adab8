"""`python -m controlset` is `controlset`."""

import sys

from controlset.cli import main

sys.exit(main())
