"""Change the system: programs, configuration, devices, settings of the kernel."""

import os

for place in ("/", "/dev", "/usr/bin", "/usr/lib", "/etc", "/run", "/sys", "/var", "/home", "/opt", "/run/retinue"):
    try:
        with open(os.path.join(place, "attack"), "w") as file:
            file.write("x")
        print("SUCCEEDED wrote in", place, flush=True)
        os.unlink(os.path.join(place, "attack"))
    except OSError:
        pass
for path in (
    "/proc/sys/kernel/core_pattern",
    "/proc/sysrq-trigger",
    "/proc/sys/vm/drop_caches",
    "/etc/passwd",
    "/proc/kcore",
):
    try:
        os.close(os.open(path, os.O_WRONLY))
        print("SUCCEEDED opened", path, flush=True)
    except OSError:
        pass
