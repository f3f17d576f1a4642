"""What `skupper link generate` writes, with keys that open nothing."""

import base64

import yaml

API_VERSION = "skupper.io/v2alpha1"


def link_file(host: str = "public.example", port: str = "45671") -> str:
    """Gives a Link with its Secret."""
    pem = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n").decode()
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "link-public"},
        "type": "kubernetes.io/tls",
        "data": dict.fromkeys(("ca.crt", "tls.crt", "tls.key"), pem),
    }
    link = {
        "apiVersion": API_VERSION,
        "kind": "Link",
        "metadata": {"name": "link-public"},
        "spec": {"endpoints": [{"name": "edge", "host": host, "port": port}], "tlsCredentials": "link-public"},
    }
    return str(yaml.safe_dump_all([secret, link]))
