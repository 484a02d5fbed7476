from pathlib import Path

import pytest

from app.settings import Settings, SettingsError, read_settings


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_environment_overrides_the_file_and_the_file_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("UNDERSTUDY_PORT=9000\nUNDERSTUDY_THREADS=3\nOTHER=1\n")
    monkeypatch.setenv("UNDERSTUDY_PORT", "9001")
    settings = read_settings()
    assert (settings.port, settings.threads, settings.workers) == (9001, 3, 1)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_PROT", "9000")
    with pytest.raises(SettingsError, match=r"unknown setting UNDERSTUDY_PROT; .*UNDERSTUDY_PORT"):
        read_settings()


def test_an_unknown_name_in_the_file_is_an_error_too() -> None:
    Path(".env").write_text("UNDERSTUDY_MODEL_DIR=x\n")
    with pytest.raises(SettingsError, match="UNDERSTUDY_MODEL_DIR"):
        read_settings()


def test_a_value_out_of_range_names_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_PORT", "70000")
    monkeypatch.setenv("UNDERSTUDY_LOG_LEVEL", "loud")
    with pytest.raises(SettingsError, match=r"UNDERSTUDY_PORT: .*65535; UNDERSTUDY_LOG_LEVEL: .*'debug'"):
        read_settings()


def test_an_admin_route_without_a_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_ADMIN", "1")
    with pytest.raises(SettingsError, match="UNDERSTUDY_API_KEY"):
        read_settings()


@pytest.mark.parametrize("key", ["sesame\n", " sesame", " "])
def test_a_key_that_no_client_could_send_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("UNDERSTUDY_API_KEY", key)
    with pytest.raises(SettingsError, match=r"UNDERSTUDY_API_KEY.*white space"):
        read_settings()


def test_an_empty_address_is_refused_as_it_would_be_every_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_HOST", "")
    with pytest.raises(SettingsError, match="UNDERSTUDY_HOST"):
        read_settings()


def test_a_drain_that_cannot_end_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_DRAIN_SECONDS", "30")
    with pytest.raises(SettingsError, match="UNDERSTUDY_DRAIN_LIMIT_SECONDS must be more than"):
        read_settings()


def test_secrets_are_hidden_where_settings_are_shown() -> None:
    assert "sesame" not in str(Settings(api_key="sesame").shown())


def test_every_setting_says_why_it_is_there() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
