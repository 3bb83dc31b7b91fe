"""The real command-line agents, and aimock, which plays their models: installed once on a machine, shared by all tests.

They lie in the ignored folder ``.cache`` of the repository. The first test that wants them installs them from the
package indexes, which takes about fifteen seconds; afterwards nothing is fetched.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from pathlib import Path

from retinue.kernel import Settings
from retinue.operations.fetching import fetch_package
from retinue.operations.installing import GEMINI, NODE, QWEN, install, missing, place

_ROOT = Path(__file__).resolve().parents[2]
CACHE = _ROOT / ".cache"
DRIVERS = CACHE / "drivers"
_AIMOCK = Path(__file__).parent / "aimock"
_ENTRY = "node_modules/@copilotkit/aimock/dist/cli.js"


def agents_installed(data: Path) -> Settings:
    """Install the agents where that has not been done yet; return settings that use them, with this data folder."""
    settings = Settings(data=data, drivers=DRIVERS)
    # A plain user may use what root has installed, and not take its lock.
    if missing(settings, NODE, QWEN, GEMINI) is not None:
        install(settings, ["qwen", "gemini"])
    return settings


def aimock_command(settings: Settings) -> list[str]:
    """Install aimock where that has not been done yet; return the command that starts it."""
    pinned = hashlib.sha256((_AIMOCK / "package-lock.json").read_bytes()).hexdigest()[:16]
    folder = CACHE / f"aimock-{pinned}"
    node = place(settings, NODE)
    command = [str(node / NODE.entry), str(folder / _ENTRY)]
    if folder.exists():
        return command
    with (CACHE / ".aimock.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=CACHE))
            try:
                fetch_package(_AIMOCK, partial, node=node)
                partial.chmod(0o755)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return command
