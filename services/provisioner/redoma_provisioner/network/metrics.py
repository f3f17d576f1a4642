"""What is counted of the network."""

from redoma_kit.telemetry import Telemetry
from redoma_provisioner.network.driver import DriverKind

SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)


class NetworkMetrics:
    """The metrics of one process."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._sites = telemetry.gauge("redoma_sites", "Private sites, by whether they answer.", ("linked",))
        self._rounds = telemetry.histogram(
            "redoma_network_reconcile_seconds", "How long it takes to compare what is wanted with what is.", (), SECONDS
        )
        self._driver = telemetry.histogram(
            "redoma_network_driver_seconds", "How long a driver takes to apply and observe.", ("driver",), SECONDS
        )
        self._failures = telemetry.counter(
            "redoma_network_driver_failures", "What drivers could not do, by why.", ("driver", "reason")
        )

    def sites(self, linked: int, others: int) -> None:
        """Says how many sites answer and how many do not."""
        self._sites.labels("true").set(linked)
        self._sites.labels("false").set(others)

    def reconciled(self, took_s: float) -> None:
        """Counts a round of reconciliation."""
        self._rounds.observe(took_s)

    def of_driver(self, driver: DriverKind) -> "DriverMetrics":
        """Gives those of one driver."""
        return DriverMetrics(self, driver)

    def driver_took(self, driver: DriverKind, took_s: float) -> None:
        """Counts a round of a driver."""
        self._driver.labels(driver.value).observe(took_s)

    def driver_failed(self, driver: DriverKind, reason: str) -> None:
        """Counts what a driver could not do."""
        self._failures.labels(driver.value, reason).inc()


class DriverMetrics:
    """What is counted of one driver."""

    __slots__ = ("_driver", "_metrics")

    def __init__(self, metrics: NetworkMetrics, driver: DriverKind) -> None:
        self._metrics = metrics
        self._driver = driver

    def took(self, took_s: float) -> None:
        """Counts a round."""
        self._metrics.driver_took(self._driver, took_s)

    def failed(self, reason: str) -> None:
        """Counts what it could not do."""
        self._metrics.driver_failed(self._driver, reason)
