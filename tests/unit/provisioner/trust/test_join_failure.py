"""What a person is told who can't join."""

from datetime import datetime, timedelta

from redoma_provisioner.trust import join_failure
from tests.unit.provisioner.trust.joinable import ADDRESS


def test_lengths_of_time_are_told_in_words() -> None:
    assert join_failure.describe(timedelta(hours=3, minutes=2, seconds=5)) == "3 h 2 min"
    assert join_failure.describe(timedelta()) == "0 s"
    assert "ahead" in str(join_failure.clock_wrong(timedelta(seconds=-300)))
    assert "expired" in str(join_failure.certificate_expired(ADDRESS, datetime(2026, 1, 1)))
