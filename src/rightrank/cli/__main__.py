"""``python -m rightrank.cli``."""

from rightrank.cli import main

main()
