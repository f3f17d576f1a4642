"""What the commands for the network send, ask, print and exit with."""

import json
import re

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from redoma.provisioner.v1 import edge_pb2, network_pb2, operation_pb2
from redoma.provisioner.v1.link_grant_pb2 import LinkGrant
from redoma.provisioner.v1.operation_pb2 import Operation, OperationError, OperationStep
from redoma.provisioner.v1.site_pb2 import Driver, Site
from redoma_cli.local.options import SiteChoice, Sites, read_choice, write_choice
from redoma_kit.join_token import JoinToken
from tests.unit.cli.joined import run_provisioner, write_state
from tests.unit.cli.network_site import Network, at, one_site

CODE = "c" * 43


def granted(address: str) -> network_pb2.CreateLinkGrantResponse:
    """Gives the answer to CreateLinkGrant of a public site at that address."""
    return network_pb2.CreateLinkGrantResponse(
        link_grant=LinkGrant(name="linkGrants/g1", site="sites/hospital-a", expire_time=at(-15)),
        token=JoinToken(address, b"d" * 32, CODE).text,
    )


def test_grant_prints_the_token_alone_and_the_line_to_type(network: Network) -> None:
    network.answers["CreateLinkGrant"] = granted("redoma.example.com:8443")
    result = network.run("van", "grant", "--site", "hospital-a", "--ttl", "1h", "--rejoin")
    assert result.exit_code == 0, result.output
    token = JoinToken("redoma.example.com:8443", b"d" * 32, CODE).text
    assert result.stdout == f"{token}\n"
    assert f"redoma up --site private --join {token}\n" in result.stderr
    assert f"redoma van join {token}\n" in result.stderr
    request = network.only(network_pb2.CreateLinkGrantRequest)
    assert request == network_pb2.CreateLinkGrantRequest(
        link_grant=LinkGrant(site="sites/hospital-a", ttl=Duration(seconds=3_600)), rejoin=True
    )


def test_token_that_no_other_machine_can_use_is_not_printed_and_its_grant_is_revoked(network: Network) -> None:
    network.answers["CreateLinkGrant"] = granted("127.0.0.1:8443")
    result = network.run("van", "grant", "--site", "hospital-a")
    assert result.exit_code != 0
    assert "rdmj_" not in result.output
    assert "--van-address" in result.exception.mend  # type: ignore[union-attr]
    assert network.only(network_pb2.RevokeLinkGrantRequest).name == "linkGrants/g1"
    network.asked.clear()
    assert network.ok("van", "grant", "--site", "hospital-a", "--local").startswith("rdmj_")
    assert not [request for request in network.asked if isinstance(request, network_pb2.RevokeLinkGrantRequest)]


def test_grant_takes_a_driver_and_refuses_one_there_is_not(network: Network) -> None:
    network.answers["CreateLinkGrant"] = granted("redoma.example.com:8443")
    network.ok("van", "grant", "--site", "a", "--driver", "skupper-system", "--json")
    request = network.only(network_pb2.CreateLinkGrantRequest)
    assert request.link_grant.driver == Driver.DRIVER_SKUPPER_SYSTEM
    assert network.run("van", "grant", "--site", "a", "--driver", "carrier-pigeon").exit_code != 0


def test_update_sends_what_is_given_alone(network: Network) -> None:
    site = Site(name="sites/hospital-a", display_name="Hospital A", priority=0)
    network.answers["UpdateSite"] = network_pb2.UpdateSiteResponse(site=site)
    assert "priority 0, called Hospital A" in network.ok("van", "update", "hospital-a", "--priority", "0")
    request = network.only(network_pb2.UpdateSiteRequest)
    assert request.site.name == "sites/hospital-a"
    assert list(request.update_mask.paths) == ["priority"]
    assert network.run("van", "update", "hospital-a").exit_code != 0


def test_refused_grant_says_what_to_do(network: Network) -> None:
    network.failures["CreateLinkGrant"] = (grpc.StatusCode.ALREADY_EXISTS, "RESOURCE_EXISTS", "Site a has joined.")
    result = network.run("van", "grant", "--site", "a")
    assert "--rejoin" in result.exception.mend  # type: ignore[union-attr]


def test_grants_are_listed_and_revoked(network: Network) -> None:
    grant = LinkGrant(
        name="linkGrants/g1", site="sites/hospital-a", state=LinkGrant.STATE_ACTIVE, creator="platform/apiKeys/x"
    )
    network.answers["ListLinkGrants"] = network_pb2.ListLinkGrantsResponse(link_grants=[grant])
    assert {"g1", "hospital-a", "active", "platform/apiKeys/x"} <= set(network.ok("van", "grants").split())
    revoked = LinkGrant(
        name="linkGrants/g1", site="sites/hospital-a", state=LinkGrant.STATE_REVOKED, expire_time=at(-5)
    )
    network.answers["RevokeLinkGrant"] = network_pb2.RevokeLinkGrantResponse(link_grant=revoked)
    assert "is revoked." in network.ok("van", "revoke-grant", "g1")
    assert network.only(network_pb2.RevokeLinkGrantRequest).name == "linkGrants/g1"
    redeemed = LinkGrant(name="linkGrants/g1", site="sites/hospital-a", state=LinkGrant.STATE_REDEEMED)
    network.answers["RevokeLinkGrant"] = network_pb2.RevokeLinkGrantResponse(link_grant=redeemed)
    assert "could not be redeemed any more" in network.ok("van", "revoke-grant", "g1")


def test_status_explains_each_condition_with_reason_message_and_since(network: Network) -> None:
    network.answers["WatchNetwork"] = one_site("hospital-a", linked=False, why="Every tunnel is closed.")
    result = network.run("van", "status")
    assert result.exit_code == 1
    words = " ".join(result.stdout.split())
    assert "hospital-a Not linked" in words
    assert "Every tunnel is closed." in words
    assert re.search(r"Operational no 10 min \d+ s NoTunnels", words)
    assert "connector model-0 Matched yes" in words
    assert "listener hospital-a.model-0 Matched yes" in words


def test_status_of_linked_sites_exits_with_0(network: Network) -> None:
    network.answers["WatchNetwork"] = one_site("hospital-a")
    told = " ".join(network.ok("van", "status", "hospital-a").split())
    assert "hospital-a Linked embedded · 4 tunnels · for 10 min" in told
    assert network.run("van", "status", "hospital-b").exit_code != 0
    parsed = json.loads(network.ok("van", "status", "--json"))
    assert parsed["sites"][1]["name"] == "sites/hospital-a"


def test_status_that_is_watched_tells_every_change(network: Network) -> None:
    network.answers["WatchNetwork"] = [one_site(linked=False), one_site(linked=True)]
    told = network.ok("van", "status", "--watch")
    assert told.index("Not linked") < told.index("private  Linked")


def test_status_without_private_sites_says_how_to_let_one_in(network: Network) -> None:
    result = network.run("van", "status")
    assert result.exit_code == 1
    assert "redoma van grant" in result.stdout


def test_status_of_a_private_site_alone_tells_what_it_knows_itself(network: Network) -> None:
    assert network.run("van", "status", is_local=True).exit_code == 1
    error = {"reason": "LINK_REFUSED", "message": "The public site refuses it.", "mend": "Join anew."}
    write_state(network.home, "JOINED", "hospital-a", error=error)
    assert "does not run" in network.run("van", "status", is_local=True).stdout
    run_provisioner(network.home)
    result = network.run("van", "status", is_local=True)
    assert result.exit_code == 1
    assert "hospital-a" in result.stdout
    assert "The public site refuses it." in result.stdout
    assert "Join anew." in result.stdout
    write_state(network.home, "LINKED", "hospital-a")
    assert "Linked" in network.ok("van", "status", is_local=True)
    assert json.loads(network.ok("van", "status", "--json", is_local=True))["phase"] == "LINKED"
    assert not network.asked


def test_sites_are_listed_and_one_is_revoked_only_after_a_yes(network: Network) -> None:
    network.answers["WatchNetwork"] = one_site("hospital-a", linked=False, state=Site.STATE_REVOKED)
    assert {"hospital-a", "revoked", "Revoked", "embedded"} <= set(network.ok("van", "sites").split())
    assert network.run("van", "revoke", "hospital-a").exit_code != 0
    assert not [request for request in network.asked if isinstance(request, network_pb2.RevokeSiteRequest)]
    site = Site(name="sites/hospital-a", state=Site.STATE_REVOKED)
    network.answers["RevokeSite"] = network_pb2.RevokeSiteResponse(site=site)
    assert "redoma van delete hospital-a" in network.ok("van", "revoke", "hospital-a", "--yes")
    assert network.only(network_pb2.RevokeSiteRequest).name == "sites/hospital-a"
    network.ok("van", "delete", "sites/hospital-a", "--yes")
    assert network.only(network_pb2.DeleteSiteRequest).name == "sites/hospital-a"


def rotation(
    state: "Operation.State.ValueType", error: OperationError | None = None
) -> operation_pb2.WatchOperationResponse:
    """Gives a rotation at one moment."""
    steps = [OperationStep(title="Sign the new certificates", state=state, done=1, total=4, unit="certificates")]
    operation = Operation(
        name="operations/o1", kind="RotateCertificates", target="sites/a", state=state, steps=steps, error=error
    )
    return operation_pb2.WatchOperationResponse(operation=operation)


def test_rotation_is_followed_to_its_end(network: Network) -> None:
    started = Operation(name="operations/o1")
    network.answers["RotateCertificates"] = network_pb2.RotateCertificatesResponse(operation=started)
    network.answers["WatchOperation"] = [rotation(Operation.STATE_RUNNING), rotation(Operation.STATE_SUCCEEDED)]
    assert "new certificates" in network.ok("van", "rotate", "a")
    assert network.only(network_pb2.RotateCertificatesRequest).name == "sites/a"
    assert network.only(operation_pb2.WatchOperationRequest).name == "operations/o1"


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (
            rotation(
                Operation.STATE_FAILED, error=OperationError(reason="SITE_UNREACHABLE", message="It does not answer.")
            ),
            "It does not answer.",
        ),
        (rotation(Operation.STATE_CANCELLED), "cancelled"),
        (rotation(Operation.STATE_RUNNING), "stopped telling"),
    ],
    ids=["failed", "cancelled", "cut off"],
)
def test_rotation_that_does_not_succeed_fails_the_command(
    network: Network, last: operation_pb2.WatchOperationResponse, words: str
) -> None:
    network.answers["WatchOperation"] = [last]
    result = network.run("van", "rotate", "a")
    assert result.exit_code != 0
    assert words in str(result.exception)


def test_operations_are_listed_shown_watched_and_cancelled(network: Network) -> None:
    running = rotation(Operation.STATE_RUNNING).operation
    network.answers["ListOperations"] = operation_pb2.ListOperationsResponse(operations=[running])
    network.answers["GetOperation"] = operation_pb2.GetOperationResponse(operation=running)
    network.answers["CancelOperation"] = operation_pb2.CancelOperationResponse(operation=running)
    network.answers["WatchOperation"] = [rotation(Operation.STATE_SUCCEEDED)]
    told = network.ok("operation", "list", "--target", "sites/a")
    assert {"o1", "RotateCertificates", "sites/a", "running"} <= set(told.split())
    assert network.only(operation_pb2.ListOperationsRequest).target == "sites/a"
    assert "1/4 certificates" in network.ok("operation", "get", "o1")
    assert "succeeded" in network.ok("operation", "watch", "operations/o1")
    assert "redoma operation watch o1" in network.ok("operation", "cancel", "o1")
    assert network.only(operation_pb2.CancelOperationRequest).name == "operations/o1"


def served(refusal: str = "", connected: bool = True, withheld: str = "") -> edge_pb2.ListProxiesResponse:
    """Gives an Envoy and how current it is."""
    kind = edge_pb2.ResourceTypeStatus(
        type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster",
        sent_version="v2",
        accepted_version="v1" if refusal else "v2",
        refusal=refusal,
        resources=3,
    )
    proxy = edge_pb2.Proxy(
        name="proxies/egress", connected=connected, version="v2" * 16, types=[kind], withheld=withheld
    )
    return edge_pb2.ListProxiesResponse(proxies=[proxy])


def test_refusal_is_told_in_envoys_own_words(network: Network) -> None:
    network.answers["ListProxies"] = served("cluster models: unknown field [x]")
    result = network.run("van", "proxies")
    assert result.exit_code == 1
    assert "Envoy says: cluster models: unknown field [x]" in result.stdout
    assert {"egress", "Cluster", "3", "refused"} <= set(result.stdout.split())


@pytest.mark.parametrize(
    ("answer", "words"), [(served(connected=False), "not connected"), (served(withheld="It dangles."), "It dangles.")]
)
def test_envoy_that_is_cut_off_or_kept_back_is_told(
    network: Network, answer: edge_pb2.ListProxiesResponse, words: str
) -> None:
    network.answers["ListProxies"] = answer
    result = network.run("van", "proxies")
    assert result.exit_code == 1
    assert words in result.stdout


def test_one_envoy_is_shown_with_its_last_snapshots_and_its_resources(network: Network) -> None:
    network.answers["ListProxies"] = served()
    snapshot = edge_pb2.Snapshot(version="v2", cause="site hospital-a joined", changes=["cluster tunnel/a added"])
    network.answers["ListSnapshots"] = edge_pb2.ListSnapshotsResponse(snapshots=[snapshot])
    told = network.ok("van", "proxies", "egress")
    assert "site hospital-a joined" in told
    assert "cluster tunnel/a added" in told
    network.answers["GetSnapshot"] = edge_pb2.GetSnapshotResponse(snapshot=snapshot)
    assert json.loads(network.ok("van", "proxies", "egress", "--resources"))["snapshot"]["version"] == "v2"
    assert network.run("van", "proxies", "ingress").exit_code != 0


def test_join_is_refused_where_the_public_site_runs(network: Network) -> None:
    token = JoinToken("redoma.example.com:8443", b"d" * 32, CODE).text
    network.settle()
    result = network.run("van", "join", token, is_local=True)
    assert result.exit_code != 0
    assert "runs the public site" in str(result.exception)
    mistyped = network.run("van", "join", token[:-1], is_local=True)
    assert "incomplete or mistyped" in str(mistyped.exception)


def test_token_for_a_machine_of_both_sites_is_refused(network: Network) -> None:
    result = network.run("up", "--join", "rdmj_x", is_local=True)
    assert "--site private" in result.exception.mend  # type: ignore[union-attr]


def test_mistyped_token_is_told_before_anything_is_made(network: Network) -> None:
    result = network.run("up", "--site", "private", "--join", "rdmj_x", is_local=True)
    assert "incomplete or mistyped" in str(result.exception)
    assert read_choice(network.home) is None


def test_private_machine_says_where_keys_are(network: Network) -> None:
    network.home.create()
    write_choice(network.home, SiteChoice(Sites.PRIVATE))
    result = network.run("van", "grants", is_local=True)
    assert "public site's machine" in str(result.exception)
