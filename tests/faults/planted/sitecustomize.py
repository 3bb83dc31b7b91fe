"""Python imports this by its name at its start: a process with this folder on its path gets the bug it is to have."""

from tests.faults.mutants import plant_from_environment

plant_from_environment()
