"""The command line: `arrcoc-verify COMMAND ...`.

Nothing of torch is loaded until a command needs it, so `--help` is quick. Exit codes: 0 all that is
required holds, 1 refuted, 2 invalid, not run or failed on the way, 3 only inconclusive left,
4 usage, 130 interrupted.
"""

from arrcoc_verify.cli.ending import main

__all__ = ["main"]
