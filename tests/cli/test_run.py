"""helium-jax run and explain: files in, files out, and one clear error for what is wrong."""

import contextlib
import io
import json
import sys

import pytest

from helium_jax.cli import run as run_module
from helium_jax.cli.main import main
from helium_jax.errors import RequestError
from helium_jax.runtime import Runtime
from helium_jax.testing import FakeGenerator, FakeText

PLAN = """
version: helium/v1
name: two-steps
inputs: {q: {type: text}}
params: {tone: {type: text, default: calm}, most: {type: int, default: 3, max: 5}}
ops:
  draft: {type: llm.chat, system: "Be {{tone}}, {{most}} times.", user: "{{q}}", max_tokens: 8}
  final: {type: llm.completion, prompt: "Improve: {{draft}}", max_tokens: 8}
  spare: {type: template, template: "{{q}}"}
outputs: {final: final, draft: draft}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A plan, three rows and a fake engine, which is kept under the name `generators`."""
    (tmp_path / "plan.yaml").write_text(PLAN)
    rows = [{"q": "one"}, {"q": "two"}, {"q": "one"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def generators(monkeypatch):
    made = []

    @contextlib.asynccontextmanager
    async def open_fake(model, config, *, num_workers, progress):
        generator = FakeGenerator(
            fail=lambda request, _: (
                (RequestError("refused", code="refused") if b"two" in prompt(request) else None)
                if model == "refuses-two"
                else None
            )
        )
        made.append(generator)
        yield Runtime(name=model, generator=generator, text=FakeText())

    monkeypatch.setattr(run_module, "open_runtime", open_fake)
    return made


def prompt(request):
    return bytes(i for i in request.token_ids if i < 256)


def results(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


RUN = ("run", "plan.yaml", "--input", "rows.jsonl", "--output", "out.jsonl")


def test_a_plan_runs_over_rows_from_a_file_into_a_file(folder, generators, capsys):
    assert main(RUN) == 0
    out = results(folder / "out.jsonl")
    assert [line["row"] for line in out] == [0, 1, 2]
    assert out[0]["outputs"] == out[2]["outputs"] != out[1]["outputs"]
    assert [*out[0]["outputs"]] == ["final", "draft"]
    assert len(generators[0].requests) == 4
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "plan.ops.spare: no output needs it" in shown.err
    assert "completed: 3 rows, 0 failed" in shown.err
    assert "calls: 4 made, 2 served by equal ones" in shown.err


def test_the_naive_mode_gives_the_same_results_with_more_work(folder, generators):
    assert main(RUN) == 0
    fast = (folder / "out.jsonl").read_bytes()
    assert main([*RUN, "--naive"]) == 0
    assert (folder / "out.jsonl").read_bytes() == fast
    assert [len(g.requests) for g in generators] == [4, 6]
    assert generators[1].max_running == 1


def test_results_go_to_stdout_when_no_file_is_named(folder, generators, capsys):
    assert main(["run", "plan.yaml", "--input", "rows.jsonl"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_wrong_row_from_stdin_is_named_so(folder, generators, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"q": "x"}\nq\n')))
    assert main(["run", "plan.yaml", "--input", "-"]) == 2
    assert "error: stdin line 2 is not JSON" in capsys.readouterr().err


def test_parameters_reach_the_prompts(folder, generators):
    assert main([*RUN, "--param", "tone=wild", "--param", "most=5"]) == 0
    assert b"Be wild, 5 times." in prompt(generators[0].requests[0])


def test_failed_rows_are_in_the_output_and_in_the_exit_code(folder, generators, capsys):
    assert main([*RUN, "--model", "refuses-two"]) == 1
    out = results(folder / "out.jsonl")
    assert ["errors" in line for line in out] == [False, True, False]
    assert out[1]["outputs"] == {"final": None, "draft": None}
    assert out[1]["errors"] == [{"operator": "draft", "code": "refused", "message": "refused"}]
    assert "rows[1], operator draft: refused" in capsys.readouterr().err


def test_a_row_with_a_value_of_the_wrong_type_fails_alone(folder, generators, capsys):
    (folder / "types.jsonl").write_text('{"q": "x"}\n{"q": 3}\n')
    assert main(["run", "plan.yaml", "--input", "types.jsonl", *RUN[4:]]) == 1
    assert "rows[1], operator q: column 'q' must be text, not the" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "none.yaml"], "cannot read the plan 'none.yaml': No such file"),
        (["run", "plan.yaml"], "the plan has inputs (q); give rows with --input"),
        (["run", "plan.yaml", "--input", "none.jsonl"], "cannot read the rows 'none.jsonl'"),
        (["run", "plan.yaml", "--input", "bad.jsonl"], "bad.jsonl line 2 is not JSON"),
        (["run", "plan.yaml", "--input", "list.jsonl"], "list.jsonl line 1 must be an object"),
        (
            ["run", "plan.yaml", "--input", "extra.jsonl"],
            "rows[0] has the column 'z'; inputs are q",
        ),
        ([*RUN, "--output", "none/out.jsonl"], "its folder does not exist"),
        ([*RUN, "--output", "."], "it is a folder"),
        ([*RUN, "--timeline", "none/run.svg"], "its folder does not exist"),
        ([*RUN, "--naive", "--policy=lspf"], "--naive decides --policy itself"),
        ([*RUN, "--naive", "--strict-order"], "--naive decides --strict-order itself"),
        (["explain", "plan.yaml", "--analyze", "--timeline=none/x.svg"], "folder does not exist"),
        (["explain", "plan.yaml", "--stage=physical", "--format=json"], "json has all of them"),
        ([*RUN, "--param", "tone"], "--param 'tone' must be name=value"),
        ([*RUN, "--param", "most=x"], "--param most: 'x' must be a whole number"),
        ([*RUN, "--param", "most=9"], "params.most: 9 is more than max=5"),
        ([*RUN, "--param", "most=1", "--param", "most=2"], "--param most is given twice"),
        ([*RUN, "--param", "ton=x"], "did you mean 'tone'?"),
        (["run", "cycle.yaml"], "a -> b -> a"),
        (["explain", "cycle.yaml"], "a -> b -> a"),
        (["explain", "none.yaml"], "cannot read the plan"),
        (["explain", "plan.yaml", "--format", "xml"], "'xml' is not one of"),
    ],
)
def test_wrong_input_is_one_clear_error_before_any_model_is_loaded(
    folder, generators, capsys, args, message
):
    (folder / "bad.jsonl").write_text('{"q": "x"}\n{"q": }\n')
    (folder / "list.jsonl").write_text("[1]\n")
    (folder / "extra.jsonl").write_text('{"q": "x", "z": 1}\n')
    (folder / "cycle.yaml").write_text(
        "version: helium/v1\nops:\n  a: {type: template, template: '{{b}}'}\n"
        "  b: {type: template, template: '{{a}}'}\noutputs: {o: a}\n"
    )
    assert main(args) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert generators == []


def test_a_cache_file_that_cannot_be_used_is_a_warning_in_one_line(folder, generators, capsys):
    (folder / "state").mkdir()
    (folder / "state" / "outputs.sqlite").write_text("no database, but a text of some length")
    assert main([*RUN, "--state-dir", "state"]) == 0
    lines = capsys.readouterr().err.splitlines()
    [line] = [line for line in lines if "outputs.sqlite" in line]
    assert line.startswith("helium-jax: warning: output cache ")
    assert "going on in memory" in line
    assert "" not in lines  # a bar that nobody watches leaves nothing


def test_a_reader_that_has_seen_enough_is_no_error(folder, generators, capsys, monkeypatch):
    def gone(*args):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(run_module.click, "open_file", gone)
    monkeypatch.setattr(run_module, "rows_of", lambda plan, file: [{"q": "x"}])
    for stream in ("stdout", "stderr"):  # click wraps them, for flushing at the exit
        monkeypatch.setattr(sys, stream, getattr(sys, stream))
    with pytest.raises(SystemExit, match="1"):
        main(["run", "plan.yaml"])
    assert "Broken pipe" not in capsys.readouterr().err


def test_explain_takes_what_earlier_runs_have_shown(folder, generators, model_folder, capsys):
    assert main([*RUN, "--state-dir", "state"]) == 0
    args = ["explain", "plan.yaml", "--format=json", "--model", str(model_folder)]
    capsys.readouterr()

    def output_tokens(*more):
        assert main([*args, *more]) == 0
        operators = json.loads(capsys.readouterr().out)["operators"]
        return operators["draft"]["estimate"]["output_tokens"]

    assert output_tokens("--state-dir", "none") == output_tokens() == 8
    assert not (folder / "none").exists()
    assert output_tokens("--state-dir", "state") < 8


def test_profiles_says_when_there_are_none(folder, capsys):
    assert main(["profiles", "--state-dir", str(folder)]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "no run has left a profile" in shown.err


def test_explain_shows_the_stages(folder, model_folder, capsys):
    args = ["explain", "plan.yaml", "--input", "rows.jsonl", "--model", str(model_folder)]
    assert main(args) == 0
    out = capsys.readouterr().out
    assert "rows=3, calls<=6" in out.splitlines()[1]
    assert "  ->  Completion final  (rows=3, greedy, max_tokens=8, calls=" in out
    assert "Template spare  (never executed)" in out
    assert "worker 0, inner sequences row by row:" in out
    assert main([*args, "--stage=optimized"]) == 0
    assert capsys.readouterr().out.startswith("Optimized")
    assert main([*args, "--disable=merge"]) == 2
    assert "'merge' is not one of" in capsys.readouterr().err
    assert main([*args, "--timeline=x.svg"]) == 2
    assert "add --analyze" in capsys.readouterr().err


def test_explain_counts_the_shared_prefix(folder, model_folder, capsys):
    args = ["explain", "plan.yaml", "--format=json", "--model", str(model_folder)]

    def static_tokens(name, *more):
        assert main([*args, *more]) == 0
        operators = json.loads(capsys.readouterr().out)["operators"]
        return operators[name]["estimate"]["static_tokens"]

    assert static_tokens("final") > 0
    assert static_tokens("draft", "--param", "tone=calm and then some") > static_tokens("draft")


def test_explain_analyze_runs_the_plan_and_draws_it(folder, model_folder, capsys):
    engine = ("--page-size=16", "--num-pages=64", "--max-seqs=4", "--max-batched-tokens=16")
    rows = ("--input", "rows.jsonl", "--model", str(model_folder))
    args = ["explain", "plan.yaml", "--deterministic", *rows, *engine]
    assert main([*args, "--analyze", "--timeline=run.svg", "--state-dir=state"]) == 0
    assert "(actual values=3 calls=" in capsys.readouterr().out
    assert (folder / "run.svg").read_text().startswith("<svg")

    def scheduled(*more):
        assert main([*args, "--format=json", "--cost-model=roofline", *more]) == 0
        return json.loads(capsys.readouterr().out)["scheduled"]

    # That engine was measured: times are its seconds. Of another one nothing is known.
    assert scheduled("--state-dir=state")["cost_model"] == "roofline"
    assert 0 < scheduled("--state-dir=state")["seconds"] < 60
    assert scheduled()["cost_model"] == "token_step"
    assert scheduled("--state-dir=state", "--workers=2")["cost_model"] == "token_step"


def test_a_plan_runs_on_a_real_engine_and_naively_with_the_same_outputs(folder, model_folder):
    engine = ("--page-size=16", "--num-pages=64", "--max-seqs=4", "--max-batched-tokens=16")
    args = [*RUN, "--model", str(model_folder), "--deterministic", *engine]
    assert main(args) == 0
    fast = (folder / "out.jsonl").read_bytes()
    assert main([*args, "--naive"]) == 0
    assert (folder / "out.jsonl").read_bytes() == fast


def test_a_state_folder_keeps_answers_and_profiles_between_runs(folder, generators, capsys):
    assert main([*RUN, "--state-dir=state", "--sample=1"]) == 0
    first = (folder / "out.jsonl").read_bytes()
    assert len(generators[0].requests) == 4  # those of the sample are not made again
    assert main([*RUN, "--state-dir=state"]) == 0
    assert (folder / "out.jsonl").read_bytes() == first
    assert generators[1].requests == []
    capsys.readouterr()
    assert main(["profiles", "--state-dir=state"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    plan_id = line.split()[0]
    assert "two-steps" in line
    assert main(["profiles", "--state-dir=state", "--plan", plan_id]) == 0
    assert "draft  calls=" in capsys.readouterr().out
    assert main(["profiles", "--state-dir=state", "--forget", plan_id]) == 0
    assert main(["profiles", "--state-dir=state", "--plan", plan_id]) == 2
    assert "there is no profile" in capsys.readouterr().err


def test_an_answer_is_not_taken_from_the_output_cache_when_that_is_off(folder, generators):
    assert main([*RUN, "--state-dir=state"]) == 0
    assert main([*RUN, "--state-dir=state", "--no-output-cache"]) == 0
    assert [len(generator.requests) for generator in generators] == [4, 4]
