"""Look into, change, trace and kill processes: those outside, and those of the sandbox by calls it should not have."""

import contextlib
import ctypes
import os
import signal
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
victim = int(sys.argv[1])
for number in (0, signal.SIGTERM, signal.SIGKILL):
    with contextlib.suppress(OSError):
        os.kill(victim, number)
        print("SUCCEEDED signalled", number, flush=True)
    with contextlib.suppress(OSError):
        os.killpg(victim, number)
        print("SUCCEEDED signalled a group", number, flush=True)
child = os.fork()
if child == 0:
    time.sleep(5)
    os._exit(0)
if libc.ptrace(16, child, 0, 0) == 0:  # PTRACE_ATTACH
    print("SUCCEEDED traced", flush=True)
memory = ctypes.create_string_buffer(8)


class Piece(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


here = Piece(ctypes.addressof(memory), 8)
if libc.process_vm_readv(child, ctypes.byref(here), 1, ctypes.byref(here), 1, 0) == 8:
    print("SUCCEEDED read memory", flush=True)
os.kill(child, signal.SIGKILL)
