"""Make system calls by the numbers of a 32-bit machine, which a filter for this one does not mean."""

import ctypes
import mmap

code = bytes.fromhex("b814000000cd80c3")  # mov eax, 20 (getpid); int 0x80; ret
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(code)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
answer = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
if answer > 0:
    print("SUCCEEDED", answer, flush=True)
