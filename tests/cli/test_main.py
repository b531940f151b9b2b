"""The command group: fast help, lazy commands, one line per error."""

import subprocess
import sys
from importlib.metadata import version

import click
import pytest

from helium_jax.cli import main as main_module
from helium_jax.cli.main import COMMANDS, main
from helium_jax.errors import CapacityError, InternalError, PlanError, Problem, RequestError


def test_help_lists_commands_without_importing_them(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in ("serve", "chat", "doctor", "convert"):
        assert name in out


def test_help_imports_no_jax_and_no_aiohttp():
    code = (
        "import sys; from helium_jax.cli.main import main; main(['--help']); "
        "sys.exit(bool({'jax', 'aiohttp', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert version("helium-jax") in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_installed_command_has_help(name, capsys):
    if name not in main_module.cli.list_commands(click.Context(main_module.cli)):
        assert main([name]) == 2
        return
    assert main([name, "--help"]) == 0
    assert "Usage: helium-jax" in capsys.readouterr().out


@pytest.mark.parametrize("args", [["nonsense"], ["serve", "--port", "x"], ["serve", "--what"]])
def test_wrong_usage_is_exit_code_2(args, capsys):
    assert main(args) == 2
    assert "Error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RequestError("no such model 'x'"), 2, "no such model 'x'"),
        (PlanError([Problem(path="plan.ops", message="empty")]), 2, "plan.ops: empty"),
        (ValueError("bad tensor"), 2, "bad tensor"),
        (FileNotFoundError(2, "No such file", "a.yaml"), 2, "a.yaml: No such file"),
        (FileNotFoundError("model folder x does not exist"), 2, "model folder x does not exist"),
        (CapacityError("full"), 1, "full"),
        (InternalError("oops"), 1, "oops"),
        (KeyboardInterrupt(), 130, "helium-jax: interrupted"),
        (click.Abort(), 130, "helium-jax: interrupted"),
    ],
)
def test_errors_are_told_without_a_traceback(monkeypatch, capsys, error, code, line):
    @click.command()
    def broken():
        raise error

    monkeypatch.setattr(main_module, "cli", broken)
    assert main([]) == code
    captured = capsys.readouterr()
    assert line in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    if code != 130:
        assert captured.err.startswith("helium-jax: error: ")


def test_a_commands_number_is_the_exit_code(monkeypatch):
    @click.command()
    def three():
        return 3

    monkeypatch.setattr(main_module, "cli", three)
    assert main([]) == 3


def test_ctrl_c_beneath_a_compiling_engine_ends_the_process_without_waiting():
    code = """
import sys, threading
import click
from helium_jax.cli import main as module

@click.command()
def compiling():
    # A thread that is no daemon stands for XLA: Python would wait for it for ever.
    threading.Thread(target=threading.Event().wait, name="helium-engine-0").start()
    raise KeyboardInterrupt

module.cli = compiling
sys.exit(module.main([]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.strip()) == (130, "helium-jax: interrupted")
