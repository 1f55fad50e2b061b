from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from kshot.server.access import keyring as module
from kshot.server.access.key import Role, new_key, prefix_of, time_text
from kshot.server.access.keyring import Keyring

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_a_key_has_256_random_bits_and_only_its_digest_is_kept() -> None:
    key, text = new_key("acme", Role.USER, None, NOW)

    assert re.fullmatch("kshot_[a-z2-7]{8}_[a-z2-7]{52}", text)  # 52 letters of 5 bits
    assert prefix_of(text) == key.prefix
    assert text.split("_")[2] not in repr(key)
    assert new_key("acme", Role.USER, None, NOW)[1] != text


def test_only_the_whole_text_of_a_key_finds_it() -> None:
    (mine, text), (other, other_text) = (
        new_key(tenant, Role.USER, None, NOW) for tenant in ("acme", "other")
    )
    keyring = Keyring([mine, other])
    mixed = f"kshot_{mine.prefix}_{other_text.split('_')[2]}"

    assert keyring.find(text) is mine
    assert keyring.find(other_text) is other
    for wrong in ("", "kshot", text[:-1], text + "a", text.upper(), mixed, mine.sha256, "é_x_y"):
        assert keyring.find(wrong) is None


def test_an_unknown_prefix_is_compared_as_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a refusal takes does not tell which prefixes exist."""
    compared: list[int] = []
    key, _text = new_key("acme", Role.USER, None, NOW)

    def compare(left: str, right: str) -> bool:
        compared.append(len(left) + len(right))
        return False

    monkeypatch.setattr(module.hmac, "compare_digest", compare)
    keyring = Keyring([key])
    keyring.find(f"kshot_{key.prefix}_x")
    keyring.find("kshot_aaaaaaaa_x")
    keyring.find("x")

    assert compared == [128] * 3


def test_a_revoked_key_works_until_its_time() -> None:
    key, text = new_key("acme", Role.USER, None, NOW)
    later = NOW + timedelta(seconds=60)
    keyring = Keyring([key.revoked_at(later)])

    assert keyring.find(text, NOW) is not None
    assert keyring.find(text, later) is None
    assert key.revoked_at(later).revoke_time == time_text(later)
