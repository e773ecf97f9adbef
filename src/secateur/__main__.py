"""`python -m secateur`: the command line."""

from secateur.cli.start import main

main()
