"""Where the cluster is and who the provisioner is there: a kubeconfig file, or the pod's own account."""

from collections.abc import Mapping
from pathlib import Path

import urllib3
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException

from redoma_provisioner.network.driver import DriverRefused
from redoma_provisioner.network.drivers.skupper.name import checked_label
from redoma_provisioner.network.drivers.skupper_kubernetes.api import ApiServer, KubernetesApi

POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
DEFAULT_NAMESPACE = "default"


def connect(kubeconfig: Path | None, namespace: str = "") -> ApiServer:
    """Gives the API server; nothing is dialled yet. Blocks where a kubeconfig has a program run for credentials.

    Args:
        kubeconfig: The file; None is the pod's own account.
        namespace: Which; empty is the file's current one, or the pod's.

    Raises:
        DriverRefused: The file, the account or the namespace can't be used.
    """
    settings = client.Configuration()
    # Whether and when to try again is for the driver to say.
    settings.retries = False
    try:
        found = _from_file(kubeconfig, settings) if kubeconfig else _from_pod(settings)
    except (ConfigException, OSError, ValueError, TypeError, KeyError) as error:
        where = f"The kubeconfig file {kubeconfig}" if kubeconfig else "The account of the pod"
        raise DriverRefused(
            f"{where} can't be used ({' '.join(str(error).split())[:160]}). Set driver.kubeconfig to a file with a "
            "current context, or run this in a pod."
        ) from None
    chosen = checked_label(namespace or found or DEFAULT_NAMESPACE, "The namespace")
    try:
        made = client.ApiClient(settings)
    except (OSError, urllib3.exceptions.HTTPError) as error:
        raise DriverRefused(f"A certificate or key that the kubeconfig names can't be read ({error}).") from None
    return KubernetesApi(made, chosen)


def _from_file(path: Path, settings: client.Configuration) -> str:
    if not path.is_file():
        raise ConfigException("there is no such file")
    config.load_kube_config(  # type: ignore[no-untyped-call]
        str(path), client_configuration=settings, persist_config=False
    )
    _, current = config.list_kube_config_contexts(str(path))  # type: ignore[no-untyped-call]
    context = current.get("context") if isinstance(current, Mapping) else None
    return str(context.get("namespace") or "") if isinstance(context, Mapping) else ""


def _from_pod(settings: client.Configuration) -> str:
    config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    return POD_NAMESPACE.read_text().strip() if POD_NAMESPACE.is_file() else ""
