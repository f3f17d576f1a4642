"""A site's files, whole whatever happens to the process in the midst of writing them."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from redoma_provisioner.trust.authority import Authority
from redoma_provisioner.trust.keys import make_key
from redoma_provisioner.trust.membership_files import MembershipBusy, MembershipFiles, MembershipSet
from redoma_provisioner.trust.names import SERVICES
from tests.unit.provisioner.trust.killing import Killed, killed_after
from tests.unit.provisioner.trust.private_site import joined_set


def _files(folder: Path) -> MembershipFiles:
    files = MembershipFiles(folder)
    files.prepare()
    return files


def test_a_set_is_read_as_it_was_written_and_only_its_owner_may(tmp_path: Path, authority: Authority) -> None:
    files = _files(tmp_path / "membership")
    assert files.read() is None
    content = joined_set(authority)
    files.write(content)
    assert files.read() == content
    for path in (tmp_path / "membership").rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o077 == 0, path
    for service in SERVICES:
        assert (files.current / service / "ca.crt").read_text() == content.authorities


def test_a_kill_between_any_two_steps_leaves_the_former_set_or_the_new_one(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _files(tmp_path / "membership")
    kept = joined_set(authority)
    files.write(kept)
    outcomes = []
    for steps in range(200):
        wanted = replace(kept, bundle=f"number {steps}", authorities=f"of {steps}")
        with killed_after(monkeypatch, steps) as done:
            try:
                files.write(wanted)
                is_killed = False
            except Killed:
                is_killed = True
        found = files.read()
        assert found in (kept, wanted), f"after {done[-1:]}"
        outcomes.append(found == wanted)
        kept = _kept(found)
        if not is_killed:
            break
    else:
        pytest.fail("writing never came to its end")
    assert outcomes[0] is False and outcomes[-1] is True
    # Killed after the swap, it is the new set already.
    assert outcomes.count(True) > 1
    files.write(joined_set(authority))
    left = sorted(path.name for path in (tmp_path / "membership" / "versions").iterdir())
    assert len(left) == 2, left


def _kept(found: MembershipSet | None) -> MembershipSet:
    assert found is not None
    return found


def test_a_kill_between_any_two_steps_leaves_all_pending_keys_or_none(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _files(tmp_path / "membership")
    keys = [make_key(service) for service in SERVICES]
    seen = set()
    for steps in range(100):
        with killed_after(monkeypatch, steps):
            try:
                files.write_pending(keys)
                is_killed = False
            except Killed:
                is_killed = True
        found = list(files.read_pending())
        assert found in ([], keys)
        seen.add(len(found))
        if not is_killed:
            break
        files.drop_pending()
    assert seen == {0, len(SERVICES)}


def test_a_disk_that_is_full_leaves_the_former_set(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _files(tmp_path / "membership")
    kept = joined_set(authority)
    files.write(kept)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            files.write(joined_set(authority, 2))
    assert files.read() == kept


def test_whoever_follows_current_reads_one_set_while_another_is_swapped_in(
    tmp_path: Path, authority: Authority
) -> None:
    files = _files(tmp_path / "membership")
    keys = [make_key(service) for service in SERVICES]
    files.write(joined_set(authority, 1, keys))
    opened = (files.current / "trust.jws").resolve()
    files.write(joined_set(authority, 2, keys))
    # The set before stays for those who are at it.
    assert opened.exists() and opened != (files.current / "trust.jws").resolve()
    files.write(joined_set(authority, 3, keys))
    assert not opened.exists()


def test_of_two_who_change_a_membership_one_is_sent_away(tmp_path: Path) -> None:
    files = _files(tmp_path / "membership")
    with files.locked(), pytest.raises(MembershipBusy), MembershipFiles(tmp_path / "membership").locked():
        pass
    with files.locked():
        pass


def test_link_documents_are_kept_for_their_owner_alone_and_forgotten(tmp_path: Path) -> None:
    files = _files(tmp_path / "membership")
    assert files.read_link() == ""
    files.write_link("kind: AccessToken")
    assert files.read_link() == "kind: AccessToken"
    assert (tmp_path / "membership" / "link.yaml").stat().st_mode & 0o077 == 0
    files.write_link("")
    assert files.read_link() == ""
