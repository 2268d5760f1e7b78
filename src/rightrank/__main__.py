"""``python -m rightrank``."""

from rightrank.cli import main

main()
