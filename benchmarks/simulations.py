"""The tables of the intervals' coverage and of the online dial: minutes of one core, the same on every machine.

    python benchmarks/simulations.py

The simulations are those of tests/coverage_simulation.py and tests/online_simulation.py, which the tests run smaller.
"""

from __future__ import annotations

import sys
from pathlib import Path

from record import surroundings, write_result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import coverage_simulation
import online_simulation


def main() -> None:
    """Simulate, print and store."""
    result = surroundings(["numpy", "scipy"])
    for simulation in (coverage_simulation, online_simulation):
        for name, rows in simulation.simulate().items():
            print(name, *rows, sep="\n", flush=True)
            result[name] = rows
    write_result("simulations", result)


if __name__ == "__main__":
    main()
