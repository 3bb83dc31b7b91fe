"""Command the machine: clock, names, a new kernel, modules. Each call is one that does no harm where it is allowed."""

import ctypes
import errno
from collections.abc import Callable

libc = ctypes.CDLL(None, use_errno=True)
calls: dict[str, Callable[[], int]] = {
    "clock": lambda: libc.adjtimex(ctypes.create_string_buffer(512)),  # modes 0: only reads
    "reboot": lambda: libc.syscall(169, 1, 2, 3, 0),  # wrong magic numbers
    "kexec": lambda: libc.syscall(246, 0, 17, 0, 1 << 40),  # impossible flags
    "modules": lambda: libc.syscall(313, -1, b"", 1 << 20),  # no file
    "swap": lambda: libc.swapon(b"/nonexistent", 0),
    "log": lambda: libc.klogctl(10, None, 0),
    "accounting": lambda: libc.acct(b"/nonexistent/file"),
}
for name, call in calls.items():
    ctypes.set_errno(0)
    if call() >= 0 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
        print("SUCCEEDED", name, ctypes.get_errno(), flush=True)
