"""The tables of the intervals' coverage, the dial and the online dial: minutes of one core, the same on every machine.

    python benchmarks/simulations.py

The simulations are those of tests/coverage_simulation.py, tests/dial_simulation.py and tests/online_simulation.py,
which the tests run smaller. Names as arguments run some of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from record import surroundings, write_result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import coverage_simulation
import dial_simulation
import online_simulation


def main() -> None:
    """Simulate, print and store."""
    named = {"coverage": coverage_simulation, "dial": dial_simulation, "online-dial": online_simulation}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(named))
    names = parser.parse_args().names or list(named)
    if unknown := set(names) - set(named):
        parser.error(f"no simulation {', '.join(sorted(unknown))}; there are {', '.join(named)}")
    for name in names:
        tables = named[name].simulate()
        for table, rows in tables.items():
            print(table, *rows, sep="\n", flush=True)
        write_result(name, surroundings(["numpy", "scipy"]) | tables)


if __name__ == "__main__":
    main()
