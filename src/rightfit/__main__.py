"""`python -m rightfit` is `rightfit`."""

from rightfit.cli import main

main()
