"""Processes that run contenders at the same time; functions of Python stand for contenders."""

import os
import time
from functools import partial

import click
import pytest

from kshot.bench.speed.copies import running_copies, usable_cores


def test_copies_count_their_runs() -> None:
    with running_copies(partial(dict, tick=time.perf_counter), 2) as copies:
        copies.warm_up("tick")
        rates = [copies.rate("tick", count, 0.0) for count in (1, 2)]
        pids = [process.pid for process in copies.processes]
        cores = [os.sched_getaffinity(pid) for pid in pids if pid is not None]

    assert min(rates) > 0
    usable = usable_cores()
    assert cores == [{usable[0]}, {usable[1 % len(usable)]}]
    assert [process.exitcode is None for process in copies.processes] == [False, False]


def test_an_ended_copy_is_one_line() -> None:
    with (
        running_copies(partial(dict, end=partial(os._exit, 3)), 1) as copies,
        pytest.raises(click.ClickException, match="process 1 of the bench ended with code 3"),
    ):
        copies.rate("end", 1, 0.0)
