"""Make a file that claims to be 1 GB and takes nothing."""

with open("./sparse", "wb") as file:
    file.truncate(1 << 30)
print("SUCCEEDED", flush=True)
