"""Plugins that are broken in every way, and what becomes of the commands: the table of docs/plugins.md."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from processes import run_module

ROWS = '{"train": [[Message("user", f"What is {n}?"), Message("assistant", str(n))] for n in range(40)]}'
WORKS = f"from ftframe.api import Message\ndef build():\n    return {ROWS}\n"
MARK = "import pathlib; (pathlib.Path(__file__).parent / 'imported').touch()\n"
"""Tells afterwards whether a module was imported."""

BAD = {"ftframe.datasets": {"bad": "x_bad:build"}}
CLASH = {**BAD, "ftframe.conf": {"bad": "x_bad_conf"}}

# What it does; its entry points; its module; the API that it declares; its state; the reason that is shown.
BROKEN = {
    "raises": (BAD, "raise RuntimeError('needs a licence')", "v1", "broken", "RuntimeError: needs a licence"),
    "missing library": (BAD, "import no_such_library", "v1", "broken", "No module named 'no_such_library'"),
    "SystemExit": (BAD, "raise SystemExit(0)", "v1", "broken", "SystemExit: 0"),
    "missing attribute": (BAD, "other = 1", "v1", "broken", "has no attribute 'build'"),
    "wrong type": (BAD, "build = [1]", "v1", "broken", "it is of type list; a function that returns the splits"),
    "wrong API": (BAD, WORKS, "v9", "broken", "it is written for ftframe API v9, and this ftframe has v1"),
    "no API": (BAD, WORKS, None, "broken", "it declares no API version"),
    "slow": (BAD, f"import time; time.sleep(5)\n{WORKS}", "v1", "slow", "s to import"),
}


def run(*arguments: str, cwd: Path, path: list[Path], **more: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "FTFRAME_DISABLE_PLUGINS"}
    return run_module(
        "ftframe", *arguments, cwd=cwd, env={**kept, "PYTHONPATH": os.pathsep.join(map(str, path)), **more}
    )


@pytest.fixture
def broken(request, distribute) -> Path:
    """The folder of one broken distribution."""
    entries, code, api, _, _ = BROKEN[request.param]
    return distribute("x-bad", entries, {"x_bad.py": MARK + code}, api=api)


LOOKING = {
    "--help": ("--help",),
    "fit --help": ("fit", "--help"),
    "fit --cfg job": ("fit", "--cfg", "job"),
    "evaluate --cfg job": ("evaluate", "run=x", "--cfg", "job"),
    "completion": ("-sc", "query=bash"),
}


@pytest.mark.parametrize("command", LOOKING)
def test_looking_imports_no_plugin(command, distribute, tmp_path):
    """All at once: whatever they do at import cannot matter to a command that imports none."""
    folders = []
    for number, (entries, code, api, _, _) in enumerate(BROKEN.values()):
        module = f"x_bad_{number}"
        named = {group: {f"bad{number}": f"{module}:build"} for group in entries}
        conf = {"ftframe.conf": {f"bad{number}": f"{module}.conf"}}
        files = {f"{module}/__init__.py": MARK + code, f"{module}/conf/data/bad{number}.yaml": "dataset: {name: bad}\n"}
        folders.append(distribute(f"x-bad-{number}", {**named, **conf}, files, api=api))
    line = {"COMP_LINE": "ftframe fit data=", "COMP_POINT": "17"} if command == "completion" else {}
    done = run(*LOOKING[command], cwd=tmp_path, path=folders, **line)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.rglob("imported"))
    usable = [number for number, row in enumerate(BROKEN.values()) if row[2] == "v1"]
    assert len(usable) == 6
    if "--cfg" not in command:
        assert all(f"bad{number}" in done.stdout for number in usable)
    if command == "--help":
        assert "plugins that cannot be used:\n  dataset bad5 of x-bad-5 1.2: it is written for" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN, indirect=True)
def test_the_list_says_why(broken, request, tmp_path):
    case = request.node.callspec.params["broken"]
    done = run("plugins", "--json", cwd=tmp_path, path=[broken])
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads(done.stdout) if row["distribution"] == "x-bad"]
    (row,) = rows
    assert (row["kind"], row["name"], row["version"]) == ("dataset", "bad", "1.2")
    assert row["state"] == BROKEN[case][3]
    assert BROKEN[case][4] in row["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN, indirect=True)
def test_a_run_that_uses_it_ends_before_anything_loads(broken, request, tmp_path):
    case = request.node.callspec.params["broken"]
    typed = ("fit", "data=local", "data.dataset.name=bad", "trainer.max_steps=1", "trainer.enable_progress_bar=false")
    done = run(*typed, "model.path=no/such/model", cwd=tmp_path, path=[broken])
    assert done.returncode == 2
    assert not (tmp_path / "outputs").exists()
    if case == "slow":  # it works, and the next thing is the model that is not there
        assert "No model could be found at model.path=no/such/model" in done.stderr
    else:
        assert "'bad'" in done.stderr and "x-bad 1.2" in done.stderr
        assert BROKEN[case][4] in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_that_uses_none_works(distribute, tmp_path):
    folders = []
    for number, (entries, code, api, _, _) in enumerate(BROKEN.values()):
        named = {group: {f"bad{number}": f"x_bad_{number}:build"} for group in entries}
        folders.append(distribute(f"x-bad-{number}", named, {f"x_bad_{number}.py": MARK + code}, api=api))
    quick = ("data.dataset.size=32", "data.dataset.validation_size=4", "trainer.max_steps=2", "peft=lora")
    done = run("fit", *quick, "trainer.enable_progress_bar=false", cwd=tmp_path, path=folders)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("imported"))
    (manifest,) = tmp_path.glob("outputs/fit/*/manifest.json")
    installed = json.loads(manifest.read_text())["installed_plugins"]
    active = {f"x-bad-{number}" for number, row in enumerate(BROKEN.values()) if row[2] == "v1"}
    assert {name for name in installed if name.startswith("x-bad")} == active
    assert set(installed.values()) >= {"1.2"}


@pytest.mark.slow
def test_check_fails_and_says_where(distribute, tmp_path):
    conf = {"x_bad_conf/data/bad.yaml": "dataset: {name: bad, siez: 3}\n"}
    code = WORKS.replace("build()", "build(*, size: int = 3)")
    path = [distribute("x-bad", CLASH, {"x_bad.py": code, **conf})]
    done = run("plugins", "check", "x-bad", cwd=tmp_path, path=path)
    assert done.returncode == 2, done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok   import time: 0.")
    assert lines[1].startswith("FAIL configs: ConfigError: Unknown key 'data.dataset.siez'. Did you mean 'size'?")
    assert lines[2].startswith("FAIL dataset bad: ConfigError: Unknown key 'data.dataset.siez'.")
    assert len(lines) == 3


def test_duplicate_name_is_fatal_only_where_it_is_used(distribute, tmp_path):
    entries = {"ftframe.datasets": {"table": "x_twin:build"}}
    twin = distribute("x-twin", entries, {"x_twin.py": MARK + WORKS})
    shown = run("--help", cwd=tmp_path, path=[twin])
    assert shown.returncode == 0
    assert "dataset table of x-twin 1.2: registered by ftframe " in shown.stdout
    assert run("fit", "--cfg", "job", cwd=tmp_path, path=[twin]).returncode == 0
    used = run("fit", "data=jsonl", "data.dataset.path=x.jsonl", cwd=tmp_path, path=[twin])
    assert used.returncode == 2
    assert "Two packages register the dataset 'table':" in used.stderr
    assert "x-twin 1.2 (x_twin:build)" in used.stderr and "(ftframe.data.datasets:table)" in used.stderr
    assert "FTFRAME_DISABLE_PLUGINS=x-twin" in used.stderr
    assert not list(tmp_path.rglob("imported"))


PEOPLE = "dataset: {name: people, size: 1}\n"


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        ("data/people.yaml", "the config data=people"),
        ("fit.yaml", "the config fit"),
        ("fit_schema.yaml", "the config fit_schema"),
        ("hydra/job_logging/none.yaml", "the config hydra/job_logging=none"),
    ],
)
def test_clashing_config_is_refused_by_what_composes(file, shown, distribute, tmp_path):
    conf = {"ftframe.conf": {"clash": "x_clash.conf"}}
    path = [distribute("x-clash", conf, {"x_clash/__init__.py": MARK, f"x_clash/conf/{file}": PEOPLE})]
    done = run("fit", "--cfg", "job", cwd=tmp_path, path=path)
    assert done.returncode == 2
    assert shown in done.stderr
    assert "x-clash 1.2 (" in done.stderr and file in done.stderr
    assert "FTFRAME_DISABLE_PLUGINS=x-clash" in done.stderr
    looked = run("--help", cwd=tmp_path, path=path)
    assert looked.returncode == 0, looked.stderr
    assert "x-clash 1.2: " in looked.stdout and "as well" in looked.stdout
    assert not list(tmp_path.rglob("imported"))


def test_clash_is_listed_and_can_be_left_out(distribute, tmp_path):
    conf = {"ftframe.conf": {"clash": "x_clash.conf"}}
    path = [distribute("x-clash", conf, {"x_clash/__init__.py": MARK, "x_clash/conf/data/people.yaml": PEOPLE})]
    listed = run("plugins", "--json", cwd=tmp_path, path=path)
    (row,) = [row for row in json.loads(listed.stdout) if row["distribution"] == "x-clash"]
    assert (row["kind"], row["name"], row["state"]) == ("config", "data=people", "broken")
    assert "ftframe" in row["reason"] and "has data/people as well" in row["reason"]
    typo = run("plugins", cwd=tmp_path, path=path, FTFRAME_DISABLE_PLUGINS="x-clsh")
    assert "FTFRAME_DISABLE_PLUGINS names what is not installed: x-clsh" in typo.stdout
    for disabled in ("X_Clash", "all"):
        again = run("fit", "--cfg", "job", cwd=tmp_path, path=path, FTFRAME_DISABLE_PLUGINS=disabled)
        assert (again.returncode, again.stderr) == (0, "")


def test_two_plugins_with_one_config_name_both(distribute, tmp_path):
    path = [
        distribute(
            f"x-{name}",
            {"ftframe.conf": {"c": f"x_{name}.conf"}},
            {f"x_{name}/__init__.py": "", f"x_{name}/conf/data/same.yaml": PEOPLE},
            version=version,
        )
        for name, version in (("one", "1.0"), ("two", "2.0"))
    ]
    done = run("fit", "--cfg", "job", cwd=tmp_path, path=path)
    assert done.returncode == 2
    assert "x-one 1.0 (" in done.stderr and "x-two 2.0 (" in done.stderr


def test_option_of_a_plugin_is_suggested(distribute, tmp_path):
    conf = {"x_new_conf/data/legal.yaml": PEOPLE}
    path = [distribute("x-new", {"ftframe.conf": {"new": "x_new_conf"}}, conf)]
    done = run("fit", "data=legall", "--cfg", "job", cwd=tmp_path, path=path)
    assert done.returncode == 2
    assert "Unknown option 'data=legall'. Did you mean 'legal'?" in done.stderr
    assert "legal" in done.stderr.partition("Options of data: ")[2]


def test_disabled_plugin_is_named_where_it_is_missed(distribute, tmp_path):
    entries = {**BAD, "ftframe.conf": {"bad": "x_bad_conf"}}
    path = [distribute("x-bad", entries, {"x_bad.py": WORKS, "x_bad_conf/data/bad.yaml": "dataset: {name: bad}\n"})]
    assert run("fit", "data=bad", "--cfg", "job", cwd=tmp_path, path=path).returncode == 0
    off = {"FTFRAME_DISABLE_PLUGINS": "x-bad"}
    done = run("fit", "data=bad", "--cfg", "job", cwd=tmp_path, path=path, **off)
    assert done.returncode == 2
    assert "Unknown option 'data=bad'." in done.stderr
    assert "Not searched: x-bad 1.2: FTFRAME_DISABLE_PLUGINS turns x-bad off." in done.stderr


@pytest.mark.parametrize(
    "flag", ["--config-dir=conf", "--config-dir conf", "-cd conf", "hydra.searchpath=[file://conf]"]
)
def test_folder_of_the_project(flag, tmp_path):
    folder = tmp_path / "conf" / "data"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(PEOPLE)
    flags = flag.replace("file://conf", f"file://{tmp_path}/conf").split()
    done = run("fit", *flags, "data=mine", "--cfg", "job", cwd=tmp_path, path=[])
    assert done.returncode == 0, done.stderr
    assert "    name: people\n    size: 1\n" in done.stdout
    (folder / "people.yaml").write_text(PEOPLE)
    done = run("fit", *flags, "data=mine", "--cfg", "job", cwd=tmp_path, path=[])
    assert done.returncode == 2
    assert "have the config data=people" in done.stderr and str(folder / "people.yaml") in done.stderr


def test_config_that_is_no_yaml_is_fatal_only_where_it_is_chosen(distribute, tmp_path):
    conf = {"ftframe.conf": {"bad": "x_bad.conf"}}
    path = [distribute("x-bad", conf, {"x_bad/__init__.py": MARK, "x_bad/conf/data/bad.yaml": "a: [\n"})]
    assert run("fit", "--cfg", "job", cwd=tmp_path, path=path).returncode == 0
    done = run("fit", "data=bad", "--cfg", "job", cwd=tmp_path, path=path)
    assert done.returncode == 2
    assert "bad.yaml" in done.stderr and "line 2" in done.stderr and "Traceback" not in done.stderr
