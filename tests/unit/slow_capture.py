"""Capture a small model slowly, for a test that kills this process: FOLDER SECONDS."""

import sys
import time

from arrcoc_verify.capture import capture
from tests.unit.small_models import linear, scenes, slowed


def main(folder: str, seconds: str) -> None:
    def wait(_count: int) -> None:
        time.sleep(float(seconds))

    model = slowed(linear(), wait)
    capture(model, scenes(12), folder=folder, shard_examples=2, batch_size=2, progress=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
