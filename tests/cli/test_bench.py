"""`helium-jax bench`: options in, cases out; the engine itself is tested where it lives."""

import click
import pytest
from click.testing import CliRunner

from helium_jax.cli import bench as module
from helium_jax.cli.main import cli


def test_is_a_command_with_help():
    result = CliRunner().invoke(cli, ["bench", "--help"])
    assert result.exit_code == 0
    assert "--quick" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "z"], "'z' is not one of 'a', 'b', 'c', 'd', 'e'"),
        (["--workload", "chess"], "'chess' is not one of"),
        (["--policy", "fastest"], "'fastest' is not one of"),
        (["--scale", "2"], "2.0 is not in the range"),
    ],
)
def test_wrong_choices_are_named(arguments, message):
    result = CliRunner().invoke(module.bench, arguments)
    assert result.exit_code == click.UsageError.exit_code
    assert message in result.output.replace("\n", " ")


def test_the_gap_table_needs_no_engine(monkeypatch):
    few = dict([*module.WORKFLOWS.items()][:1])
    monkeypatch.setattr(module, "WORKFLOWS", few)
    monkeypatch.setattr(module, "NUM_GRAPHS", 3)
    monkeypatch.setattr(module, "open_runtime", None)
    result = CliRunner().invoke(module.bench, ["--table", "d"])
    assert result.exit_code == 0, result.output
    assert "3 random graphs" in result.output
    assert "149.2" in result.output
