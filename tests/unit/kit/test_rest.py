"""REST templates of google.api.http, and what does not match them."""

import re

import pytest

from redoma_kit.rest import RestPath


@pytest.mark.parametrize(
    ("template", "path", "matches"),
    [
        ("/v1/models", "/v1/models", True),
        ("/v1/models", "/v1/models/", False),
        ("/v1/models", "/v1/modelsx", False),
        ("/v1.models", "/v1xmodels", False),
        ("/v1/models/{model}", "/v1/models/a%2Fb", True),
        ("/v1/models/{model}", "/v1/models/", False),
        ("/v1/models/{model}", "/v1/models/a/b", False),
        ("/v1/models/{model}", "/v1/models/a\n", True),
        ("/v1/{name=tenants/*/keys/*}:revoke", "/v1/tenants/a/keys/b:revoke", True),
        ("/v1/{name=tenants/*/keys/*}:revoke", "/v1/tenants/a/keys/b", False),
        ("/v1/{file=**}", "/v1/a/b/c", True),
        ("/v1/{file=**}", "/v1/", False),
    ],
)
def test_templates(template: str, path: str, matches: bool) -> None:
    assert bool(re.fullmatch(RestPath("GET", template).regex, path)) is matches
