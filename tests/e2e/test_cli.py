"""The command line as a person uses it, `redoma chat` in a pseudo-terminal."""

import json
import re
import signal
from collections.abc import Iterator

import pexpect
import pytest

from tests.e2e.conftest import REDOMA, Site, wait_until


def test_ask_prints_the_answer_alone(site: Site) -> None:
    result = site.redoma("ask", "Say hello.", "--max-tokens", "6")
    assert result.stdout.strip()
    assert site.redoma("ask", "--max-tokens", "4", input="Say hello.").stdout.strip()


def test_tenant_and_key_life_cycle(site: Site) -> None:
    site.redoma("tenant", "create", "initech", "--name", "Initech")
    listed = json.loads(site.redoma("tenant", "list", "--json").stdout)
    assert "tenants/initech" in [tenant["name"] for tenant in listed]
    made = json.loads(site.redoma("key", "create", "initech", "--json").stdout)
    secret = made["secret"]
    assert site.openai(api_key=secret).models.list().data
    shown = site.redoma("key", "list", "initech").stdout
    assert secret not in shown
    assert made["api_key"]["prefix"] in shown
    site.redoma("tenant", "disable", "initech")
    refused = site.redoma("ask", "x", "--key", secret, check=False)
    assert refused.returncode != 0
    assert "disabled" in refused.stderr
    site.redoma("tenant", "enable", "initech")
    site.redoma("key", "revoke", made["api_key"]["name"])
    refused = site.redoma("ask", "x", "--key", secret, check=False)
    assert "revoked" in refused.stderr


def test_expired_key_says_so(site: Site) -> None:
    made = json.loads(site.redoma("key", "create", "acme", "--expires-in", "2s", "--json").stdout)

    def expired() -> str | None:
        result = site.redoma("ask", "x", "--max-tokens", "1", "--key", made["secret"], check=False)
        return result.stderr if result.returncode else None

    assert "expired" in wait_until(expired, "the key to expire", 30)


@pytest.mark.parametrize(
    "command",
    [
        (),
        *(
            (name,)
            for name in ("up", "down", "status", "logs", "doctor", "chat", "ask", "tenant", "key", "engine", "van")
        ),
        *(("tenant", name) for name in ("create", "list", "get", "disable")),
        *(("key", name) for name in ("create", "list", "revoke")),
        *(("engine", name) for name in ("top", "models", "load", "unload", "alias", "purge", "usage", "adapter")),
        *(
            ("van", name)
            for name in ("grant", "grants", "revoke-grant", "join", "status", "sites", "revoke", "proxies")
        ),
        *(("van", name) for name in ("rotate", "delete")),
        *(("operation", name) for name in ("list", "get", "watch", "cancel")),
        *(("engine", "adapter", name) for name in ("list", "load", "unload")),
    ],
    ids=" ".join,
)
def test_help_has_an_example(site: Site, command: tuple[str, ...]) -> None:
    text = site.redoma(*command, "--help").stdout
    assert re.search(r"^\W*(Examples?:|\$ redoma|redoma )", text, re.MULTILINE | re.IGNORECASE), text


def test_doctor_finds_nothing_wrong(site: Site) -> None:
    assert site.redoma("doctor").returncode == 0


def test_logs_show_a_service(site: Site) -> None:
    assert "listening" in site.redoma("logs", "chat", "-n", "1000").stdout


def test_edge_that_is_not_there_is_one_sentence(site: Site) -> None:
    result = site.redoma("ask", "x", "--edge", "http://127.0.0.1:1", check=False)
    assert result.returncode != 0
    assert "127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def terminal(site: Site) -> Iterator["pexpect.spawn[str]"]:
    child = pexpect.spawn(
        str(REDOMA),
        ["chat"],
        env=site.env | {"TERM": "xterm-256color"},
        encoding="utf-8",
        timeout=60,
        dimensions=(40, 120),
    )
    yield child
    child.close(force=True)


PROMPT = "› "
# The end of the line that was typed, which is drawn again until then; the answer stands below it.
LINE_END = r"around it\.(?:\x1b\[[0-9;?]*[A-Za-z])*\r*\n"


def running(site: Site) -> float:
    """Counts the requests in the model's batch."""
    return site.metric("redoma_model_running_requests")


def test_chat_streams_keeps_history_and_survives_ctrl_c(site: Site, terminal: "pexpect.spawn[str]") -> None:
    wait_until(lambda: running(site) == 0, "others' answers to end", 20)
    terminal.expect_exact(PROMPT)
    terminal.sendline("Write a very long story about a glass dome and everyone around it.")
    terminal.expect(LINE_END)
    terminal.expect(r"\w+ \w+")
    assert running(site) == 1
    terminal.kill(signal.SIGINT)
    terminal.expect_exact("Stopped")
    terminal.expect_exact(PROMPT)
    wait_until(lambda: running(site) == 0, "the slot to be free", 20)
    assert terminal.isalive()
    terminal.sendline("/list")
    terminal.expect("Write a very long story")
    terminal.expect_exact(PROMPT)
    terminal.sendline("/quit")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0
