"""TLS 1.3 as the least that gRPC speaks, although its Python API has no setting for it.

gRPC takes the cipher suites of TLS 1.2 from the environment, while those of TLS 1.3 are fixed. A suite with a
pre-shared key, which no service has, leaves TLS 1.2 nothing to agree on and TLS 1.3 untouched; see ADR 0008.
"""

import sys
from collections.abc import MutableMapping

CIPHER_SUITES_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
IMPOSSIBLE_IN_TLS_1_2 = "ECDHE-PSK-AES256-CBC-SHA"


def require_tls_1_3(environment: MutableMapping[str, str]) -> None:
    """Makes this process refuse TLS 1.2 as a server and as a client. Call it before grpc is imported.

    Raises:
        RuntimeError: grpc has been imported, so it is too late.
    """
    if "grpc" in sys.modules and environment.get(CIPHER_SUITES_VARIABLE) != IMPOSSIBLE_IN_TLS_1_2:
        raise RuntimeError("grpc reads its cipher suites when it is imported; require TLS 1.3 before that")
    environment[CIPHER_SUITES_VARIABLE] = IMPOSSIBLE_IN_TLS_1_2
