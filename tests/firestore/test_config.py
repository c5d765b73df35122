"""What a FirestorePool can be told, and what it says of what it can't."""

from __future__ import annotations

import json

import pytest
from google.auth import exceptions as auth_exceptions
from google.auth.credentials import AnonymousCredentials

from poolkit import ConfigError, FirestoreConfig, FirestorePool
from poolkit.firestore import credentials as module
from poolkit.firestore.config import identity_of

VARIABLES = (
    "FIRESTORE_EMULATOR_HOST",
    "GOOGLE_CLOUD_PROJECT",
    "GCLOUD_PROJECT",
    "GOOGLE_APPLICATION_CREDENTIALS",
)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def key_file(tmp_path):
    """Give a service account's key file, for a key made for this test."""
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    from cryptography.hazmat.primitives import serialization

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = tmp_path / "key.json"
    file.write_text(
        json.dumps(
            {
                "type": "service_account",
                "project_id": "from-the-key",
                "private_key": key.decode(),
                "client_email": "a@from-the-key.iam.gserviceaccount.com",
                "token_uri": "https://oauth2.googleapis.com/token",
            }
        )
    )
    return file


def test_the_defaults_are_those_of_the_design():
    config = FirestoreConfig(project="p")
    assert (config.database, config.channels, config.max_size) == ("(default)", 4, 400)
    assert (config.keepalive_time, config.keepalive_timeout) == (30.0, 10.0)
    assert (config.idle_timeout, config.rpc_timeout) == (300.0, 10.0)
    assert config.name == "firestore p/(default)"


def test_never_more_calls_than_a_hundred_a_channel():
    assert FirestoreConfig(project="p").calls == 400
    assert FirestoreConfig(project="p", channels=1).calls == 100
    assert FirestoreConfig(project="p", channels=8).calls == 400
    assert FirestoreConfig(project="p", max_size=20).calls == 20


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"channels": 0}, "channels must be 1 or more"),
        ({"channels": 1.5}, "channels must be a whole number"),
        ({"keepalive_time": 0}, "keepalive_time must be more than 0"),
        ({"keepalive_timeout": "10"}, "keepalive_timeout must be a number of seconds"),
        ({"rpc_timeout": float("nan")}, "rpc_timeout"),
        ({"connect_timeout": -1}, "connect_timeout"),
        ({"project": 7}, "project must be a string"),
        ({"project": "a/b"}, "project must be a project's ID"),
        ({"database": "a/b"}, "database must be"),
        ({"database": ""}, "database must be"),
        ({"emulator_host": "http://localhost:8080"}, "without http"),
        ({"emulator_host": "localhost"}, "host:port"),
        ({"emulator_host": "localhost:99999"}, "host:port"),
        ({"credentials": "secret"}, "credentials must be a google.auth.credentials.Credentials"),
        ({"credentials_file": "/no/such/file"}, "there is no such file"),
        ({"credentials_file": "x", "credentials": AnonymousCredentials()}, "not both"),
        ({"chanels": 3}, "did you mean 'channels'"),
        ({"max_size": 0}, "max_size must be 1 or more"),
    ],
)
def test_what_is_wrong_is_named(fields, said):
    with pytest.raises(ConfigError, match=said) as caught:
        FirestorePool(**{"project": "p", **fields})
    assert "secret" not in str(caught.value)


def test_the_environment_says_what_was_not_given(monkeypatch):
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:8080")
    assert FirestoreConfig().project == "google-cloud-firestore-emulator"
    monkeypatch.setenv("GCLOUD_PROJECT", "second")
    assert FirestoreConfig().project == "second"
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "first")
    config = FirestoreConfig()
    assert (config.project, config.emulator_host) == ("first", "127.0.0.1:8080")
    assert FirestoreConfig(project="given", emulator_host="h:1").emulator_host == "h:1"
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "nonsense")
    with pytest.raises(ConfigError, match="FIRESTORE_EMULATOR_HOST"):
        FirestoreConfig()


def test_a_key_file_says_who_and_where(key_file):
    config = FirestoreConfig(credentials_file=str(key_file))
    identity = identity_of(config)
    assert identity.project == config.project == "from-the-key"
    assert identity.credentials.service_account_email.startswith("a@")
    assert "key" not in repr(config).replace("from-the-key", "")
    assert FirestoreConfig(credentials_file=str(key_file), project="mine").project == "mine"


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "not json s3cret", '{"type": "service_account"}',
                '{"type": "service_account", "private_key": "s3cret", "client_email": "a", "token_uri": "b"}'],
)  # fmt: skip
def test_a_wrong_key_file_is_named_but_not_quoted(tmp_path, content):
    file = tmp_path / "key.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match="is no service account's key") as caught:
        FirestoreConfig(credentials_file=str(file))
    assert str(file) in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_an_object_and_the_application_default(monkeypatch):
    given = AnonymousCredentials()
    assert identity_of(FirestoreConfig(project="p", credentials=given)).credentials is given
    monkeypatch.setattr(module.google.auth, "default", lambda scopes: (given, "found"))
    identity = identity_of(FirestoreConfig())
    assert (identity.credentials, identity.project) == (given, "found")


def test_without_credentials_it_says_what_was_looked_for(monkeypatch):
    def nothing(scopes):
        raise auth_exceptions.DefaultCredentialsError("nothing")

    monkeypatch.setattr(module.google.auth, "default", nothing)
    with pytest.raises(ConfigError, match=r"GOOGLE_APPLICATION_CREDENTIALS.*FIRESTORE_EMULATOR"):
        FirestorePool("p").open()
    monkeypatch.setattr(
        module.google.auth, "default", lambda scopes: (AnonymousCredentials(), None)
    )
    with pytest.raises(ConfigError, match="project is not known"):
        FirestorePool().open()
    pool = FirestorePool("p")
    try:
        assert pool.health_check() in (True, False)
    finally:
        pool.close()  # it would go on looking for a server


def test_an_emulator_needs_no_credentials(monkeypatch):
    monkeypatch.setattr(module.google.auth, "default", lambda scopes: 1 / 0)
    identity = identity_of(FirestoreConfig(emulator_host="127.0.0.1:1"))
    assert identity.credentials is None


def test_a_config_shows_no_secret(key_file):
    config = FirestoreConfig(credentials_file=str(key_file), channels=2, rpc_timeout=3)
    assert repr(config) == (
        "FirestoreConfig(name='firestore from-the-key/(default)', project='from-the-key', "
        "channels=2, rpc_timeout=3)"
    )
