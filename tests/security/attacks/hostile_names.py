"""Leave files whose names mean harm to whoever shows, stores or unpacks them."""

import contextlib
import os

names = [
    b"line\nbreak.txt",
    b"bell\a.txt",
    b"\x1b[2Jclear.txt",
    b"tab\t.txt",
    b"not-utf8-\xff\xfe.txt",
    b"back\\slash.txt",
    b"..\\..\\windows.txt",
    b"trailing ",
    b" leading",
    b"dot.",
    b".hidden",
    b".ssh/authorized_keys",
    b"nul\xc2\x85next.txt",
    b"separator\xe2\x80\xa8.txt",
    b"n" * 255,
    b"/".join([b"long" * 40] * 5) + b"/x.txt",
    b"del\x7f.txt",
]
for name in names:
    path = b"./" + name
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"hostile")
for special in (b"./pipe", b"./socket"):
    with contextlib.suppress(OSError):
        os.mkfifo(special)
with open("./good.txt", "w") as file:
    file.write("good")
with open("./Grüße, 世界.txt", "w") as file:
    file.write("good")
