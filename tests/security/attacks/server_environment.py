"""Find the server's secrets in environments and memory of processes."""

import contextlib
import os
import sys

token = sys.argv[1].encode()[::-1]
found = [name.encode() + b"=" + value.encode() for name, value in os.environ.items()]
for pid in [name for name in os.listdir("/proc") if name.isdigit()] if os.path.isdir("/proc/self") else []:
    for file in ("environ", "cmdline"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/{file}", "rb") as opened:
            found.append(opened.read())
if any(token in text for text in found):
    print("SUCCEEDED", flush=True)
