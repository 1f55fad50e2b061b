"""Processes that run the same contenders at the same time, each on one core."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import click

Contenders = Mapping[str, Callable[[], object]]
Make = Callable[[], Contenders]


@dataclass(frozen=True)
class Copies:
    """Running processes with the same contenders, and the way to each."""

    processes: tuple[BaseProcess, ...]
    ways: tuple[Connection, ...]

    def warm_up(self, name: str) -> None:
        """Run a contender once in each process."""
        self.rate(name, len(self.ways), 0.0)

    def rate(self, name: str, count: int, seconds: float) -> float:
        """Return how often a second the first `count` processes together run a contender.

        They start together, and each runs at least once and stops after the seconds. Raises
        `ClickException` when a process has ended.
        """
        for number in range(count):
            self._tell(number, (name, seconds))
        return sum(self._hear(number) for number in range(count))

    def _tell(self, number: int, order: tuple[str, float]) -> None:
        try:
            self.ways[number].send(order)
        except OSError as error:
            raise self._ended(number) from error

    def _hear(self, number: int) -> float:
        try:
            return float(self.ways[number].recv())
        except (EOFError, OSError) as error:
            raise self._ended(number) from error

    def _ended(self, number: int) -> click.ClickException:
        self.processes[number].join()
        code = self.processes[number].exitcode
        return click.ClickException(f"process {number + 1} of the bench ended with code {code}")


@contextmanager
def running_copies(make: Make, count: int) -> Iterator[Copies]:
    """Run processes around a block, each with the contenders that `make` returns in it.

    `make` is a function that can be pickled. Where the system can pin a process, each has one of
    the cores that this process may use, in turn.
    """
    context = multiprocessing.get_context("spawn")
    cores = usable_cores()
    processes: list[BaseProcess] = []
    ways: list[Connection] = []
    try:
        for number in range(count):
            here, there = context.Pipe()
            ways.append(here)
            core = cores[number % len(cores)] if cores else None
            process: BaseProcess = context.Process(
                target=_run, args=(there, make, core), daemon=True
            )
            process.start()
            processes.append(process)
            there.close()  # or the end of the process would not be heard
        yield Copies(tuple(processes), tuple(ways))
    finally:
        for way in ways:
            way.close()
        for process in processes:
            process.terminate()
            process.join()


def usable_cores() -> tuple[int, ...]:
    """Return the numbers of the cores that this process may use; none where it cannot pin."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def _run(way: Connection, make: Make, core: int | None) -> None:
    """Answer each order, a contender's name and seconds, with its runs a second, until the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the bench, which ends its copies
    if core is not None:
        os.sched_setaffinity(0, {core})
    contenders = make()
    while True:
        try:
            name, seconds = way.recv()
        except EOFError:
            return
        way.send(_runs_per_second(contenders[name], seconds))


def _runs_per_second(contender: Callable[[], object], seconds: float) -> float:
    started, count, passed = time.perf_counter(), 0, 0.0
    while count == 0 or passed < seconds:
        contender()
        count += 1
        passed = time.perf_counter() - started
    return count / passed
