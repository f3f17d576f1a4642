"""Settings come from file and environment, and what is wrong with them is said by name."""

import json
from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from redoma_kit.settings import ServiceSettings, SettingsError, load_settings, settings_from_command_line


class SampleSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="REDOMA_SAMPLE_")

    slots: int = Field(16, ge=1, description="How many at once.")


MINIMAL = """
jwks_file = "keys.json"
[tls]
ca_file = "ca.crt"
cert_file = "tls.crt"
key_file = "tls.key"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "sample.toml"
    file.write_text("slots = 4\n" + MINIMAL)
    return file


def test_environment_wins_over_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDOMA_SAMPLE_SLOTS", "7")
    monkeypatch.setenv("REDOMA_SAMPLE_TLS__CA_FILE", "/other/ca.crt")
    settings = load_settings(SampleSettings, config)
    assert settings.slots == 7
    assert settings.tls.ca_file == Path("/other/ca.crt")
    assert settings.tls.cert_file == Path("tls.crt")


def test_longest_stream_is_one_variable_for_every_service(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDOMA_MAX_STREAM_S", "90")
    settings = load_settings(SampleSettings, config)
    assert (settings.max_stream_s, settings.grace_s) == (90, 90)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("slots = 0" + MINIMAL, "slots"),
        ("slot = 3" + MINIMAL, "slot"),
        ('[tls]\nca_file = "a"', "tls.cert_file"),
        (MINIMAL + 'keyfile = "b"', "tls.keyfile"),
        ("slots = [", "not valid TOML"),
        ('forwarders = ["public/egress"]\n' + MINIMAL, "forwarders"),
        ('forwarders = ["spiffe://redoma/public/egress "]\n' + MINIMAL, "forwarders"),
        ('forwarders = ["spiffe://redoma/*/gateway"]\n' + MINIMAL, "forwarders"),
    ],
)
def test_wrong_setting_is_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "sample.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=named):
        load_settings(SampleSettings, file)


def test_nobody_forwards_callers_but_who_is_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(SampleSettings, config).forwarders == ()
    monkeypatch.setenv("REDOMA_SAMPLE_FORWARDERS", '["spiffe://redoma/hospital-a/gateway"]')
    assert load_settings(SampleSettings, config).forwarders == ("spiffe://redoma/hospital-a/gateway",)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml does not exist"):
        load_settings(SampleSettings, tmp_path / "absent.toml")


def test_print_config_shows_what_is_in_force(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        settings_from_command_line(SampleSettings, "sample", "Samples.", ["--config", str(config), "--print-config"])
    assert exit_.value.code == 0
    assert json.loads(capsys.readouterr().out)["slots"] == 4


def test_help_names_every_setting_and_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings_from_command_line(SampleSettings, "sample", "Samples.", ["--help"])
    text = capsys.readouterr().out
    for variable in ("REDOMA_SAMPLE_SLOTS", "REDOMA_SAMPLE_TLS__KEY_FILE", "REDOMA_MAX_STREAM_S"):
        assert variable in text


def test_wrong_settings_exit_with_two_and_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        settings_from_command_line(SampleSettings, "sample", "Samples.", ["--config", str(tmp_path / "none.toml")])
    assert exit_.value.code == 2
    assert "none.toml does not exist" in capsys.readouterr().err
