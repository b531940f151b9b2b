"""The same work on the same weights by us and by others, in rounds that alternate.

    python -m bench.make_model runs/110m
    python -m bench.bench_peers --model runs/110m --transformers \\
        --openvino runs/110m-openvino --openvino-python <its environment>/bin/python \\
        --openai vllm=http://127.0.0.1:8001,110m

Every implementation is a process of its own; only one works at a time. Ratios are the peer's
seconds over ours, the median of the rounds: above 1 we are faster.
"""

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.harness import Answer, Recorder, Worker, open_worker, summarise
from bench.workloads import SCALES, Case, MakeCase
from helium_jax.experiments.environment import load_average

OURS = "helium"
# Fields of the results by (case, implementation).
Table = dict[tuple[str, str], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """How to start one.

    Attributes:
        name: as in the results.
        adapter: key of worker.ADAPTERS.
        model: folder it loads.
        options: of the adapter.
        python: interpreter of its environment.
    """

    name: str
    adapter: str
    model: str
    options: dict[str, Any]
    python: str = sys.executable


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far two greedy outputs of the same calls are the same.

    Attributes:
        equal_calls: share of calls with equal outputs.
        equal_tokens: share of tokens before the first difference of their call.
    """

    equal_calls: float
    equal_tokens: float


def compare(ours: Answer, theirs: Answer) -> Agreement | None:
    """None where one of them tells no token ids. Near ties may differ by rounding, and a workflow's
    later calls differ as soon as one input did."""
    equal_calls = equal_tokens = num_tokens = 0
    for key, mine in ours.outputs.items():
        other = theirs.outputs[key]
        if mine is None or other is None:
            return None
        pairs = zip(mine, other, strict=True)
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(mine))
        equal_calls += same == len(mine)
        equal_tokens += same
        num_tokens += len(mine)
    return Agreement(
        equal_calls=equal_calls / len(ours.outputs), equal_tokens=equal_tokens / num_tokens
    )


def measure(
    recorder: Recorder, workers: Sequence[Worker], make: MakeCase, *, rounds: int, vocab_size: int
) -> Table:
    """Runs one case on all workers in alternating order and records rates, ratios, agreement."""
    load = load_average()
    case: Case = make(vocab_size, 0)
    active = []
    for worker in workers:  # to warm up, and to learn who can do it
        try:
            worker.run(case.calls)
        except RuntimeError as error:
            recorder.record(case.name, worker.name, skipped=str(error))
        else:
            active.append(worker)
    answers: dict[str, list[Answer]] = {worker.name: [] for worker in active}
    for turn in range(rounds):
        case = make(vocab_size, turn + 1)
        shift = turn % max(len(active), 1)
        for worker in [*active[shift:], *active[:shift]]:
            answers[worker.name].append(worker.run(case.calls))
    ours = answers.get(OURS, [])
    table: Table = {}
    for name, theirs in answers.items():
        seconds = [answer.wall_s for answer in theirs]
        fields: dict[str, Any] = summarise(seconds)
        fields["tokens_per_s"] = case.counted_tokens / fields["median_s"]
        if name != OURS and ours:
            pairs = [*zip(ours, theirs, strict=True)]
            fields["ratio"] = statistics.median(b.wall_s / a.wall_s for a, b in pairs)
            agreements = [compare(a, b) for a, b in pairs]
            known = [agreement for agreement in agreements if agreement is not None]
            if known:
                fields["equal_calls"] = statistics.mean(a.equal_calls for a in known)
                fields["equal_tokens"] = statistics.mean(a.equal_tokens for a in known)
        recorder.record(case.name, name, **fields, load_average=load)
        table[case.name, name] = fields
    return table


def show(table: Table) -> None:
    """Prints tokens/s per case and implementation, with the ratio to ours in brackets."""
    names = [*dict.fromkeys(name for _, name in table)]
    lines = [["tokens/s", *names]]
    for case in dict.fromkeys(case for case, _ in table):
        line = [case]
        for name in names:
            fields = table.get((case, name), {})
            rate = f"{fields['tokens_per_s']:.1f}" if fields else "-"
            line.append(rate + (f" ({fields['ratio']:.2f}x)" if "ratio" in fields else ""))
        lines.append(line)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def implementations(arguments: argparse.Namespace) -> list[Implementation]:
    """Ours first, then those asked for."""
    found = [
        Implementation(
            name=OURS,
            adapter="helium",
            model=arguments.model,
            options={"dtype": "float32", **json.loads(arguments.helium_options)},
        )
    ]
    if arguments.openvino:
        found.append(
            Implementation(
                name="openvino",
                adapter="openvino",
                model=arguments.openvino,
                options=json.loads(arguments.openvino_options),
                python=arguments.openvino_python,
            )
        )
    if arguments.transformers:
        found.append(
            Implementation(
                name="transformers",
                adapter="transformers",
                model=arguments.model,
                options=json.loads(arguments.transformers_options),
            )
        )
    for server in arguments.openai:
        name, _, address = server.partition("=")
        url, _, served_name = address.partition(",")
        if not url or not served_name:
            raise SystemExit(f"--openai {server!r} must be NAME=URL,SERVED_MODEL")
        options = {"url": url, "served_name": served_name}
        found.append(
            Implementation(name=name, adapter="openai", model=served_name, options=options)
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder made by bench.make_model")
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--helium-options", default="{}", help="JSON, fields of EngineConfig")
    parser.add_argument(
        "--openvino", metavar="FOLDER", help="exported model: compare with OpenVINO"
    )
    parser.add_argument("--openvino-python", default=sys.executable)
    parser.add_argument("--openvino-options", default="{}", help="JSON, see its adapter")
    parser.add_argument("--transformers", action="store_true", help="compare with transformers")
    parser.add_argument("--transformers-options", default="{}", help="JSON, see its adapter")
    parser.add_argument("--openai", action="append", default=[], metavar="NAME=URL,SERVED_MODEL")
    arguments = parser.parse_args()
    with open(f"{arguments.model}/config.json") as file:
        vocab_size = json.load(file)["vocab_size"]
    recorder = Recorder("peers")
    with contextlib.ExitStack() as stack:
        workers = []
        for one in implementations(arguments):
            worker = stack.enter_context(
                open_worker(one.adapter, one.model, one.options, python=one.python, name=one.name)
            )
            recorder.record("start", one.name, start_s=worker.start_s, options=one.options)
            workers.append(worker)
        table: Table = {}
        for make in SCALES[arguments.scale]:
            table |= measure(
                recorder, workers, make, rounds=arguments.rounds, vocab_size=vocab_size
            )
    show(table)
    print(f"written to {recorder.path}")


if __name__ == "__main__":
    main()
