"""Take 300 MB in one process."""

import time

held = bytearray(300 << 20)
for at in range(0, len(held), 4096):
    held[at] = 1
time.sleep(0.5)
print("SUCCEEDED", len(held), flush=True)
