"""Train dictionaries with every library: `python benchmarks/bench_sae.py --json FILE`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from benchmarks.bench_sae_run import main

    sys.exit(main())
