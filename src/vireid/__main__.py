"""`python -m vireid`."""

from vireid.cli import main

main()
