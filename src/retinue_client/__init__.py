"""The Python client of Retinue for applications that hold a grant; imports nothing of the server."""
