"""Names, loading and building, with made-up distributions on the path."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ftframe import registry
from ftframe.errors import ConfigError, PluginError
from ftframe.registry import Registry

Install = Callable[..., None]

BUILT_IN = {
    "datasets": {"chronicle", "people", "table"},
    "prompt_templates": {"alpaca", "chatml", "llama2", "llama3", "mistral", "plain", "tokenizer"},
    "metrics": {"exact_match"},
}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution with one widget, and the module behind it, on the path."""

    def add(distribution: str, *, name: str, code: str, target: str = "build") -> None:
        module = distribution.replace("-", "_")
        folder = tmp_path / distribution
        info = folder / f"{module}-1.2.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(
            f"[ftframe.api]\nv1 = {module}\n[ftframe.widgets]\n{name} = {module}:{target}\n"
        )
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return add


@pytest.fixture
def widgets() -> Registry:
    """A kind of extension that nothing but the tests' distributions registers."""
    return Registry("widget")


def test_reading_names_imports_nothing(install: Install, widgets: Registry) -> None:
    install("acme-one", name="one", code="raise SystemExit('imported')")
    install("acme-two", name="two", code="raise SystemExit('imported')")
    assert widgets.names() == ["one", "two"]
    assert not {"acme_one", "acme_two"} & set(sys.modules)


def test_loading_one_imports_only_that_one(install: Install, widgets: Registry) -> None:
    install("acme-one", name="one", code="build = 'the first'")
    install("acme-two", name="two", code="raise SystemExit('imported')")
    assert widgets.load("one") == "the first"
    assert "acme_one" in sys.modules
    assert "acme_two" not in sys.modules


def test_unknown_name_suggests_the_nearest_and_lists_all(install: Install, widgets: Registry) -> None:
    install("acme-one", name="squares", code="build = dict")
    install("acme-two", name="circles", code="build = dict")
    with pytest.raises(PluginError) as caught:
        widgets.load("sqares")
    assert str(caught.value).splitlines() == [
        "Unknown widget 'sqares'. Did you mean 'squares'?",
        "Installed: circles, squares.",
        "Packages add more through the entry-point group 'ftframe.widgets'.",
    ]


def test_unknown_name_where_nothing_is_installed(widgets: Registry) -> None:
    assert widgets.names() == []
    with pytest.raises(PluginError, match=r"^Unknown widget 'one'\.\nInstalled: none\."):
        widgets.load("one")


def test_duplicates_name_both_packages(install: Install, widgets: Registry) -> None:
    install("acme-one", name="same", code="build = dict")
    install("acme-two", name="same", code="build = dict")
    with pytest.raises(PluginError) as caught:
        widgets.load("same")
    message = str(caught.value)
    assert message.startswith("Two packages register the widget 'same':")
    assert "acme-one 1.2 (acme_one:build)" in message
    assert "acme-two 1.2 (acme_two:build)" in message


def test_one_distribution_found_twice_is_no_duplicate(
    install: Install, widgets: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("acme-one", name="one", code="build = dict")
    (tmp_path / "link").symlink_to(tmp_path / "acme-one")
    monkeypatch.syspath_prepend(str(tmp_path / "link"))
    assert widgets.names() == ["one"]


@pytest.mark.parametrize(
    ("code", "target", "reason"),
    [
        ("import no_such_library", "build", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise RuntimeError('needs a licence')", "build", "RuntimeError: needs a licence"),
        ("def build(:", "build", "SyntaxError: "),
        ("other = dict", "build", "AttributeError: "),
    ],
    ids=["missing library", "raises", "syntax", "no such attribute"],
)
def test_module_that_does_not_import_names_its_package(
    code: str, target: str, reason: str, install: Install, widgets: Registry
) -> None:
    install("acme-broken", name="broken", code=code, target=target)
    with pytest.raises(PluginError) as caught:
        widgets.load("broken")
    first, second = str(caught.value).split("\n", 1)
    assert first == (
        "The widget 'broken' is registered by acme-broken 1.2 (acme_broken:build), but it does not import:"
    )
    assert second.startswith(reason)


WITH_TOKENIZER = "def build(*, size: int, tokenizer: object = None) -> tuple:\n    return size, tokenizer\n"
WITHOUT_TOKENIZER = "def build(*, size: int = 3) -> tuple:\n    return (size,)\n"
CLASS = "class build:\n    def __init__(self, tokenizer, size: int = 1):\n        self.got = (size, tokenizer)\n"


@pytest.mark.parametrize(
    ("code", "spec", "expected"),
    [
        (WITH_TOKENIZER, {"size": 7}, (7, "tok")),
        (WITHOUT_TOKENIZER, {"size": 7}, (7,)),
        (WITHOUT_TOKENIZER, {}, (3,)),
    ],
    ids=["wants it", "does not", "defaults"],
)
def test_build_offers_arguments_only_where_there_is_a_parameter(
    code: str, spec: dict, expected: tuple, install: Install, widgets: Registry
) -> None:
    install("acme-one", name="one", code=code)
    assert widgets.build({"name": "one", **spec}, key="widget", tokenizer="tok") == expected


def test_build_of_a_class(install: Install, widgets: Registry) -> None:
    install("acme-one", name="one", code=CLASS)
    assert widgets.build({"name": "one", "size": 2}, key="widget", tokenizer="tok").got == (2, "tok")


def test_build_leaves_the_node_as_it_is(install: Install, widgets: Registry) -> None:
    install("acme-one", name="one", code=WITHOUT_TOKENIZER)
    spec = {"name": "one", "size": 2}
    widgets.build(spec, key="widget")
    assert spec == {"name": "one", "size": 2}


@pytest.mark.parametrize("spec", [{}, {"name": None}, {"name": 3}], ids=["absent", "null", "number"])
def test_build_without_a_name(spec: dict, install: Install, widgets: Registry) -> None:
    install("acme-one", name="one", code=WITHOUT_TOKENIZER)
    with pytest.raises(ConfigError, match=r"^data\.dataset\.name is missing\. Installed: one\.$"):
        widgets.build(spec, key="data.dataset")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"size": 1, "siez": 3},
            "Unknown key 'data.dataset.siez'. Did you mean 'size'?\nAllowed: size, ratio, path.",
        ),
        ({}, "No value for data.dataset.size. Set it on the command line: data.dataset.size=..."),
        ({"size": "many"}, "data.dataset.size=many: int is needed."),
        ({"size": True}, "data.dataset.size=True: int is needed."),
        ({"size": 1, "path": 3}, "data.dataset.path=3: str or null is needed."),
        ({"size": 1, "path": ["a"]}, "data.dataset.path=['a']: str or null is needed."),
    ],
    ids=["unknown", "missing", "str for int", "bool for int", "int for str", "list for str"],
)
def test_wrong_argument_names_the_key(arguments: dict, message: str, install: Install, widgets: Registry) -> None:
    code = "def build(*, size: int, ratio: float = 0.5, path: str | None = None): raise AssertionError('called')"
    install("acme-one", name="one", code=code)
    with pytest.raises(ConfigError) as caught:
        widgets.build({"name": "one", **arguments}, key="data.dataset")
    assert str(caught.value) == message


def test_a_builder_that_leaves_is_no_success(install: Install, widgets: Registry) -> None:
    install("acme-one", name="one", code="def build(): raise SystemExit(0)")
    with pytest.raises(PluginError, match=r"'one' of acme-one .* cannot be used: it leaves the process"):
        widgets.build({"name": "one"}, key="data.dataset")


@pytest.mark.parametrize("group", BUILT_IN)
def test_every_built_in_name_loads(group: str) -> None:
    registered: Registry = getattr(registry, group)
    own = {name for name in registered.names() if registered.origin(name).startswith("ftframe ")}
    assert own == BUILT_IN[group]
    for name in own:
        assert callable(registered.load(name)), name


def test_reading_the_built_in_names_imports_no_library() -> None:
    code = (
        "import sys\nfrom ftframe import registry\n"
        "names = [n for r in (registry.datasets, registry.prompt_templates, registry.metrics) for n in r.names()]\n"
        "assert len(names) >= 9, names\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'peft', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
