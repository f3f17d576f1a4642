"""The search for keys finds them in every form, and reports lose them."""

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_cli.conformance.secrecy import Redactor, holds_secret, secret_part

KEY = "rdm_a1b2c3d4_" + "Zz9-_" * 8 + "abc"
SECRET = secret_part(KEY)


@pytest.mark.parametrize(
    "told",
    [
        KEY,
        SECRET,
        f"key={quote(KEY)}",
        KEY[:40],
        SECRET[20:],
        SECRET.encode().hex(),
        SECRET.encode().hex().upper(),
        KEY[::-1],
        repr(KEY.encode()),
    ],
)
def test_key_is_found(told: str) -> None:
    assert holds_secret(f'{{"message": "{told}"}}'.encode(), KEY)


@given(before=st.binary(max_size=9), after=st.binary(max_size=9))
def test_key_is_found_in_base64_of_anything_around_it(before: bytes, after: bytes) -> None:
    content = before + KEY.encode() + after
    assert holds_secret(base64.b64encode(content), KEY)
    assert holds_secret(base64.urlsafe_b64encode(content), KEY)


@pytest.mark.parametrize("harmless", [b"", b"rdm_a1b2c3d4", b"The key rdm_a1b2c3d4 is not known.", b"Zz9-_Zz9"])
def test_prefix_alone_is_no_leak(harmless: bytes) -> None:
    assert not holds_secret(harmless, KEY)


def test_reports_lose_keys() -> None:
    redactor = Redactor()
    redactor.hide(KEY)
    assert redactor.clean(f"sent {KEY}, then {SECRET}") == "sent [key], then [key]"
