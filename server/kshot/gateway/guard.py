"""What keeps pages of others out: hosts, origins, and the headers of every answer."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kshot.gateway.errors import RequestError
from kshot.gateway.refusals import Refusals

_HEADERS = {
    # The page's own files alone, nothing inline; pictures that one chose are blobs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_OF_OTHERS = ("cross-site", "same-site")


class Guard:
    """Refuses what a page of another site could have sent, before anything of it is read.

    A page that rebinds its own name to this machine sends that name as `Host`: addresses,
    `localhost` and the names that were given are the only ones answered. Any other request of a
    foreign page carries its `Origin`, or `Sec-Fetch-Site`.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], refusals: Refusals) -> None:
        self._app = app
        self._refusals = refusals
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application answer."""
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope)
        except RequestError as error:
            await self._refusals.answer(error)(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            known = ", ".join(sorted(self._names))
            raise RequestError(
                "UNKNOWN_HOST",
                f"Host: expected an address or one of {known}; name others by --http-host",
            )
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            raise _foreign("Origin")
        if headers.get("sec-fetch-site") in _OF_OTHERS and not _opens_page(scope, headers):
            raise _foreign("Sec-Fetch-Site")

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _netloc(origin: str) -> str:
    """Return host and port of an origin, empty for what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _opens_page(scope: Scope, headers: Headers) -> bool:
    """Tell whether somebody followed a link to the page."""
    opens = headers.get("sec-fetch-mode") == "navigate" and scope["path"] == "/"
    return bool(opens and scope["method"] == "GET")


def _foreign(header: str) -> RequestError:
    problem = "a page of another site may neither adapt nor read here"
    return RequestError("FOREIGN_PAGE", f"{header}: {problem}")
