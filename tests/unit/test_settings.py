"""Settings: where they come from, and what is said of wrong ones."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pydantic import ValidationError

from taskq.errors import InvalidSetting
from taskq.settings import Settings, explain, load_settings, redact_url


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults_are_enough() -> None:
    """Without a word there are a broker, and a store in the user's own folder."""
    settings = load_settings()
    assert settings.broker == "amqp://guest:guest@localhost/"
    assert settings.store.startswith("sqlite:////") and settings.store.endswith("taskq/taskq.db")
    assert (settings.prefix, settings.concurrency, settings.publish_timeout) == ("taskq", 16, 5.0)


def test_each_layer_wins_over_the_one_below(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keyword over variable over file over default, each setting by itself, and `explain` says which it was."""
    (folder / "taskq.toml").write_text('concurrency = 2\ngrace = 2\nprefix = "file"\n')
    monkeypatch.setenv("TASKQ_CONCURRENCY", "3")
    monkeypatch.setenv("TASKQ_GRACE", "3.5")
    settings = load_settings(concurrency=4)
    assert (settings.concurrency, settings.grace, settings.prefix, settings.processes) == (4, 3.5, "file", 1)
    sources = {name: source for name, _, source, _ in explain(settings)}
    assert sources["concurrency"] == "keyword argument concurrency"
    assert sources["grace"] == "variable TASKQ_GRACE"
    assert sources["prefix"] == "file taskq.toml"
    assert sources["processes"] == "default"


def test_pyproject(folder: Path) -> None:
    """`[tool.taskq]` counts, tables of other tools do not, and taskq.toml goes before it."""
    (folder / "pyproject.toml").write_text("[tool.other]\nconcurrency = 9\n")
    assert load_settings().concurrency == 16
    (folder / "pyproject.toml").write_text("[tool.taskq]\nconcurrency = 9\n")
    assert load_settings().concurrency == 9
    (folder / "taskq.toml").write_text("concurrency = 8\n")
    assert load_settings().concurrency == 8


def test_named_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TASKQ_CONFIG names the only file that is read, and a missing one is an error."""
    (folder / "taskq.toml").write_text("concurrency = 8\n")
    (folder / "other.toml").write_text("concurrency = 7\n")
    monkeypatch.setenv("TASKQ_CONFIG", "other.toml")
    assert load_settings().concurrency == 7
    monkeypatch.setenv("TASKQ_CONFIG", "missing.toml")
    with pytest.raises(InvalidSetting, match="TASKQ_CONFIG names 'missing.toml'"):
        load_settings()


def test_none_and_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """`none` switches off what can be switched off; an empty variable is as good as unset."""
    monkeypatch.setenv("TASKQ_EXIT_AFTER", "none")
    monkeypatch.setenv("TASKQ_CONCURRENCY", "")
    assert (load_settings().exit_after, load_settings().concurrency) == (None, 16)
    monkeypatch.setenv("TASKQ_GRACE", "none")
    with pytest.raises(InvalidSetting, match="setting grace"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("broker", "localhost", "must be a URL"),
        ("broker", 5, "must be a valid string"),
        ("prefix", "a b", "letters, digits"),
        ("prefix", "", "letters, digits"),
        ("concurrency", 0, "must be greater than or equal to 1"),
        ("concurrency", "many", "valid integer"),
        ("publish_timeout", 0, "must be greater than 0"),
        ("publish_timeout", float("nan"), "must be"),
        ("heartbeat", 0.5, "must be greater than or equal to 1"),
        ("result_retention", -1, "must be greater than 0"),
        ("health", "8080", "must be HOST:PORT"),
        ("health", "localhost:99999", "must be HOST:PORT"),
        ("loop", "trio", "'uvloop'"),
        ("record_enqueue", "perhaps", "valid boolean"),
        ("max_crashes", None, "valid integer"),
    ],
)
def test_wrong_values(name: str, value: object, says: str) -> None:
    """A value that cannot be is named with its setting, its source and what is allowed."""
    with pytest.raises(InvalidSetting, match=says) as caught:
        load_settings(**{name: value})
    text = str(caught.value)
    assert f"setting {name}:" in text and f"from keyword argument {name}" in text
    assert str(value) in text or value is None


def test_all_wrong_values_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two wrong settings are both in the one error, each with its own source."""
    monkeypatch.setenv("TASKQ_GRACE", "long")
    with pytest.raises(InvalidSetting) as caught:
        load_settings(concurrency=-1)
    assert "got 'long' from variable TASKQ_GRACE" in str(caught.value)
    assert "got '-1' from keyword argument concurrency" in str(caught.value)


def test_unknown_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown keyword or key is an error that names the nearest setting; far-off ones get the list's command."""
    with pytest.raises(InvalidSetting, match="no setting 'concurency'; did you mean concurrency"):
        load_settings(concurency=5)
    with pytest.raises(InvalidSetting, match="taskq config --explain"):
        load_settings(zzzzz=5)
    (folder / "taskq.toml").write_text("brocker = 5\n")
    with pytest.raises(InvalidSetting, match="taskq.toml: there is no setting 'brocker'; did you mean broker"):
        load_settings()


@pytest.mark.parametrize("text", ["concurrency = ", "\xff", "[tool]\ntaskq = 5"])
def test_broken_files(folder: Path, text: str) -> None:
    """A file that cannot be read is named."""
    name = "pyproject.toml" if text.startswith("[tool]") else "taskq.toml"
    (folder / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidSetting, match=name):
        load_settings()


def test_unknown_variables_are_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A variable that is no setting, as Kubernetes makes them, is warned of; reserved ones are not."""
    for name in ("TASKQ_CONCURENCY", "TASKQ_TEST_X", "TASKQ_BENCH_X"):
        monkeypatch.setenv(name, "tcp://10.0.0.1:80")
    with caplog.at_level(logging.WARNING):
        load_settings()
    assert [record.getMessage() for record in caplog.records] == [
        "variable TASKQ_CONCURENCY is no setting of taskq; did you mean TASKQ_CONCURRENCY?"
    ]


def test_passwords_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """No password is in what is explained or complained of."""
    settings = load_settings(broker="amqp://user:s3cret@host/", store="postgresql://user:s3cret@host/db")
    assert "s3cret" not in str(explain(settings)) and "amqp://user:***@host/" in str(explain(settings))
    with pytest.raises(InvalidSetting) as caught:
        load_settings(broker="user:s3cret@host")
    assert "s3cret" not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://host/", "amqp://host/"),
        ("amqp://user@host/", "amqp://user@host/"),
        ("amqp://user:pw@host:5672/vhost", "amqp://user:***@host:5672/vhost"),
        ("amqp://user:p@w:/?@host/", "amqp://user:***@host/"),
        ("amqps://user:pw@one,two:5671/", "amqps://user:***@one,two:5671/"),
        ("postgresql://host/db?user=a&password=pw&sslmode=require", "postgresql://host/db?user=a&password=***&sslmode=require"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
    ],
)  # fmt: skip
def test_redacted_urls(url: str, shown: str) -> None:
    """A URL is shown with stars for its passwords and everything else as it is."""
    assert redact_url(url) == shown


def test_frozen_and_few() -> None:
    """Settings do not change once made, and are fewer than forty, all described."""
    settings = Settings(concurrency=3)
    with pytest.raises(ValidationError):
        settings.concurrency = 4  # type: ignore[misc]
    assert len(Settings.model_fields) < 40
    assert all(description for _, _, _, description in explain(settings))


def test_direct_settings_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `load_settings` looks at variables and files."""
    monkeypatch.setenv("CONCURRENCY", "5")
    monkeypatch.setenv("TASKQ_CONCURRENCY", "5")
    assert Settings().concurrency == 16
