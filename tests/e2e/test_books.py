"""What a site writes down of itself: who did what, and what was used."""

import json
from pathlib import Path

from tests.e2e.conftest import Site, wait_until

ANY_MODEL = "smollm2-135m-instruct"


def test_the_audit_chains_are_whole_and_signed(site: Site, tmp_path: Path) -> None:
    head = tmp_path / "head.json"
    for chain in ("acme", "platform"):
        shown = site.redoma("audit", "verify", chain, "--head", str(head)).stdout
        assert "Whole" in shown
        assert "its signature is good" in shown
        head.unlink()
    listed = json.loads(site.redoma("audit", "list", "acme", "--action", "CreateTenant", "--json").stdout)
    assert [entry["resource"] for entry in listed] == ["tenants/acme"]


def test_an_edit_of_an_export_is_found(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "globex.jsonl"
    site.redoma("audit", "export", "globex", "--output", str(file))
    assert "Whole" in site.redoma("audit", "verify", "--file", str(file)).stdout
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(lines[0].replace("CreateTenant", "ListTenants") + "".join(lines[1:]))
    result = site.redoma("audit", "verify", "--file", str(file), check=False)
    assert result.returncode == 1
    assert "broken at entry 1" in result.stderr


def test_what_was_used_is_booked_and_the_books_agree(site: Site) -> None:
    def requests() -> int:
        rows = json.loads(site.redoma("usage", "acme", "--granularity", "total", "--json").stdout)
        return sum(int(row["requests"]) for row in rows)

    before = requests()
    site.openai().chat.completions.create(
        model=ANY_MODEL, messages=[{"role": "user", "content": "Say hello."}], max_tokens=4
    )
    wait_until(lambda: requests() > before, "the call to be booked")
    shown = site.redoma("usage", "acme", "--by", "key,model").stdout
    assert ANY_MODEL in shown
    assert "tokens" in shown
    assert "agree" in site.redoma("usage", "verify").stdout
    assert site.redoma("usage", "ledger", "acme", "--limit", "1").stdout.count("settlement") == 1
