"""A command keeps freed memory, so that large tensors do not pay page faults again and again."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import os, resource, sys
import numpy as np
from arrcoc_verify.cli.heap import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(16_000_000)  # 128 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh, again = faults(), faults()
assert keep_freed()
faults()
print(fresh, again, faults(), os.environ["MALLOC_MMAP_MAX_"])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_that_was_freed_is_used_again_without_faults():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True,
                          check=True, timeout=60)  # fmt: skip
    fresh, again, kept, inherited = map(int, done.stdout.split())
    assert min(fresh, again) > 10 * max(kept, 1)
    assert inherited == 0
