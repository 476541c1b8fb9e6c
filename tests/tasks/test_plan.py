"""`ftframe plan` as a user runs it."""

import contextlib
import io
import logging
import re
import socket
import sys

import pytest
import torch

from ftframe import choices
from ftframe.cli import main
from ftframe.gpus import GIBIBYTE, GPUS
from ftframe.models.memory import SETTINGS

EAGER = ("model=llama2", "model.compile=false")
TOO_LARGE = (*EAGER, "peft=lora", "gpu=RTX 4090", "data.max_length=1024", "data.batch_size=8", "memory=none")
PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "loss", "workspace")


def refuse(*arguments):
    raise OSError("a plan needs no network")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plan")


@pytest.fixture(scope="module")
def plan(folder):
    """Runs `ftframe plan` in this process, without a network: exit code, output and complaints."""
    patches = pytest.MonkeyPatch()
    patches.chdir(folder)
    patches.delenv("FTFRAME_RUN_DIR", raising=False)
    patches.setattr(socket.socket, "connect", refuse)

    def run(*overrides):
        patches.setattr(sys, "argv", ["ftframe", "plan", *overrides])
        handlers = list(logging.root.handlers)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
            main()
        logging.root.handlers[:] = handlers
        return int(left.value.code or 0), out.getvalue(), err.getvalue()

    yield run
    patches.undo()


def tables(printed):
    """The cells behind each row's name."""
    rows = [re.split("[│┃]", line)[1:-1] for line in printed.splitlines() if re.fullmatch("[│┃].*[│┃]", line)]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in rows}


def number(cell):
    return float(cell.replace(",", ""))


def remedies(printed):
    """The overrides after `What would:`."""
    lines = printed.partition("What would:")[2].splitlines()
    return [line.split("(")[0].split() for line in lines if line.startswith("  ")]


@pytest.fixture(scope="module")
def qlora(plan):
    code, printed, complaints = plan("model=llama2", "peft=qlora")
    assert code == 0, complaints
    return tables(printed)


@pytest.mark.slow
def test_the_model_is_known_without_its_weights(qlora):
    assert qlora["parameters"] == ["6,738,415,616"]
    assert qlora["trained"] == ["159,907,840 (2.32%)"]
    assert qlora["layers, hidden, vocabulary"] == ["32, 4096, 32000"]


@pytest.mark.slow
def test_memory_is_told_by_part_for_each_setting(qlora):
    assert [name.strip("[]") for name in qlora["GiB"]] == ["ample", "none", "budget", "checkpoint", "offload"]
    peaks = [number(cell) for cell in qlora["peak"]]
    assert peaks == sorted(peaks, reverse=True)
    for column, peak in enumerate(peaks):
        parts = [number(qlora[part][column]) for part in PARTS]
        assert max(parts) <= peak <= sum(parts) + 0.05
    ample, *others = (number(cell) for cell in qlora["weights"])
    assert all(3.2 < weights < 3.8 for weights in others)
    assert 12.0 < ample - others[0] < 12.1
    assert number(qlora["optimizer"][0]) == 0  # paged


@pytest.mark.slow
def test_less_memory_means_larger_batches_and_fewer_tokens_per_second(qlora):
    batches = [number(cell) for cell in qlora["largest data.batch_size"]]
    speeds = [number(cell) for cell in qlora["tokens per second"]]
    assert batches == sorted(batches) and batches[0] > 16
    assert speeds == sorted(speeds, reverse=True) and speeds[-1] > 0


@pytest.mark.slow
def test_every_gpu_is_told(qlora):
    assert qlora.keys() >= GPUS.keys()
    assert all(qlora[name][0] in (*SETTINGS, "too small") for name in GPUS)


@pytest.mark.slow
def test_the_run_is_told(qlora):
    assert qlora["tokens per optimizer step"] == ["1,024 (full rows, one device)"]
    assert qlora["tokens of the run"] == ["known with the data (ftframe preview)"]
    assert number(qlora["hours per million tokens"][0]) > 0
    assert qlora["download, GiB"] == ["about 12.6"]


@pytest.mark.slow
def test_no_run_folder_is_written(qlora, folder):
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("peft.r=0", "peft.r=0: the rank of an adapter is 1 or more"),
        ("peft.lora_dropout=1", "peft.lora_dropout=1: a share of at least 0 and below 1 is needed"),
        ("peft.lora_dropout=-0.5", "peft.lora_dropout=-0.5: a share of at least 0 and below 1 is needed"),
    ],
    ids=["rank", "all dropped", "negative dropout"],
)
def test_an_adapter_that_cannot_be_is_refused_as_a_run_refuses_it(plan, override, message):
    code, _, complaints = plan(*EAGER, "peft=lora", override)
    assert code == 2
    assert message in complaints


def test_full_fine_tuning_trains_everything(plan):
    code, printed, _ = plan(*EAGER, "peft=none", "quant=none")
    assert code == 0
    assert tables(printed)["trained"][0].endswith("(100.00%)")


@pytest.mark.slow
def test_an_adapter_that_the_compiler_cannot_take_is_planned_uncompiled(plan):
    code, printed, complaints = plan("model=llama2", "peft=dora", "quant=none")
    assert code == 0, complaints
    assert tables(printed)["planned for"][0].endswith("model.compile=false")


def test_devices_share_a_step(plan):
    arguments = (*EAGER, "peft=lora", "trainer.max_steps=100", "trainer.accumulate_grad_batches=4")
    _, alone, _ = plan(*arguments)
    _, shared, _ = plan(*arguments, "trainer.devices=8", "trainer.num_nodes=2")
    one, sixteen = tables(alone), tables(shared)
    assert sixteen["tokens per optimizer step"] == ["65,536 (full rows, 16 devices)"]
    assert sixteen["tokens of the run"] == ["6,553,600"]
    assert sixteen["hours of training"] == one["hours of training"]


@pytest.fixture
def unknown_gpu(monkeypatch):
    """A machine with a GPU that is not in the table, and without FP8."""
    monkeypatch.setattr(choices, "memory_of_device", lambda: 14.6 * GIBIBYTE)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))


def test_a_gpu_of_this_machine_that_is_not_known_is_planned_with_its_memory(plan, unknown_gpu):
    code, printed, complaints = plan(*EAGER, "peft=none")
    assert code == 0, complaints
    assert tables(printed)["planned for"] == ["Tesla T4, 14.6 GiB, model.compile=false"]
    assert printed.count("warning: how fast Tesla T4 is, is not known") == 1  # with a remedy that is planned anew
    assert "the speed of the L4" in printed and "of 14.6" in printed
    code, _, complaints = plan(*EAGER, "peft=lora", "quant=fp8")
    assert code == 2 and "Tesla T4 has no FP8" in complaints
    _, printed, _ = plan(*EAGER, "peft=lora", "gpu=H100")
    assert "warning" not in printed and tables(printed)["planned for"][0].startswith("H100, ")


def test_a_gpu_without_fp8_is_refused_and_told(plan):
    code, _, complaints = plan(*EAGER, "peft=lora", "quant=fp8", "gpu=A40")
    assert code == 2
    assert "A40 has no FP8" in complaints and "quant=4bit" in complaints and "H100" in complaints
    code, printed, _ = plan(*EAGER, "peft=lora", "quant=fp8", "gpu=L4")
    assert code == 0
    told = tables(printed)
    assert told["A100 80GB"] == ["no FP8", "-", "-"]
    assert told["H100"][0] != "no FP8"


def test_a_number_of_steps_gives_hours(plan):
    code, printed, _ = plan(*EAGER, "peft=lora", "trainer.max_steps=100", "trainer.accumulate_grad_batches=4")
    assert code == 0
    facts = tables(printed)
    assert facts["tokens of the run"] == ["409,600"]
    (speed,) = [
        number(cell)
        for name, cell in zip(facts["GiB"], facts["tokens per second"][-3:], strict=True)
        if name.startswith("[")
    ]
    assert number(facts["hours of training"][0]) == pytest.approx(409_600 / speed / 3600, abs=0.006)


@pytest.fixture(scope="module")
def too_large(plan):
    code, printed, complaints = plan(*TOO_LARGE)
    assert code == 0, complaints
    return printed


def test_what_does_not_fit_is_said(too_large):
    assert re.search(r"This does not fit: [\d.]+ GiB of 23.5", too_large)
    assert tables(too_large)["planned for"] == ["RTX 4090, 23.5 GiB, model.compile=false"]


def test_each_override_that_is_named_makes_it_fit(plan, too_large):
    found = remedies(too_large)
    assert [override.partition("=")[0] for (override,) in found] == ["memory", "data.batch_size", "data.max_length"]
    for overrides in found:
        code, printed, complaints = plan(*TOO_LARGE, *overrides)
        assert code == 0, complaints
        assert "This does not fit" not in printed, overrides


def test_a_base_in_4_bits_is_named_where_it_would_fit(plan):
    overrides = (*EAGER, "peft=lora", "gpu=L4", "data.max_length=512", "data.batch_size=1", "model.dtype=float32")
    assert ["quant=4bit"] in remedies(plan(*overrides)[1])
    assert "This does not fit" not in plan(*overrides, "quant=4bit")[1]


def test_a_checkpoint_in_plain_words_can_be_followed_by_another_setting(plan):
    overrides = (*EAGER, "peft=lora", "gpu=L4", "data.max_length=4096", "gradient_checkpointing=true")
    rows = tables(plan(*overrides)[1])["largest data.batch_size"]
    between = (*overrides, f"data.batch_size={(int(number(rows[1])) + int(number(rows[2]))) // 2}")
    found = remedies(plan(*between)[1])[0]
    assert found == ["memory=offload", "gradient_checkpointing=false"]
    code, printed, complaints = plan(*between[:-2], between[-1], *found)
    assert code == 0, complaints
    assert "This does not fit" not in printed


def test_all_weights_of_a_large_model_are_more_than_one_gpu_has(plan):
    code, printed, _ = plan(*EAGER, "peft=none", "gpu=RTX 4090")
    assert code == 0
    assert tables(printed)["trained"][0].startswith("6,738,415,616")
    assert remedies(printed) == [["peft=lora"]]
    code, printed, _ = plan(*EAGER, "peft=lora", "gpu=RTX 4090")
    assert code == 0
    assert "This does not fit" not in printed
    wide = (
        "model.config.num_hidden_layers=8",
        "model.config.hidden_size=32768",
        "model.config.intermediate_size=131072",
    )
    assert "a smaller model" in plan(*EAGER, "peft=none", "gpu=L4", *wide)[1]


PAIRS = {
    "weights": (("peft=none", "model.config.num_hidden_layers=160"), [{"peft", "quant"}]),
    "tokens": (
        ("peft=lora", "memory=none", "data.max_length=4096", "data.batch_size=16"),
        [
            {"quant", "data.max_length"},
            {"memory", "data.batch_size"},
            {"memory", "data.max_length"},
            {"data.batch_size", "data.max_length"},
        ],
    ),
}


@pytest.mark.parametrize(("overrides", "keys"), PAIRS.values(), ids=PAIRS)
def test_where_no_override_is_enough_two_are_named(plan, overrides, keys):
    typed = (*EAGER, "gpu=L4", *overrides)
    found = remedies(plan(*typed)[1])
    assert [{override.partition("=")[0] for override in pair} for pair in found] == keys
    for pair in found:
        code, printed, complaints = plan(*typed, *pair)
        assert code == 0, complaints
        assert "This does not fit" not in printed, pair


def test_the_longest_rows_of_a_task_are_planned_for(plan):
    typed = (*EAGER, "peft=qlora", "experiment=domain_adaptation", "data.packing=false", "data.max_length=256")
    few, many = (tables(plan(*typed, *further)[1]) for further in ((), ("+data.tasks.domain.max_length=4096",)))
    assert number(many["largest data.batch_size"][-1]) < number(few["largest data.batch_size"][-1]) / 10


def test_a_base_in_fp8_takes_half(plan):
    code, printed, complaints = plan(*EAGER, "peft=lora", "quant=fp8", "gpu=H100")
    assert code == 0, complaints
    assert 6.2 < number(tables(printed)["weights"][1]) < 6.7


REFUSED = {
    "unknown gpu": (("gpu=RTX4090",), "Did you mean 'RTX 4090'?"),
    "key": (("optim.lrr=1",), "optim.lrr"),
    "key of its own": (("gpus=H100",), "gpu"),
    "group": (("peft=lorra",), "lorra"),
    "setting": (("memory=checkpoints",), "memory"),
    "contradiction": (("memory=offload", "gradient_checkpointing=true"), "memory=offload"),
    "budget without a compiler": (("memory=budget", "model.compile=false"), "model.compile"),
    "compile": (("model.compile=maybe",), "model.compile=maybe"),
}


@pytest.mark.parametrize(("overrides", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_with_the_name_of_the_key(plan, folder, overrides, message):
    code, _, complaints = plan("model=llama2", "peft=lora", *overrides)
    assert code == 2
    assert message in complaints
    assert list(folder.iterdir()) == []
