from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kshot.server.command import command
from kshot.server.config import ServerConfig, default_store
from kshot.server.errors import ConfigError


def config(**settings: Any) -> ServerConfig:  # noqa: ANN401 -- any setting
    defaults: dict[str, Any] = {"bundles": (Path("b"),), "store": Path("s")}
    return ServerConfig(**(defaults | settings))


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:0", "127.8.9.1:5", "localhost:50051", "[::1]:65535", "Localhost:1"]
)
def test_addresses_of_this_machine_are_safe(listen: str) -> None:
    assert config(listen=listen).listen == listen


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "192.168.1.1:1", "example.org:1"])
def test_other_addresses_need_a_word(listen: str) -> None:
    assert config(listen=listen, insecure=True).listen == listen
    with pytest.raises(ConfigError, match="--insecure"):
        config(listen=listen)


def test_other_addresses_need_encryption_and_keys() -> None:
    both = {"tls_cert": Path("c"), "tls_key": Path("k"), "access": Path("a")}

    assert config(listen="0.0.0.0:1", **both).access == Path("a")
    for missing, words in (("access", "keys .--access"), ("tls_cert", "encryption .--tls-cert")):
        fewer = both | {missing: None} | ({"tls_key": None} if missing == "tls_cert" else {})
        with pytest.raises(ConfigError, match=f"without {words}"):
            config(listen="0.0.0.0:1", **fewer)


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"tls_cert": Path("c")}, "tls_key"),
        ({"tls_key": Path("k")}, "tls_cert"),
        ({"client_ca": Path("a")}, "tls_cert"),
    ],
)
def test_files_of_tls_go_together(settings: dict[str, Any], missing: str) -> None:
    with pytest.raises(ConfigError, match=f"{missing}: required with"):
        config(**settings)


@pytest.mark.parametrize("listen", ["::1:50051", "::1", "fe80::1:50051", "2001:db8::1:1"])
def test_an_ipv6_address_needs_brackets(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"in brackets, such as \[::1\]:50051"):
        config(listen=listen, insecure=True)


@pytest.mark.parametrize("listen", ["", "localhost", ":1", "localhost:", "h:65536", "h:-1", "h:²"])
def test_what_is_no_address_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        config(listen=listen, insecure=True)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("bundles", ()),
        ("device", "tpu"),
        ("max_message_bytes", 0),
        ("max_message_bytes", 3_000_000_000),
        ("max_image_pixels", 2**30),
        ("max_request_pixels", 0),
        ("max_predict_images", 0),
        ("max_adapted_bytes", 2**64),
        ("max_adapt_queue", 2**31),
        ("max_predict_queue", 10**30),
        ("max_adapted_models", -1),
        ("default_ttl", float("nan")),
        ("default_ttl", 10**9),
        ("default_ttl", float("inf")),
        ("max_ttl", float("inf")),
        ("max_ttl", 1e12),
        ("drain_grace", 0),
        ("drain_grace", float("inf")),
        ("engine_start", float("nan")),
        ("cache_bytes", -1),
    ],
)
def test_a_setting_that_does_not_fit_is_named(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{setting}: expected [^\n]+, got [^\n]+$"):
        config(**{setting: value})


def test_the_store_lies_with_other_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    found: list[Path] = []
    for state in (str(tmp_path), "", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", state)
        found.append(default_store())

    usual = Path("/home/somebody/.local/state/kshot")
    assert found == [tmp_path / "kshot", usual, usual]


def test_every_other_field_is_a_flag() -> None:
    names = {parameter.name for parameter in command.params}

    assert names - {"private"} == {*vars(config())} - {"engine_command"}  # it is the command's own
