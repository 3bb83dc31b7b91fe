"""`python -m retinue.cli`: the same as `retinue`."""

from retinue.cli import main

main()
