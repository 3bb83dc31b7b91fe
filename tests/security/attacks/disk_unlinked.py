"""Write 80 MB in files that have no name any more, where no walk finds them."""

import contextlib
import os
import time

written = 0
held = []
with contextlib.suppress(OSError):
    for number in range(10):
        file = open(f"./gone-{number}", "wb", buffering=0)  # noqa: SIM115
        os.unlink(file.name)
        held.append(file)
        for _ in range(8):
            written += file.write(os.urandom(1 << 20))
time.sleep(0.5)
if written >= 60 << 20:
    print("SUCCEEDED", written, flush=True)
