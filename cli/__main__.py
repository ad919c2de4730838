"""``python -m cli`` in a checkout: the same as ``fabric``."""

from .main import main

main(prog_name="fabric")
