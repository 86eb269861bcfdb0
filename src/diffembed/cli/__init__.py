"""The command line: `diffembed VERB ...`; what it does is in `app`, each verb in a file of its own."""

import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line; see `app.run`. Ctrl-C while the program is still starting ends it as quietly as later."""
    try:
        from diffembed.cli.app import run

        return run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
