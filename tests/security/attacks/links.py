"""Leave links to files of the machine among the results: symbolic and hard, to files and folders."""

import contextlib
import os
import sys

secret = sys.argv[1]
for target, name in (
    (secret, "secret.txt"),
    ("/etc/passwd", "passwd.txt"),
    (os.path.dirname(secret), "folder"),
    ("/", "root"),
    ("/proc/self/environ", "environ.txt"),
    ("/dev/zero", "zero.txt"),
    ("secret.txt", "chain.txt"),
):
    with contextlib.suppress(OSError):
        os.symlink(target, f"./{name}")
for target in (secret, "/etc/passwd", "/usr/bin/env", "/etc/hosts"):
    with contextlib.suppress(OSError):
        os.link(target, f"./hard-{os.path.basename(target)}")
        print("SUCCEEDED linked", target, flush=True)
with contextlib.suppress(OSError), open(secret) as file:
    print("SUCCEEDED", file.read(), flush=True)
