"""Load programs: processes of their own that act as clients, told what to do on stdin, answering on stdout."""
