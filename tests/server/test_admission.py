from __future__ import annotations

import asyncio

import pytest

from kshot.server.admission import Admission
from kshot.server.errors import QueueFull, ShuttingDown


def test_admission_counts_and_closes() -> None:
    async def main() -> None:
        admission = Admission(2)
        await admission.wait_idle()
        with admission.admit():
            with admission.admit(), pytest.raises(QueueFull), admission.admit():
                pass
            with admission.admit():
                admission.close()
            with pytest.raises(ShuttingDown), admission.admit():
                pass
        await admission.wait_idle()

    asyncio.run(main())
