"""Use up inodes with 20,000 empty files."""

import contextlib
import os
import time

made = 0
with contextlib.suppress(OSError):
    for folder in range(20):
        os.mkdir(f"./{folder}")
        for number in range(1000):
            os.close(os.open(f"./{folder}/{number}", os.O_CREAT | os.O_WRONLY))
            made += 1
time.sleep(0.5)
if made >= 20_000:
    print("SUCCEEDED", made, flush=True)
