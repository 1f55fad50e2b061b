"""Sweep what an adaptation may choose: mode, preconditioner, head, scope and number of steps.

python benchmarks/choosing.py [--data DIR] [--only omniglot-1shot] [--page]

For each pair of a built-in bundle and data a JSON file and a picture: accuracy, calibration and
milliseconds of every choice on the same tasks, with the paired difference to the bundle's defaults.
`--page` measures nothing; it draws the pictures again and writes the tables of docs/choosing.md.
"""

from kshot.bench.choosing_command import command

if __name__ == "__main__":
    command()
