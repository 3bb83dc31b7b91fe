"""Use parts of the kernel that no program of ours needs and many holes were in."""

import ctypes
import errno

libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(4096)
calls = {
    "bpf": (321, 0, buffer, 4),
    "userfaultfd": (323, 1),
    "io_uring": (425, 4, buffer),
    "keyring": (250, 0, -3, 1),
    "perf": (298, buffer, 0, -1, -1, 0),
    "handles": (304, -1, buffer, 0),
    "newer than the table": (467, -1, b"", 0, 0, 0),
    "32-bit names of the same calls": (0x40000000 + 101, 0, 0, 0, 0),
}
for name, call in calls.items():
    ctypes.set_errno(0)
    if libc.syscall(*call) >= 0 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
        print("SUCCEEDED", name, ctypes.get_errno(), flush=True)
