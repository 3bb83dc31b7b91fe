"""Make folders within folders, deeper than a path can say and than a recursion can go."""

import os

os.chdir(".")
for _ in range(3000):
    os.mkdir("d")
    os.chdir("d")
with open("file", "w") as file:
    file.write("deep")
print("made", flush=True)
