"""Write requirements.lock for the packages on stdin, as `pip freeze` lists them: with hashes.

`uv` asks the index for the hashes of all files of a version, for any platform and Python.
"""

import re
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"
# A build of torch for a CPU alone has the version but not the hash of the index's.
WITHOUT_HASH = "torch"
# These two install the same module: an environment has one of them, and the lock both hashes.
RUNTIME, OTHER_RUNTIME = "onnxruntime", "onnxruntime-gpu"
COMPILE = (
    "uv pip compile --quiet --no-deps --generate-hashes --no-annotate --no-header --universal "
    "--python-version 3.11 -"
)


def hashes_of(pins: dict[str, str]) -> dict[str, str]:
    """Return the lines of hashes for packages, given by name and version, by their name."""
    lines = "\n".join(f"{name}=={version}" for name, version in pins.items())
    command = COMPILE.split()
    done = subprocess.run(command, input=lines, stdout=-1, text=True, check=True)  # noqa: S603 -- ours
    entries = re.split(r"\n(?=\S)", done.stdout.strip())
    return {entry.partition("==")[0]: entry.partition("\n")[2] for entry in entries}


def main() -> None:
    """Keep the lock's first comment and write all else."""
    frozen = dict(line.partition("+")[0].split("==") for line in sys.stdin.read().split())
    hashes = hashes_of(
        {name: version for name, version in frozen.items() if name != WITHOUT_HASH}
        | {OTHER_RUNTIME: frozen[RUNTIME]}
    )
    hashes[RUNTIME] += " \\\n" + hashes[OTHER_RUNTIME]
    lines = [line for line in LOCK.read_text().splitlines() if line.startswith("#")]
    for name in sorted(frozen, key=str.lower):
        pin, plain = f"{name}=={frozen[name]}", re.sub(r"[-_.]+", "-", name).lower()
        lines.append(pin if name == WITHOUT_HASH else f"{pin} \\\n{hashes[plain]}")
    LOCK.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
