"""`kshot`, and `python` for studies, as the shell finds them: the fork server runs the words.

`kshot serve` runs on behind once it is ready; the file `SNIPPETS_SERVING` has its process and its
words. The same words find it running, others end it first, and so does `kshot end-server`.
"""

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

SERVING = Path(os.environ["SNIPPETS_SERVING"])
KEYS_READ = SERVING.with_name(f"{SERVING.name}-keys")  # is there if the server has keys
LOG, READ = Path("serve.log"), '"access_read"'
END_S = 5.0  # a collector of traces that is away would take longer
READ_S = 60.0
DIED = 70


def ask(words: Sequence[str], streams: Sequence[int]) -> tuple[int, TextIO]:
    """Send a command to the fork server; return its process, and where its exit code comes."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ["SNIPPETS_SOCKET"])
    asked = {"words": words, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    socket.send_fds(connection, [json.dumps(asked).encode()], streams)
    answers = connection.makefile()
    return int(answers.readline()), answers


def end_server() -> None:
    """End the server that runs."""
    process = int(SERVING.read_text().partition(" ")[0])
    watched = os.pidfd_open(process)
    os.kill(process, signal.SIGTERM)
    if not select.select([watched], [], [], END_S)[0]:
        os.kill(process, signal.SIGKILL)
    SERVING.unlink()


def serve(words: Sequence[str]) -> int:
    """Start a server and wait until it is ready; return the exit code."""
    if SERVING.exists():
        if SERVING.read_text().partition(" ")[2] == json.dumps(words):
            return 0
        end_server()
    ready, told = os.pipe()
    with LOG.open("w") as log:
        process, _ = ask(words, [0, told, log.fileno()])
    os.close(told)
    with os.fdopen(ready) as line:
        if not line.readline():
            sys.stderr.write(LOG.read_text())
            return DIED
    SERVING.write_text(f"{process} {json.dumps(words)}")
    KEYS_READ.unlink(missing_ok=True)
    if "KSHOT_ACCESS" in os.environ:
        KEYS_READ.touch()
    return 0


def make_key(words: Sequence[str]) -> int:
    """Make a key; where a server runs with keys, wait until it has read it."""
    reads = SERVING.exists() and KEYS_READ.exists()
    before = LOG.read_text().count(READ) if reads else 0
    code = run(words)
    until = time.monotonic() + READ_S
    while reads and LOG.read_text().count(READ) == before and time.monotonic() < until:
        time.sleep(0.05)
    return code


def run(words: Sequence[str]) -> int:
    """Run a command; return its exit code."""
    _, answers = ask(words, [0, 1, 2])
    return int(answers.readline() or DIED)


def main(words: Sequence[str]) -> int:
    """Run the words; return their exit code."""
    if words[1:] == ["end-server"]:
        end_server()
        return 0
    if words[:2] == ["kshot", "serve"] and "SNIPPETS_PARSE_ONLY" not in os.environ:
        return serve(words)
    if words[:3] == ["kshot", "keys", "create"] and "SNIPPETS_PARSE_ONLY" not in os.environ:
        return make_key(words)
    return run(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
