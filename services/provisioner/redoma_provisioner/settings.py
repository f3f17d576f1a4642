"""What can be set about the provisioner."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import SettingsConfigDict

from redoma_kit.database import DEFAULT_CONNECTIONS, DatabaseUrl
from redoma_kit.settings import ServiceSettings, UpstreamSettings


class AuthoritySettings(BaseModel):
    """The authority that signs the certificates of sites. Public role."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cert_file: Path = Field(description="The authority's certificate, PEM.")
    key_file: Path = Field(description="Its private key, PEM, on P-256.")
    certificate_lifetime_s: float = Field(
        30 * 86_400.0,
        gt=60,
        le=366 * 86_400,
        description="How long certificates of private sites last, in seconds. "
        "They are renewed when a third of it is left.",
    )


class JoinSettings(BaseModel):
    """Where private sites join and link. Public role."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = Field(
        description="host:port that private sites dial, to join and with the embedded driver to link: the egress's."
    )


class EdgeSettings(BaseModel):
    """The internet-facing Envoy. Public role."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: str = Field("127.0.0.1:8080", description="host:port where the world calls.")
    chat: UpstreamSettings = Field(description="The chat service.")
    tenant: UpstreamSettings = Field(description="The tenant service.")
    provisioner: UpstreamSettings = Field(description="This service, as the edge reaches it.")
    egress: UpstreamSettings = Field(description="The egress.")
    origins: tuple[str, ...] = Field((), description="Web origins allowed besides those of this machine.")
    reflection: bool = Field(False, description="Whether gRPC reflection is offered, to anyone.")
    tls: Path | None = Field(
        None, description="Directory with tls.crt and tls.key that the edge shows; unset is plain text."
    )


class EgressSettings(BaseModel):
    """The Envoy that carries calls to private sites. Public role."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: str = Field(description="host:port where chat, tenant, edge and provisioner call.")
    tunnels: str = Field(description="host:port that it listens on for joins and tunnels, such as 0.0.0.0:8443.")
    admin_socket: Path | None = Field(None, description="Unix socket of its admin interface, to count tunnels.")


class GatewaySettings(BaseModel):
    """The Envoy of a private site, with the embedded driver. Private role."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    admin_socket: Path | None = Field(None, description="Unix socket of its admin interface, to count tunnels.")
    tunnels: int = Field(
        4,
        ge=1,
        le=64,
        description="How many connections it keeps to the public site: twice the worker threads of the egress there "
        "at least, as each has its own.",
    )


class ProxySettings(BaseModel):
    """Identity files as an Envoy of this site reads them, by the path that it sees."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca_file: Path = Field(description="Certificates of the authority.")
    cert_file: Path = Field(description="Its certificate.")
    key_file: Path = Field(description="Its key.")


class ExposedSettings(BaseModel):
    """A service that a private site exposes. Private role."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,39}$", description="Its name in the site, such as model-0.")
    service: Literal["model", "provisioner"] = Field(description="Whose certificate it shows.")
    target: str = Field(description="Where it listens: unix:NAME, host:port, or selector:KEY=VALUE:PORT.")
    tenant: str = Field("", description="The tenant that alone is served by it; empty is all.")


class DriverSettings(BaseModel):
    """What carries the network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["embedded", "skupper-kubernetes", "skupper-system"] = Field("embedded", description="Which.")
    namespace: str = Field("", description="Skupper: the namespace; empty is the current one.")
    platform: Literal["", "podman", "docker", "linux"] = Field("", description="skupper-system: the platform.")
    kubeconfig: Path | None = Field(None, description="skupper-kubernetes: the file; unset is the pod's own account.")
    access_type: str = Field(
        "",
        description="skupper-kubernetes: how links of private sites come in, such as loadbalancer, route or nodeport; "
        "empty is Skupper's default.",
    )
    owner: str = Field(
        "",
        description="skupper-kubernetes: deployment/NAME or configmap/NAME that all it makes is collected with; "
        "empty is a ConfigMap of its own.",
    )
    data_home: Path | None = Field(None, description="skupper-system: Skupper's data home; unset is its own default.")
    listen_host: str = Field("127.0.0.1", description="skupper-system: where listeners of the public site listen.")
    first_port: int = Field(10_000, ge=1, le=65_000, description="Skupper: the first port given to a listener.")


class ProvisionerSettings(ServiceSettings):
    """Settings of the provisioner. `role` says which of the others are needed."""

    model_config = SettingsConfigDict(env_prefix="REDOMA_PROVISIONER_")

    role: Literal["public", "private"] = Field(description="Which site it is the provisioner of.")
    database_url: DatabaseUrl = Field(
        description="The service's own database: sqlite+aiosqlite:////var/lib/redoma/provisioner.db or "
        "postgresql+asyncpg://USER:PASSWORD@HOST/DATABASE?ssl=verify-full."
    )
    database_connections: int = Field(
        DEFAULT_CONNECTIONS, ge=1, description="The most connections to PostgreSQL that this process opens."
    )
    driver: DriverSettings = DriverSettings()
    proxies: dict[str, ProxySettings] = Field(
        default_factory=dict, description="Identity files of this site's Envoys: edge and egress, or gateway."
    )
    # Public role.
    authority: AuthoritySettings | None = None
    join: JoinSettings | None = None
    edge: EdgeSettings | None = None
    egress: EgressSettings | None = None
    # Private role.
    membership_dir: Path | None = Field(
        None,
        description="Private role: where keys, certificates, the trust bundle and "
        "the state of joining are kept; the site's services read their identity there.",
    )
    link_file: Path | None = Field(
        None,
        description="Private role: file with what `skupper link generate` printed on the public site, to join with. It "
        "holds a private key: remove it afterwards.",
    )
    exposed: tuple[ExposedSettings, ...] = Field((), description="Private role: what is exposed.")
    gateway: GatewaySettings = GatewaySettings()
