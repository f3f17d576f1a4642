"""What is measured of the control plane."""

from redoma_kit.telemetry import Telemetry
from redoma_provisioner.edge.encoding import short_type


class EdgeMetrics:
    """Counts what the Envoys are sent and refuse."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._connected = telemetry.gauge(
            "redoma_xds_streams", "Streams of an Envoy to this control plane that are open.", ("proxy",)
        )
        self._pushes = telemetry.counter("redoma_xds_pushes", "Responses sent to an Envoy.", ("proxy", "type"))
        self._refusals = telemetry.counter("redoma_xds_refusals", "Responses that an Envoy refused.", ("proxy", "type"))
        self._withheld = telemetry.gauge(
            "redoma_xds_withheld", "Whether a newer snapshot is withheld from an Envoy, as it is not valid.", ("proxy",)
        )

    def connected(self, proxy: str, streams: int) -> None:
        """Says how many streams of it are open."""
        self._connected.labels(proxy).set(streams)

    def pushed(self, proxy: str, type_url: str) -> None:
        """Counts a response."""
        self._pushes.labels(proxy, short_type(type_url)).inc()

    def refused(self, proxy: str, type_url: str) -> None:
        """Counts a refusal."""
        self._refusals.labels(proxy, short_type(type_url)).inc()

    def withheld(self, proxy: str, withheld: bool) -> None:
        """Says whether a snapshot is withheld."""
        self._withheld.labels(proxy).set(withheld)
