"""How a site that joins speaks with the public one: first to learn its authority, then to be let in by it alone."""

import asyncio
import http.client
import io
import socket
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import grpc
from cryptography import x509

from redoma.provisioner.v1 import network_pb2, network_pb2_grpc
from redoma_kit.addresses import split_address
from redoma_kit.errors import InvalidField, failure_from_status
from redoma_provisioner.edge.resources.joining import AUTHORITY_PATH, MAX_AUTHORITY_BYTES, SERVER_NAME
from redoma_provisioner.servicers.connectors import connector_message
from redoma_provisioner.servicers.drivers import KINDS
from redoma_provisioner.trust import join_failure
from redoma_provisioner.trust.joining import Meeting
from redoma_provisioner.trust.names import parse_site_name
from redoma_provisioner.trust.redemption import Admission, JoinRequest, SiteCertificate
from redoma_provisioner.trust.x509_errors import UNREADABLE

MAX_HEAD_BYTES = 16 << 10
MAX_ANSWER_BYTES = 4 << 20
MEETING_TIMEOUT_S = 10.0
# The public site may have to start or restart a router first.
REDEEM_TIMEOUT_S = 300.0


class GrpcJoinChannel:
    """Speaks with the egress of a public site."""

    def __init__(self, version: str, timeout_s: float = MEETING_TIMEOUT_S) -> None:
        self._version = version
        self._timeout_s = timeout_s

    async def meet(self, address: str) -> Meeting:
        """Asks for the authority's certificate, believing nobody yet.

        Raises:
            JoinFailed: There is no answer, or not one of a public site.
        """
        host, port = split_address(address)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await _fetch(address, host, port)
        except socket.gaierror:
            raise join_failure.name_unknown(address) from None
        except ConnectionRefusedError:
            raise join_failure.nobody_listens(address) from None
        except TimeoutError:
            raise join_failure.silent(address) from None
        except (ssl.SSLError, ConnectionError, EOFError, asyncio.LimitOverrunError, http.client.HTTPException):
            raise join_failure.another_server(address) from None
        except UNREADABLE:
            raise join_failure.another_server(address) from None
        except OSError as error:
            raise join_failure.unreachable(address, error.strerror or str(error)) from None

    async def redeem(self, address: str, authority: bytes, request: JoinRequest) -> Admission:
        """Redeems a grant with a server that `authority`, PEM, has signed.

        Raises:
            JoinFailed: There is no answer, or a refusal, or one that can't be read.
        """
        options = [
            ("grpc.ssl_target_name_override", SERVER_NAME),
            ("grpc.default_authority", SERVER_NAME),
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
            ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
        ]
        credentials = grpc.ssl_channel_credentials(root_certificates=authority)
        async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
            stub = network_pb2_grpc.NetworkServiceStub(channel)
            try:
                answer = await stub.RedeemLinkGrant(_message(request, self._version), timeout=REDEEM_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                failure = failure_from_status(error)
                if failure is None:
                    raise join_failure.not_through(address, error.code().name) from None
                raise join_failure.refused(failure.reason, failure.message) from None
        return _admission(answer)


async def _fetch(address: str, host: str, port: int) -> Meeting:
    context = ssl.create_default_context()
    # Who it is shows in the digest that the token holds.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    reader, writer = await asyncio.open_connection(
        host, port, ssl=context, server_hostname=SERVER_NAME, limit=MAX_HEAD_BYTES
    )
    try:
        writer.write(f"GET {AUTHORITY_PATH} HTTP/1.1\r\nhost: {SERVER_NAME}\r\nconnection: close\r\n\r\n".encode())
        status, _, rest = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
        headers = http.client.parse_headers(io.BytesIO(rest))
        length = int(headers.get("content-length", ""))
        if status.split(b" ")[1:2] != [b"200"] or not 0 < length <= MAX_AUTHORITY_BYTES:
            raise join_failure.another_server(address)
        body = await reader.readexactly(length)
        server = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    return Meeting(
        x509.load_pem_x509_certificates(body), x509.load_der_x509_certificate(server), _date(headers.get("date", ""))
    )


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


def _message(request: JoinRequest, version: str) -> network_pb2.RedeemLinkGrantRequest:
    return network_pb2.RedeemLinkGrantRequest(
        code=request.code,
        certificate_requests=[
            network_pb2.CertificateRequest(service=one.service, csr=one.csr) for one in request.certificate_requests
        ],
        connectors=[connector_message(one) for one in request.connectors],
        version=version,
    )


def _admission(answer: network_pb2.RedeemLinkGrantResponse) -> Admission:
    if answer.driver not in KINDS:
        raise join_failure.unusable("it names a driver that is not known here.")
    try:
        site = parse_site_name("site", answer.site)
    except InvalidField:
        raise join_failure.unusable("it names no site.") from None
    return Admission(
        site=site,
        driver=KINDS[answer.driver],
        certificates=tuple(SiteCertificate(one.service, one.certificate_chain) for one in answer.certificates),
        trust_bundle=answer.trust_bundle,
        link_address=answer.link_address,
        skupper_resources=answer.skupper_resources,
    )
