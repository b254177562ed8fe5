"""A headless Chromium without network: what a page says, what its console says, how it prints."""

import re
import shutil
import subprocess
from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome")
EXECUTABLE = next((found for name in _NAMES if (found := shutil.which(name))), None)
MISSING = "not_run: chromium is not installed"

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--proxy-server=127.0.0.1:9",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
)
_CONSOLE = re.compile(r":CONSOLE(?::|\()\d+\)?\]\s*(.*)")


def run(page: Path, profile: Path, *flags: str, anchor: str = "") -> tuple[str, list[str]]:
    """Open a page by file:// and return what goes to the output, and the console's lines."""
    assert EXECUTABLE is not None
    command = [
        EXECUTABLE,
        *_FLAGS,
        f"--user-data-dir={profile}",
        *flags,
        f"{page.as_uri()}#{anchor}",
    ]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    console = _CONSOLE.findall(done.stderr.decode(errors="replace"))
    return done.stdout.decode(errors="replace"), console
