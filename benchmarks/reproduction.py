"""Measure the rows of the Reptile paper's tables by the bundles that ship, and by given ones.

python benchmarks/reproduction.py [--data DIR] [--only o15,o55] [--bundle RECIPE=PATH] [--page]

Each row is 10,000 tasks with one query of each class, the paper's 50 steps and batch sizes; those
of CIFAR-FS are 600 tasks with 15. A row's three batch-norm modes share the adaptations. The JSON
file is written after every row, and rows that it has of the same weights are not measured again
without --again; a row that was stopped goes on where it was. `--page` measures nothing and writes
the tables of docs/reproduction.md.
"""

from kshot.bench.reproduction_command import command

if __name__ == "__main__":
    command()
