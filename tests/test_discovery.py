"""What the metadata of made-up distributions says, and what it hides."""

from __future__ import annotations

import pytest

from ftframe import discovery
from ftframe.discovery import claims, third_parties

GROUP = "ftframe.widgets"
ONE = {GROUP: {"one": "x_one:build"}}


@pytest.fixture
def on_path(monkeypatch):
    def put(*folders):
        for folder in folders:
            monkeypatch.syspath_prepend(str(folder))

    return put


@pytest.mark.parametrize(
    ("api", "trouble"),
    [
        ("v1", ""),
        ("v2", "it is written for ftframe API v2, and this ftframe has v1"),
        (None, 'it declares no API version; its pyproject.toml needs [project.entry-points."ftframe.api"] v1'),
    ],
)
def test_api_version_is_read_from_the_metadata(api, trouble, distribute, on_path):
    on_path(distribute("x-one", ONE, {}, api=api))
    (claim,) = claims(GROUP)
    assert claim.trouble == claim.refusal == trouble
    assert (claim.source, claim.origin) == ("x-one 1.2", "x-one 1.2 (x_one:build)")


def test_one_of_several_api_versions_is_enough(distribute, on_path):
    on_path(distribute("x-one", {"ftframe.api": {"v1": "x_one", "v2": "x_one"}, **ONE}, {}, api=None))
    assert claims(GROUP)[0].trouble == ""


def test_name_of_a_file_cannot_be_registered(distribute, on_path):
    on_path(distribute("x-one", {GROUP: {"data/one": "x_one:build"}}, {}))
    (claim,) = claims(GROUP)
    assert claim.trouble == "the name 'data/one' holds '/' or '.py:', which stand for local files"


@pytest.mark.parametrize(
    ("disabled", "is_disabled"),
    [("", False), ("x-one", True), ("X_One", True), (" a , x.one ", True), ("all", True), ("x-on", False)],
)
def test_disabled_by_any_spelling(disabled, is_disabled, distribute, on_path, monkeypatch):
    on_path(distribute("X_one", ONE, {}))
    monkeypatch.setenv("FTFRAME_DISABLE_PLUGINS", disabled)
    (claim,) = claims(GROUP)
    assert claim.is_disabled == is_disabled
    assert bool(claim.refusal) == is_disabled
    assert ("X_one" in third_parties()) == (not is_disabled)


def test_ftframe_itself_is_never_disabled_nor_a_third_party(monkeypatch):
    monkeypatch.setenv("FTFRAME_DISABLE_PLUGINS", "ftframe,all")
    own = [claim for claim in claims("ftframe.datasets") if claim.owner == "ftframe"]
    assert own and not any(claim.refusal for claim in own)
    assert third_parties() == {}


def test_distribution_without_our_groups_is_not_read(distribute, on_path):
    on_path(distribute("x-other", {"console_scripts": {"x": "x:main"}}, {}, api=None))
    assert "x-other" not in third_parties()


def test_every_kind_has_its_group():
    assert [discovery.group_of(kind) for kind in discovery.KINDS] == [
        "ftframe.datasets",
        "ftframe.prompt_templates",
        "ftframe.metrics",
    ]
