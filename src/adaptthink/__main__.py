"""``python -m adaptthink`` is the same as ``adaptthink``."""

from adaptthink.cli import main

main()
