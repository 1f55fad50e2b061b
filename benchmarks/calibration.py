"""Measure how well the probabilities of the built-in bundles are calibrated, on test tasks.

python benchmarks/calibration.py [--data DIR] [--only cifar-fs-2shot] [--page]

For each built-in bundle and number of examples a row for each batch-norm mode, adapted and answered
as the server does when asked for nothing. `--page` measures nothing; it writes the table of
docs/choosing.md.
"""

from kshot.bench.calibration_command import command

if __name__ == "__main__":
    command()
