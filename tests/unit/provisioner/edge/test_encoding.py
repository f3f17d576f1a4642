"""Resources that Envoy's API does not have are refused where they are made, by name."""

import pytest

from redoma_provisioner.edge.encoding import Encoder, InvalidResource, envoy_descriptors
from redoma_provisioner.edge.snapshot import CLUSTER, Config, Snapshot
from tests.unit.provisioner.edge.sites import an_egress, busy

OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """An encoder of Envoy's types."""
    return Encoder(envoy_descriptors())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"nmae": "c"}, 'no field named "nmae"'),
        ({"type": "EDZ"}, "EDZ"),
        ({"connect_timeout": 1}, "connect_timeout"),
        ({"connect_timeout": "soon"}, "connect_timeout"),
        ({"typed_extension_protocol_options": {OPTIONS: {"@type": "type.googleapis.com/envoy.Nothing"}}}, "Nothing"),
        (
            {"typed_extension_protocol_options": {OPTIONS: {"@type": f"type.googleapis.com/{OPTIONS}", "x": 1}}},
            'no field named "x"',
        ),
        ({"name": "a\ud800"}, ""),
    ],
    ids=["field", "enum", "kind", "duration", "type", "field of an extension", "half a character"],
)
def test_what_envoy_does_not_know_is_named(encoder: Encoder, config: Config, words: str) -> None:
    with pytest.raises(InvalidResource, match=r"^Cluster models: ") as refused:
        encoder.encode(CLUSTER, "models", config)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_same_value_is_the_same_bytes_whatever_its_order(encoder: Encoder) -> None:
    config = {"name": "c", "metadata": {"filter_metadata": {"x": {"a": 1}, "y": {"b": 2}}}, "type": "EDS"}
    turned = {"type": "EDS", "metadata": {"filter_metadata": {"y": {"b": 2}, "x": {"a": 1}}}, "name": "c"}
    assert encoder.encode(CLUSTER, "c", config) == encoder.encode(CLUSTER, "c", turned)


def test_what_did_not_change_is_not_encoded_again(encoder: Encoder) -> None:
    former = encoder.encode_snapshot(an_egress(busy()), {})
    again = encoder.encode_snapshot(an_egress(busy()), former)
    assert all(again[type_url][name] is one for type_url, named in former.items() for name, one in named.items())


def test_type_that_is_not_served_is_refused(encoder: Encoder) -> None:
    with pytest.raises(InvalidResource, match="Runtime"):
        encoder.encode_snapshot(Snapshot({"type.googleapis.com/envoy.service.runtime.v3.Runtime": {}}), {})
