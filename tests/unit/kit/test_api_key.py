"""The form of API keys."""

import pytest

from redoma_kit.api_key import KEY, new_key, prefix_of


def test_keys_are_new_each_time_and_of_one_form() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(KEY.fullmatch(key) and len(key) == 56 for key in keys)


def test_the_prefix_is_the_part_before_the_secret() -> None:
    assert prefix_of("rdm_x7f2k9qa_" + "_" * 43) == "rdm_x7f2k9qa"


@pytest.mark.parametrize("key", ["", "rdm_x7f2k9qa", "rdm_x7f2k9qa_" + "a" * 44, "rdm_x7f2k9qa_" + "a" * 43 + "\n"])
def test_other_forms_have_no_prefix(key: str) -> None:
    assert prefix_of(key) is None
