"""`python -m diffembed`: the command line where no script is installed."""

import sys

from diffembed.cli import main

sys.exit(main())
