"""Addresses are checked before gRPC sees them; no proxy stands before this machine."""

from __future__ import annotations

import re

import pytest

from kshot.client import Client, InputError
from kshot.client.connection.addresses import check_address, loopback, proxy_words
from kshot.client.connection.channel import channel_options


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("localhost:50051", "localhost"),
        ("127.0.0.1:1", "127.0.0.1"),
        ("[::1]:50051", "::1"),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0"),
        ("kshot_server-1.example.com:50051", "kshot_server-1.example.com"),
    ],
)
def test_addresses_are_host_and_port(address: str, host: str) -> None:
    assert check_address(address) == host


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "expected HOST:PORT, got ''"),
        ("localhost", "got 'localhost'; add the port, such as localhost:50051"),
        (":50051", "got ':50051'; write localhost:50051 for that port of this machine"),
        ("50051", "got '50051'; write localhost:50051 for that port of this machine"),
        ("localhost:http", "expected HOST:PORT, got 'localhost:http'"),
        ("host:99999", "expected HOST:PORT with a port from 1 to 65535, got 'host:99999'"),
        ("host:0", "expected HOST:PORT with a port from 1 to 65535, got 'host:0'"),
        ("host:-1", "expected HOST:PORT, got 'host:-1'"),
        ("::1:50051", "an IPv6 address needs brackets: [::1]:50051"),
        ("fe80::2:50051", "an IPv6 address needs brackets: [fe80::2]:50051"),
        ("::1", "write [::1]:50051"),
        ("[::1]", "got '[::1]'"),
        ("[1.2.3.4]:50051", "expected HOST:PORT with an IPv6 address in the brackets"),
        ("http://host:50051", "got 'http://host:50051'; write host:50051"),
        ("https://host:50051/v1?x", "write host:50051"),
        ("host:50051/path", "write host:50051"),
        (" host:50051\n", "write host:50051"),
        ("http://host/", "add the port, such as host:50051"),
        ("me@host:50051", "expected HOST:PORT, got 'me@host:50051'"),
        ("ho\0st:50051", "expected HOST:PORT, got 'ho\\x00st:50051'"),
        (None, "expected HOST:PORT as a string, got None"),
        (b"host:50051", "expected HOST:PORT as a string, got b'host:50051'"),
        (50051, "expected HOST:PORT as a string, got 50051"),
    ],
)
def test_other_addresses_are_refused_with_the_remedy(address: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        Client(address)


@pytest.mark.parametrize("host", ["localhost", "LocalHost.", "a.localhost", "127.8.0.1", "::1"])
def test_no_proxy_stands_before_this_machine(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.delenv("no_proxy", raising=False)

    assert loopback(host)
    assert dict(channel_options(host))["grpc.enable_http_proxy"] == 0
    assert proxy_words(host) == ""


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_calls_here_pass_proxies_by(
    address: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")

    with Client(address) as client:
        assert client.capabilities().server_version == "1.2.3"


def test_a_proxy_on_the_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the password in it."""
    for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy:3128")

    words = proxy_words("far.example.com")
    assert "the proxy proxy:3128 of the variable http_proxy; set no_proxy=far.example.com" in words
    assert dict(channel_options("far.example.com"))["grpc.enable_http_proxy"] == 1
    monkeypatch.setenv("no_proxy", "other.org, example.com")
    assert proxy_words("far.example.com") == ""
    monkeypatch.setenv("no_proxy", "10.0.0.0/8")
    assert proxy_words("10.1.2.3") == ""
    assert proxy_words("11.1.2.3") != ""
