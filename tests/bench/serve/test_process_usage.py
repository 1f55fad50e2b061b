"""Memory and processor time, read from /proc."""

from __future__ import annotations

import os

import click
import pytest

from kshot.bench.serve.process_usage import Cpu, Memory, cpu_ms, cpu_per_call, resident_bytes


def test_usage_is_read_from_proc() -> None:
    assert resident_bytes(os.getpid()) > 2**20
    assert cpu_ms(os.getpid()) > 0
    with pytest.raises(
        click.ClickException, match="cannot read memory and time of processes from /proc/0/status"
    ):
        resident_bytes(0)


def test_memory_of_both_processes_is_subtracted_and_added() -> None:
    growth = Memory(7, 30) - Memory(2, 10)

    assert growth == Memory(5, 20)
    assert growth.total_bytes == 25


def test_processor_time_is_shared_among_calls() -> None:
    assert cpu_per_call(Cpu(10, 100), Cpu(14, 180), 8) == Cpu(0.5, 10)
    assert cpu_per_call(Cpu(10, 100), Cpu(14, 180), 0) is None
    assert cpu_per_call(None, Cpu(14, 180), 8) is None
