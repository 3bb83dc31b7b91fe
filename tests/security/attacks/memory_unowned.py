"""Take 300 MB in files of memory that no process has mapped."""

import os
import time

held = 0
files = []
try:
    for _ in range(10):
        number = os.memfd_create("held")
        files.append(number)
        for _ in range(30):
            held += os.write(number, b"x" * (1 << 20))
except OSError:
    pass
time.sleep(0.5)
if held >= 250 << 20:
    print("SUCCEEDED", held, flush=True)
