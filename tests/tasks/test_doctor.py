"""`ftframe doctor`: its lines, its exit code, and the checks of disk and hub."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

import ftframe
from ftframe.installation import Check
from ftframe.tasks import doctor as module
from ftframe.tasks.doctor import doctor

NAMES = [
    "python",
    "packages",
    "known bad",
    "torch build",
    "bitsandbytes",
    "bf16",
    "fp8",
    "memory",
    "outputs",
    "hub cache",
    "hub token",
    "datasets",
    "prompt templates",
    "metrics",
]


def good() -> Check:
    return Check("good", "ok", "fine")


def odd() -> Check:
    return Check("odd", "warn", "not so\n  fine [red]as it was[/red]", "mend --it")


def bad() -> Check:
    return Check("bad", "fail", "broken", "mend --all")


def raising() -> Check:
    raise ZeroDivisionError("by nought\nsecond line")


def lacking() -> Check:
    import no_such_module.part  # type: ignore[import-not-found]  # noqa: F401

    return good()


def noisy() -> Check:
    print("printed")
    print("printed to stderr", file=sys.stderr)
    os.write(1, b"written")
    os.write(2, b"written to stderr")
    logging.getLogger("noisy").error("logged")
    warnings.warn("warned", stacklevel=1)
    return good()


def noisy_and_raising() -> Check:
    noisy()
    return raising()


@pytest.mark.parametrize(
    ("checks", "code"),
    [
        ([good], 0),
        ([good, odd], 0),
        ([bad], 2),
        ([bad, good], 2),
        ([good, odd, raising], 2),
        ([lacking, good], 2),
    ],
)
def test_exit_code(checks: list, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(module, "CHECKS", tuple(checks))
    assert doctor() == code
    assert len(capsys.readouterr().out.splitlines()) == len(checks)


def test_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(module, "CHECKS", (good, odd, bad, raising, lacking))
    doctor()
    assert capsys.readouterr().out.splitlines() == [
        "✔ good              fine",
        "! odd               not so fine [red]as it was[/red] -> mend --it",
        "✘ bad               broken -> mend --all",
        "✘ raising           ZeroDivisionError: by nought -> pip check",
        "✘ lacking           ModuleNotFoundError: No module named 'no_such_module' -> pip install no_such_module",
    ]


@pytest.mark.parametrize(("check", "mark"), [(good(), "+"), (odd(), "!"), (bad(), "x")])
def test_marks_of_a_terminal_without_unicode(check: Check, mark: str) -> None:
    shown = module.line(check, ascii_only=True).plain
    assert shown.startswith(f"{mark} ")
    assert shown.isascii()


@pytest.mark.parametrize(
    ("checks", "lines"),
    [
        ("noisy, good", ["✔ good              fine"] * 2),
        (
            "noisy_and_raising, good",
            ["✘ noisy and raising ZeroDivisionError: by nought -> pip check", "✔ good              fine"],
        ),
    ],
)
def test_libraries_cannot_spoil_the_output(checks: str, lines: list[str]) -> None:
    code = (
        f"import sys; from test_doctor import module, good, noisy, noisy_and_raising\nmodule.CHECKS = ({checks})\n"
        "module.doctor()\n"
        "print('afterwards'); print('afterwards', file=sys.stderr)"
    )
    done = run_python(code, path=Path(__file__).parent)
    assert done.stdout.splitlines() == [*lines, "afterwards"]
    assert done.stderr == "afterwards\n"


def run_python(code: str, *, path: Path) -> subprocess.CompletedProcess[str]:
    root = Path(ftframe.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{root}", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_real_run(tmp_path: Path) -> None:
    info = tmp_path / "loud_rows-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud-rows\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[ftframe.api]\nv1 = loud_rows\n[ftframe.datasets]\nloud = loud_rows:build\n"
    )
    (tmp_path / "loud_rows.py").write_text("import sys\nprint('LOUD')\nprint('LOUD', file=sys.stderr)\nbuild = dict\n")
    done = run_python("import sys; from ftframe.tasks.doctor import doctor; sys.exit(doctor())", path=tmp_path)
    assert [line[2:20].strip() for line in done.stdout.splitlines()] == NAMES
    assert done.returncode == 0, done.stdout
    assert "✘" not in done.stdout
    assert "loud (loud-rows 1.0)" in done.stdout
    assert "LOUD" not in done.stdout
    assert done.stderr == ""


def test_checks_bear_the_names_of_their_functions() -> None:
    """A check that raises is shown under the name that it has when it does not."""
    assert [examine.__name__.replace("_", " ") for examine in module.CHECKS] == NAMES


def test_doctor_does_not_import_torch_before_it_runs() -> None:
    code = (
        "import sys, ftframe.tasks.doctor; print(sorted({'torch', 'bitsandbytes', 'transformers'} & set(sys.modules)))"
    )
    assert run_python(code, path=Path(__file__).parent).stdout == "[]\n"


def disk(monkeypatch: pytest.MonkeyPatch, *, free: float) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=int(free * module.GIB)))


@pytest.mark.parametrize(
    ("free", "outputs", "cache"), [(0.0, "fail", "warn"), (0.99, "fail", "warn"), (1, "warn", "warn"), (20, "ok", "ok")]
)
def test_disk(free: float, outputs: str, cache: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none" / "yet"))
    disk(monkeypatch, free=free)
    for check, state in ((module.outputs(), outputs), (module.hub_cache(), cache)):
        assert check.state == state
        assert str(tmp_path) in check.detail
        assert f"{free:.1f} GiB free" in check.detail
        assert bool(check.remedy) == (state != "ok")
    assert module.outputs().detail.startswith(str(tmp_path / "outputs"))


def test_a_folder_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disk(monkeypatch, free=100)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert {module.outputs().state, module.hub_cache().state} == {"ok"}
    monkeypatch.setattr("os.access", lambda folder, mode: False)
    assert (module.outputs().state, module.hub_cache().state) == ("fail", "warn")
    assert f"{tmp_path} cannot be written to" in module.outputs().detail


def test_a_file_in_the_place_of_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disk(monkeypatch, free=100)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").touch()
    assert module.outputs().state == "fail"


@pytest.mark.parametrize(
    ("token", "offline", "state", "detail"),
    [
        ("hf_secret", False, "ok", "present"),
        ("hf_secret", True, "ok", "present, offline (HF_HUB_OFFLINE)"),
        (None, True, "ok", "none, offline (HF_HUB_OFFLINE)"),
        (None, False, "warn", "none: gated models"),
    ],
)
def test_hub_token(token: str | None, offline: bool, state: str, detail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    check = module.hub_token()
    assert check.state == state
    assert detail in check.detail
    assert "hf_secret" not in f"{check}"
    assert check.remedy == ("" if state == "ok" else "hf auth login")
