"""Become another user: by calls, by programs that are meant for it, by a program of its own with the bit set."""

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable

changes: list[Callable[[], None]] = [
    lambda: os.setuid(0),
    lambda: os.setgid(0),
    lambda: os.setgroups([0]),
    lambda: os.chown(".", 0, 0),
]
for change in changes:
    with contextlib.suppress(OSError):
        change()
        print("SUCCEEDED changed user or owner", os.getuid(), flush=True)
for command in (["/usr/bin/su", "-c", "id -u"], ["/usr/bin/sudo", "-n", "id", "-u"], ["/usr/bin/newgrp", "root"]):
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=5)
        if done.stdout.strip() == b"0":
            print("SUCCEEDED by", command[0], flush=True)
shutil.copy("/usr/bin/id", "./id")
with contextlib.suppress(OSError):
    os.chmod("./id", 0o4755 | stat.S_ISGID)  # noqa: S103 - the attack
    if subprocess.run(["./id", "-u"], capture_output=True).stdout.strip() == b"0":
        print("SUCCEEDED by a bit", flush=True)
