"""`python -m corepress` is the command `corepress`."""

from corepress.cli import main

main()
