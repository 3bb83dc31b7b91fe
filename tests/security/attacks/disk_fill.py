"""Write 80 MB in many files, wherever it is possible."""

import contextlib
import os
import time

written = 0
for folder in (".", "/tmp", "/dev/shm", os.environ["HOME"], "/var/tmp", "/run"):
    for number in range(4):
        with contextlib.suppress(OSError), open(f"{folder}/fill-{number}", "wb", buffering=0) as file:
            for _ in range(8):
                written += file.write(os.urandom(1 << 20))
time.sleep(0.5)
if written >= 60 << 20:
    print("SUCCEEDED", written, flush=True)
