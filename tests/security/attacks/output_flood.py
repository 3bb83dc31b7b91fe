"""Write 64 MB to standard output and standard error."""

import os

for _ in range(512):
    os.write(1, b"x" * 65536)
    os.write(2, b"y" * 65536)
os.write(1, b"\nSUCCEEDED\n")
