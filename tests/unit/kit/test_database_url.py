"""The setting that names a database: what may be written, and that its password is shown to nobody."""

import pytest
from pydantic import TypeAdapter, ValidationError

from redoma_kit.database import DatabaseUrl, roles_script

URL: TypeAdapter[str] = TypeAdapter(DatabaseUrl)


@pytest.mark.parametrize(
    "written",
    [
        "postgres://u:p@h/d?sslmode=verify-full",
        "postgresql://u:p@h/d?sslmode=verify-full",
        "postgresql+asyncpg://u:p@h/d?ssl=verify-full",
    ],
)
def test_what_other_programs_call_a_database_will_do(written: str) -> None:
    assert URL.validate_python(written) == "postgresql+asyncpg://u:p@h/d?ssl=verify-full"


@pytest.mark.parametrize("written", ["", "mysql://h/d", "sqlite:///a.db", "postgresql+psycopg://h/d", "/var/a.db"])
def test_a_database_of_another_kind_is_refused_with_what_to_write(written: str) -> None:
    with pytest.raises(ValidationError, match="postgresql\\+asyncpg://USER"):
        URL.validate_python(written)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+asyncpg://u:hunter2@h/d", "postgresql+asyncpg://u:***@h/d"),
        ("postgresql+asyncpg://:hunter2@h/d", "postgresql+asyncpg://:***@h/d"),
        (
            "postgresql+asyncpg:///d?user=u&password=hunter2&host=h",
            "postgresql+asyncpg:///d?user=u&password=***&host=h",
        ),
        ("postgresql+asyncpg://u@h:5432/d", "postgresql+asyncpg://u@h:5432/d"),
        ("sqlite+aiosqlite:////var/lib/a.db", "sqlite+aiosqlite:////var/lib/a.db"),
    ],
)
def test_the_password_is_not_shown(url: str, shown: str) -> None:
    assert URL.dump_python(URL.validate_python(url)) == shown


def test_the_administrators_script_is_for_the_urls_login() -> None:
    script = roles_script('postgresql+asyncpg://re"doma:pw@h/d', "redoma_x")
    assert 'TO "re""doma" WITH INHERIT FALSE, SET TRUE;' in script
    assert "pw" not in script
    assert roles_script("sqlite+aiosqlite:///a.db", "redoma_x").startswith("--")
