"""Lets ``python -m wsseg`` and ``torchrun -m wsseg`` run the command line."""

from wsseg.cli import main

main()
