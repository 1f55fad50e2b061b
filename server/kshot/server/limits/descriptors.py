"""How many files and connections this process may have open."""

from __future__ import annotations

import errno
import resource

# Descriptors for the store, bundles, the engine and the libraries.
_RESERVED = 256
# A connection takes memory besides its descriptor.
_MOST_CONNECTIONS = 4096
_ENOUGH = 16_384


def raise_limit() -> int:
    """Raise the soft limit of open files as far as is useful and allowed; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _ENOUGH
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if wanted <= soft:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted


def connection_limit(descriptors: int) -> int:
    """Return how many connections leave descriptors for the server's own files."""
    return min(_MOST_CONNECTIONS, max(descriptors // 2, descriptors - _RESERVED))


def out_of_descriptors(error: BaseException | None) -> bool:
    """Tell whether an error comes from too many open files, of this process or of the system."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__ or error.__context__
    return False
