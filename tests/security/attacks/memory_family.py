"""Take 300 MB in ten processes, each of which stays below the limit of one."""

import os
import time

ready, tell = os.pipe()
for _ in range(10):
    if os.fork() == 0:
        held = bytearray(30 << 20)
        for at in range(0, len(held), 4096):
            held[at] = 1
        os.write(tell, b"1")
        time.sleep(30)
        os._exit(0)
os.close(tell)
count = 0
while count < 10 and os.read(ready, 1):
    count += 1
time.sleep(1.0)
try:
    alive = sum(os.waitpid(-1, os.WNOHANG) == (0, 0) for _ in range(1))
except ChildProcessError:
    alive = 0
if count == 10 and alive:
    print("SUCCEEDED", count, flush=True)
