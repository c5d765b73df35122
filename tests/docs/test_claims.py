"""What pages name is there: tests, metrics, settings, the whole of the API."""

from __future__ import annotations

import dataclasses
import re

import pytest
from prometheus_client import CollectorRegistry

import poolkit
from poolkit import FirestoreConfig, HttpPool, PostgresConfig, RedisConfig
from poolkit.observe.prometheus import Exporter
from tests.docs.pages import ROOT

DOCS = ROOT / "docs"


def test_each_test_that_the_security_page_names_is_there():
    named = re.findall(
        r"``([a-z_]+/test_\w+\.py)(?:::(\w+))?``", (DOCS / "security.rst").read_text()
    )

    assert len(named) > 30
    for file, test in named:
        text = (ROOT / "tests" / file).read_text()
        assert f"def {test}(" in text or not test, f"{file}::{test}"


def test_each_metric_that_a_page_names_is_there():
    page = (DOCS / "observing.rst").read_text()
    alerts = page[page.index("What to watch") : page.index("OpenTelemetry\n---")]
    named = set(re.findall(r"\b(?:db_client|poolkit)_\w+", alerts))
    registry = CollectorRegistry()
    with HttpPool() as pool:
        Exporter([pool], registry=registry).close()
        shown = {sample.name for metric in registry.collect() for sample in metric.samples}
        described = {metric.name for metric in registry.collect()}

    labels = {"db_client_connection_pool_name"}
    known = shown | described | {f"{name}_total" for name in described} | labels
    assert len(named) > 8
    assert named - known - {f"{name}_bucket" for name in described} == set()


@pytest.mark.parametrize(
    ("page", "config"),
    [("postgres", PostgresConfig), ("redis", RedisConfig), ("firestore", FirestoreConfig)],
)
def test_a_page_lists_every_setting(page, config):
    text = (DOCS / f"{page}.rst").read_text()
    settings = text[text.index("\nSettings\n") :]

    missing = {
        field.name
        for field in dataclasses.fields(config)
        if field.init and f"``{field.name}``" not in settings
    }
    assert missing == set()


def test_the_reference_has_every_public_name():
    reference = (DOCS / "api.rst").read_text()

    for name in set(poolkit.__all__) - {"errors", "__version__"}:
        assert re.search(rf":: poolkit\.{name}$", reference, re.MULTILINE), name
