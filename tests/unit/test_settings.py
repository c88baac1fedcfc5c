from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferrer.settings import InferrerSettings, open_keys, read_inferrer_settings
from mlbuffet.chassis.settings import SettingsError, read_settings
from mlbuffet.keys import Wish
from mlbuffet.keystore import KeyStore
from modelhost.settings import ModelhostSettings, read_modelhost_settings


def inferrer(**environ: str) -> InferrerSettings:
    return read_settings(InferrerSettings, "INFERRER_", environ)


def test_without_variables_every_setting_has_its_default() -> None:
    assert inferrer() == InferrerSettings()
    assert inferrer(PATH="/bin", MODELHOST_ID="x", inferrer_port="1") == InferrerSettings()


def test_each_type_is_read() -> None:
    found = inferrer(
        INFERRER_PORT="80", INFERRER_TIMEOUT_S="1.5", INFERRER_LANE="off", INFERRER_TLS_FOLDER="/tls",
        INFERRER_MODELHOSTS="unix:/a, tcp://b:1 ,,", INFERRER_HOST="::1",
    )  # fmt: skip
    assert (found.port, found.timeout_s, found.lane, found.tls_folder) == (80, 1.5, False, Path("/tls"))
    assert (found.modelhosts, found.host) == (("unix:/a", "tcp://b:1"), "::1")
    assert inferrer(INFERRER_TLS_FOLDER="").tls_folder is None


def test_a_value_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "port"
    file.write_text(" 8080\n")
    assert inferrer(INFERRER_PORT_FILE=str(file)).port == 8080
    with pytest.raises(SettingsError, match="INFERRER_PORT_FILE"):
        inferrer(INFERRER_PORT_FILE=str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INFERRER_PROT", "1"),
        ("INFERRER_", "1"),
        ("INFERRER_PORT", "x"),
        ("INFERRER_PORT", "8e3"),
        ("INFERRER_LANE", "2"),
        ("INFERRER_LANE", ""),
        ("INFERRER_TIMEOUT_S", "soon"),
        ("INFERRER_FILE", "x"),
        ("INFERRER_LOG_LEVEL", "LOUD"),
    ],
)
def test_what_does_not_fit_refuses_to_start_and_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        inferrer(**{name: value})


@given(st.dictionaries(st.sampled_from([f"INFERRER_{name.upper()}" for name in InferrerSettings.__slots__]), st.text()))
def test_any_values_are_settings_or_refused(environ: Mapping[str, str]) -> None:
    try:
        assert isinstance(inferrer(**environ), InferrerSettings)
    except SettingsError:
        assert environ


def test_a_modelhost_beyond_loopback_needs_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELHOST_CHANNEL", "tcp://0.0.0.0:9100")
    with pytest.raises(SettingsError, match="MODELHOST_TLS_FOLDER"):
        read_modelhost_settings()
    monkeypatch.setenv("MODELHOST_TLS_FOLDER", "/run/tls")
    assert read_modelhost_settings().channel == ("tcp://0.0.0.0:9100",)
    monkeypatch.setenv("MODELHOST_HOST", "0.0.0.0")  # noqa: S104 - that is refused
    with pytest.raises(SettingsError, match="MODELHOST_HOST"):
        read_modelhost_settings()


def test_a_modelhosts_metrics_go_beyond_loopback_by_tls_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELHOST_METRICS_PORT", "9464")
    with pytest.raises(SettingsError, match="MODELHOST_TLS_FOLDER"):
        read_modelhost_settings()
    monkeypatch.setenv("MODELHOST_TLS_FOLDER", "/run/tls")
    assert read_modelhost_settings().metrics_port == 9464


def test_s05_an_inferrer_without_keys_stays_on_loopback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INFERRER_HOST", "0.0.0.0")  # noqa: S104 - that is refused
    monkeypatch.setenv("INFERRER_REPOSITORY", str(tmp_path))
    with pytest.raises(SettingsError, match="INFERRER_HOST"):
        open_keys(read_inferrer_settings())
    KeyStore(tmp_path).make(Wish("me", ["admin"]))
    assert open_keys(read_inferrer_settings()).read()


def test_the_budget_is_what_was_asked_for_or_a_share_of_the_machine() -> None:
    assert ModelhostSettings(memory_bytes=5).budget_bytes == 5
    assert ModelhostSettings().budget_bytes > 1 << 20
    assert InferrerSettings(workers=3).worker_count == 3
    assert InferrerSettings().worker_count >= 1
