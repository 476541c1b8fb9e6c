"""`ftframe <command> [overrides]`."""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from ftframe import __version__
from ftframe.errors import FtframeError, Interrupted, did_you_mean
from ftframe.redaction import learn_override, redact_text

CONFIGURED = {
    "fit": "train an adapter or a whole model, and measure it before and after",
    "preview": "show what the model would learn from: examples with their masks, and figures of the data",
    "plan": "reckon memory, speed, time and disk of a run before anything is downloaded or loaded",
    "evaluate": "measure a finished run on its own or on other data",
    "predict": "answer prompts with a finished run",
}
"""Commands that take Hydra overrides; each has a file of its name in `conf/` and in `ftframe/tasks/`."""

PLAIN = {
    "doctor": "check that this machine can train",
    "leaderboard": "rank the trials of a sweep, or of several: leaderboard outputs/multirun/<sweep>",
    "plugins": "list what is installed, start a plugin (plugins new NAME), check one (plugins check NAME)",
}
"""Commands with arguments of their own."""

USAGE = f"""ftframe {__version__}: fine-tune a language model from a configuration.

usage: ftframe <command> [group=option] [key=value]

{{commands}}

config groups (details: ftframe fit --help):
{{groups}}

names for data.dataset.name, data.template.name and metrics (details: ftframe plugins):
{{names}}
{{troubles}}
examples:
  ftframe fit                                  train the embedded model on the embedded data
  ftframe fit peft=lora optim.lr=1e-3          change a group and a key
  ftframe fit experiment=fine_tune_llama_2     a whole recipe
  ftframe fit --cfg job                        print the configuration and stop
"""

_REFERENCE = re.compile(r"(\\*)\$\{")
_QUOTED = re.compile(r"""(['"])(?:\\.|(?!\1)[^\\])*\1""", re.DOTALL)
_QUOTE_OR_END = re.compile(r'(\\*)("|\Z)')


def main() -> None:
    """Run the command line and leave with the exit code of its outcome; 1 where nobody reads on, as behind `head`."""
    for argument in sys.argv[1:]:
        learn_override(argument)
    code = _outcome()
    sys.exit(1 if _reader_is_gone() else code)


def _outcome() -> Any:
    """Run the command line, say what went wrong, and return the exit code."""
    try:
        return _dispatch(sys.argv[1:])
    except (FtframeError, Interrupted) as error:
        if os.environ.get("FTFRAME_TRACEBACK"):
            _print_traceback()
        print(redact_text(f"error: {error}"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except SystemExit as leaving:
        return _exit_code(leaving)
    except Exception as error:
        if not (isinstance(error, BrokenPipeError) and _reader_is_gone(last="\n")):
            _print_traceback()
        return 1


def _reader_is_gone(last: str = "") -> bool:
    """Whether the pipe that is printed to was closed at its other end; what is left to print is dropped then.

    Args:
        last: Is printed to find out; with nothing, only what still waits to be printed tells.
    """
    try:
        print(last, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _print_traceback() -> None:
    print(redact_text(traceback.format_exc()), end="", file=sys.stderr)


def _exit_code(leaving: SystemExit) -> Any:
    """Lightning leaves with 1 after Ctrl-C and with 0 after SIGTERM; a shell and a scheduler expect 130 and 143."""
    if isinstance(leaving.__context__, KeyboardInterrupt):
        return 130
    return 143 if type(leaving).__name__ == "SIGTERMException" else leaving.code


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    if arguments[0].startswith("-") and not arguments[0].startswith("--config-name="):
        arguments = [_completed_command() or "fit", *arguments]  # flags of Hydra's own: shell completion
    if arguments[0] in PLAIN:
        return int(_task(arguments[0])(arguments[1:]))
    return _run_configured(arguments)


def _completed_command() -> str | None:
    """The command of the line that a shell is completing; taken out of that line, which Hydra takes for overrides."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    if len(words) < 3 or words[1] not in CONFIGURED:
        return None
    os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
    os.environ["COMP_POINT"] = str(int(os.environ.get("COMP_POINT", "0")) - len(words[1]) - 1)
    return words[1]


def _run_configured(arguments: list[str]) -> int:
    from ftframe import compose
    from ftframe.resumption import with_overrides_of_run
    from ftframe.sweep import multirun, trial

    command = arguments[0].removeprefix("--config-name=")
    if command not in CONFIGURED:
        raise _unknown_command(command)
    frozen = trial.load_frozen(arguments[1:])
    if frozen is not None:
        _execute(command, frozen)
        return 0
    # Lightning starts the other ranks from sys.argv, so the command has to stay in it, in Hydra's own spelling.
    overrides = [_quote_prompt(argument) for argument in arguments[1:]]
    if command == "fit":
        overrides = with_overrides_of_run(overrides)
    sys.argv[1:] = [f"--config-name={command}", *overrides]
    multirun.register()
    compose.run(lambda cfg: _execute(command, cfg), command)
    return _run_sweep() if multirun.MultirunSweeper.planned else 0


def _run_sweep() -> int:
    """Run what `-m` planned. Imported only now: a single run needs none of it."""
    from ftframe.sweep.run import run_planned

    return run_planned()


def _execute(command: str, cfg: Any) -> None:
    """Show the config at once, then import the plugins that it names, then the libraries, and run."""
    from ftframe import compose, console
    from ftframe.out_of_memory import explain_out_of_memory, is_out_of_memory

    console.capture_library_logs()
    console.print_config(cfg)
    compose.check_names(cfg)
    task = _task(command)
    console.quieten_libraries()
    try:
        task(cfg)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise explain_out_of_memory(error, cfg) from error


def _task(command: str) -> Any:
    return getattr(importlib.import_module(f"ftframe.tasks.{command}"), command)


def _unknown_command(command: str) -> FtframeError:
    from ftframe.errors import ConfigError

    names = [*CONFIGURED, *PLAIN]
    return ConfigError(f"Unknown command '{command}'.{did_you_mean(command, names)}\nCommands: {', '.join(names)}.")


def _quote_prompt(argument: str) -> str:
    """Keep the commas, colons and quotes of a prompt or a URL out of Hydra's grammar."""
    key, equals, value = argument.partition("=")
    if key not in ("prompt", "system", "sweep.storage") or not equals or value == "null" or _QUOTED.fullmatch(value):
        return argument
    value = _REFERENCE.sub(lambda found: found[1] * 2 + "\\${", value)  # text, not a reference to another key
    # Hydra reads backslashes in quotes as they are, except before a quote, where each is doubled.
    escaped = _QUOTE_OR_END.sub(lambda found: found[1] * 2 + ("\\" + found[2] if found[2] else ""), value)
    return f'{key}="{escaped}"'


def _usage() -> str:
    from ftframe.compose import groups
    from ftframe.registry import REGISTRIES
    from ftframe.survey import troubles

    names = {kind: registry.names() for kind, registry in REGISTRIES.items()}
    left_out = "".join(f"  {trouble}\n" for trouble in troubles())
    return USAGE.format(
        commands=_table({**CONFIGURED, **PLAIN}),
        groups=_table({group: ", ".join(options) for group, options in groups().items()}),
        names=_table({kind: ", ".join(given) for kind, given in names.items()}),
        troubles=f"\nplugins that cannot be used:\n{left_out}" if left_out else "",
    )


def _table(rows: Mapping[str, str]) -> str:
    width = max(map(len, rows)) + 2
    return "\n".join(f"  {name:<{width}}{text}" for name, text in rows.items())
