"""``python -m adaptthink`` is the same as ``adaptthink``."""

from adaptthink.cli.app import main

main()
