"""Run the measurements: `python benchmarks/bench.py --out reports/bench.json`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from benchmarks.measure import main

    sys.exit(main())
