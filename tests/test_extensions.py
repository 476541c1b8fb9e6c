"""The nodes of a config that name an extension."""

from __future__ import annotations

import pytest

from ftframe.errors import ConfigError
from ftframe.extensions import check_named, manifest, named_nodes, origins

TREE = {
    "data": {
        "dataset": {"name": "people", "dataset": {"name": "no node"}},
        "template": {"name": "plain"},
        "tasks": {
            "a": {"dataset": {"name": "table"}, "metrics": [{"name": "exact_match"}], "template": {"name": None}}
        },
    },
    "model": {"template": "plain"},
    "metrics": [{"name": "exact_match"}, "text"],
    "run": None,
}


def test_named_nodes_are_found_at_any_depth() -> None:
    found = [(registry.kind, key, node["name"]) for registry, key, node in named_nodes(TREE)]
    assert found == [
        ("dataset", "data.dataset", "people"),
        ("prompt_template", "data.template", "plain"),
        ("dataset", "data.tasks.a.dataset", "table"),
        ("metric", "data.tasks.a.metrics[0]", "exact_match"),
        ("metric", "metrics[0]", "exact_match"),
    ]
    assert origins(TREE)["dataset table"].endswith("(ftframe.data.datasets:table)")


BAD = {
    "dataset": (
        {"data": {"dataset": {"name": "people", "siez": 3}}},
        "Unknown key 'data.dataset.siez'. Did you mean 's",
    ),
    "template": (
        {"data": {"template": {"name": "plain", "tokens": 3}}},
        "Unknown key 'data.template.tokens'.",
    ),
    "what ftframe passes": (
        {"data": {"template": {"name": "tokenizer", "tokenizer": 3}}},
        "data.template.tokenizer cannot be set: ftframe passes the run's own.",
    ),
    "metric": ({"metrics": [{"name": "exact_match", "ignore_case": 3}]}, "metrics[0].ignore_case=3: bool is needed."),
    "no name": ({"data": {"dataset": {"size": 3}}}, "data.dataset.name is missing. Installed: "),
}


@pytest.mark.parametrize(("node", "message"), BAD.values(), ids=BAD)
def test_named_node_is_held_against_its_signature(node: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_named(node)
    assert str(caught.value).startswith(message)


def test_sound_nodes_pass_and_nothing_is_called() -> None:
    check_named({"data": {"dataset": {"name": "table", "path": "no/such/file"}, "template": {"name": "tokenizer"}}})


def test_manifest_names_what_was_used_and_what_was_installed(distribute, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(distribute("x-one", {"ftframe.metrics": {"one": "x_one:One"}}, {})))
    found = manifest({"metrics": [{"name": "exact_match"}]}, {"template": {"name": "plain"}})
    assert list(found["plugins"]) == ["metric exact_match", "prompt_template plain"]
    assert found["installed_plugins"]["x-one"] == "1.2"
    monkeypatch.setenv("FTFRAME_DISABLE_PLUGINS", "x-one")
    assert "x-one" not in manifest({})["installed_plugins"]
