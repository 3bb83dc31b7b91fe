"""The benches: what Retinue costs, beside the least the same work can cost on the same machine in the same run.

`python -m bench` runs them all and writes `bench/results.json`. A floor (bench/floors) is the smallest honest program
that does the same work without durability, tenancy or events. A group (bench/groups) runs floor and product in turns
and fills rows. Load comes from separate processes (bench/load), the model is the scripted model server.
"""
