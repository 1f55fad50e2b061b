"""`python -m studies.reliability.flooder ADDRESS FLOOD MODEL`: floods until it is ended.

`burn` speaks to no server and burns a share of a core, ADDRESS being the share.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from studies.reliability.callers import open_channel
from studies.reliability.floods import FLOODS, Target
from studies.reliability.keys import API_KEY

BURN = "burn"
NICENESS = 10
_PERIOD = 0.02


def burn(share: float) -> None:
    """Burn a share of a core."""
    while True:
        until = time.perf_counter() + _PERIOD * share
        while time.perf_counter() < until:
            pass
        time.sleep(_PERIOD * (1 - share))


async def flood(address: str, name: str, model: str) -> None:
    """Flood a server."""
    channel = open_channel(address, os.environ.get(API_KEY, ""))
    await FLOODS[name](Target(address, model, channel))


def main() -> None:
    """Flood, or burn."""
    os.nice(NICENESS)
    address, name, model = sys.argv[1:4]
    if name == BURN:
        print("burning", flush=True)
        burn(float(address))
    asyncio.run(flood(address, name, model))


if __name__ == "__main__":
    main()
