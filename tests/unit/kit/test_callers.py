"""Whom a proxy names is believed only where the proxy is a forwarder, and names exactly one of ours."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redoma_kit.callers import MAX_HEADER_CHARACTERS, SPIFFE_ID, Callers, CallerUnclear, forwarded_caller

CHAT, EDGE = "spiffe://redoma/public/chat", "spiffe://redoma/public/edge"
EGRESS, GATEWAY = "spiffe://redoma/public/egress", "spiffe://redoma/hospital-a/gateway"
HASH = "468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688"
FROM_ENVOY = f"By={EGRESS};Hash={HASH};URI={CHAT}"
UNCLEAR = [
    "",
    ";",
    ",",
    "URI=",
    f"By={EGRESS};Hash={HASH}",
    f"{FROM_ENVOY},{FROM_ENVOY}",
    f"By={EGRESS};URI={EDGE},By={EGRESS};URI={CHAT}",
    f"URI={CHAT};URI={EDGE}",
    f"URI={CHAT};uri={CHAT}",
    f"Hash={HASH};Hash={HASH};URI={CHAT}",
    f'URI="{CHAT}',
    f'URI={CHAT}"',
    f'URI="{CHAT}"x',
    f'URI=""{CHAT}',
    f"URI={CHAT};",
    f"URI={CHAT},",
    f" URI={CHAT}",
    f"URI= {CHAT}",
    f"URI={CHAT};DNS",
    f"URI={CHAT};Other=x",
    f"URI={CHAT}/more",
    f"URI={CHAT}\n",
    f"URI={CHAT}%00",
    f"URI={CHAT};Subject=CN=chat",
    "URI=spiffe://redoma//chat",
    "URI=spiffe://redoma/public/",
    "URI=spiffe://redoma/Public/chat",
    "URI=spiffe://redoma/public/chát",
    "URI=spiffe://elsewhere/public/chat",
    "URI=https://redoma/public/chat",
    f"URI=spiffe://redoma/{'s' * 41}/chat",
    f'Subject="{"x" * MAX_HEADER_CHARACTERS}";URI={CHAT}',
]


@pytest.mark.parametrize(
    "header",
    [
        FROM_ENVOY,
        f"URI={CHAT}",
        f'By={EGRESS};Hash={HASH};Subject="CN=chat,O=\\"a;b\\"";URI="{CHAT}";DNS=chat.public.redoma;DNS=chat',
        f"by={EGRESS};by={GATEWAY};hash={HASH};uri={CHAT}",
        f'By="";Cert="-----BEGIN%20CERTIFICATE-----";URI={CHAT}',
    ],
)
def test_what_envoy_writes_is_read(header: str) -> None:
    assert forwarded_caller(header) == CHAT


@pytest.mark.parametrize("header", UNCLEAR)
def test_what_envoy_does_not_write_for_one_caller_is_refused(header: str) -> None:
    with pytest.raises(CallerUnclear):
        forwarded_caller(header)


PIECES = [*'URIuriBydns=;,"\\ ', CHAT, EDGE, "spiffe://redoma/", "URI=", "By=", "\x00", "é"]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@example(FROM_ENVOY)
def test_no_header_brings_more_than_a_refusal_or_one_whole_name(header: str) -> None:
    try:
        found = forwarded_caller(header)
    except CallerUnclear:
        return
    assert SPIFFE_ID.fullmatch(found)
    assert found in header.replace("\\", "")


IDS = st.from_regex(SPIFFE_ID, fullmatch=True)
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@given(IDS, TEXTS, TEXTS)
def test_no_subject_can_pass_for_another_name(name: str, subject: str, chain: str) -> None:
    def quoted(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"')

    header = f'By={EGRESS};Subject="{quoted(subject)}";URI={name};Chain="{quoted(chain)}"'
    assert forwarded_caller(header) == name


def test_a_peer_that_is_no_forwarder_is_the_caller_whatever_it_sends() -> None:
    callers = Callers([GATEWAY])
    for values in ([], [FROM_ENVOY], [FROM_ENVOY, FROM_ENVOY], ["nonsense"], [b"\xff"]):
        assert callers.caller(EDGE, values) == EDGE
        assert callers.caller("", values) == ""
    assert Callers([]).caller(GATEWAY, [FROM_ENVOY]) == GATEWAY


def test_a_forwarder_is_never_the_caller_itself() -> None:
    callers = Callers([GATEWAY, EGRESS])
    assert callers.caller(GATEWAY, [FROM_ENVOY]) == CHAT
    assert callers.caller(EGRESS, [FROM_ENVOY]) == CHAT
    assert callers.caller(GATEWAY, []) == ""


@pytest.mark.parametrize("values", [[FROM_ENVOY, FROM_ENVOY], [FROM_ENVOY.encode()], [""], ["nonsense"]])
def test_a_forwarder_that_is_unclear_is_refused(values: list[str | bytes]) -> None:
    with pytest.raises(CallerUnclear):
        Callers([GATEWAY]).caller(GATEWAY, values)
