"""What the server may be told, and the one table of caps that are checked before any work."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Caps on one request; each is checked before tokenizing or generating anything.

    Attributes:
        body_bytes: longest body.
        prompt_chars: longest prompt text, all messages together.
        messages: most chat messages.
        prompts: most prompts of one completions request.
        n: most answers per prompt.
        sequences: most prompts times answers.
        stop_strings: most stop strings; each of at most `stop_chars` characters.
        stop_chars: see `stop_strings`.
        stop_token_ids: most stop token ids.
        logit_bias: most entries of a logit bias.
        top_logprobs: most alternatives per token.
        salt_chars: longest cache salt.
        template_kwargs: most variables for the chat template; a text among them has at most
            `stop_chars` characters.
        tools: most tools of one request.
        tools_bytes: of all its tools, as JSON.
        tool_calls: most calls of one answer.
        json_depth: deepest nesting of a body.
        json_marks: most commas and opening brackets of a body, which is what decoding it costs.
        key_waiting_sequences: most sequences of one key that wait for their first token; more are
            answered 429. One request may be larger if nothing of its key waits.
        key_waiting_tokens: the same in tokens of their prompts.
        plan_bytes: longest plan, as canonical JSON.
        plans: registered plans of one key; the one that was not used for longest leaves.
        run_rows: most rows of one run.
        run_timeout_s: longest timeout that a request may ask for; longer ones are cut to it.
        runs_running: runs that use the engine side by side.
        runs_queued: runs that wait for a place; more are answered 429.
        runs_kept: finished runs that can still be asked for; the oldest leave.
        runs_bytes: of inputs, outputs and events of finished runs that are kept, all together.
        run_events: events of one run that are kept.
        run_prompts_bytes: of one run's prompts that can be looked at; later ones are not kept.
        journal_bytes: of the file with the background runs of a state directory.
        pins: pinned prefixes of one key.
        pin_ttl_s: longest time of a pin; longer wishes are cut to it.
        responses: answers of /v1/responses that are kept for one key; the one that was not used
            for longest leaves.
        responses_bytes: of one key's kept answers with their conversations.
        file_bytes: longest file.
        files: files of one key.
        files_bytes: of all files together.
        batches: batches of one key that can be asked for; the oldest that is over leaves.
        batches_unfinished: of one key.
        batches_running: of all keys; the others wait.
        batch_lines: most lines of a batch.
        batch_window: lines that are checked and put in order at a time.
    """

    body_bytes: int = 32 * 1024 * 1024
    prompt_chars: int = 4 * 1024 * 1024
    messages: int = 4096
    prompts: int = 1024
    n: int = 128
    sequences: int = 1024
    stop_strings: int = 32
    stop_chars: int = 512
    stop_token_ids: int = 16
    logit_bias: int = 300
    top_logprobs: int = 20
    salt_chars: int = 256
    template_kwargs: int = 32
    tools: int = 128
    tools_bytes: int = 256 * 1024
    tool_calls: int = 32
    json_depth: int = 64
    json_marks: int = 2_000_000
    key_waiting_sequences: int = 2048
    key_waiting_tokens: int = 8 * 1024 * 1024
    plan_bytes: int = 4 * 1024 * 1024
    plans: int = 1000
    run_rows: int = 100_000
    run_timeout_s: float = 24 * 3600.0
    runs_running: int = 8
    runs_queued: int = 64
    runs_kept: int = 256
    runs_bytes: int = 256 * 1024 * 1024
    run_events: int = 10_000
    run_prompts_bytes: int = 4 * 1024 * 1024
    journal_bytes: int = 1024 * 1024 * 1024
    pins: int = 64
    pin_ttl_s: float = 7 * 24 * 3600.0
    responses: int = 1000
    responses_bytes: int = 64 * 1024 * 1024
    file_bytes: int = 64 * 1024 * 1024
    files: int = 1000
    files_bytes: int = 512 * 1024 * 1024
    batches: int = 256
    batches_unfinished: int = 16
    batches_running: int = 2
    batch_lines: int = 50_000
    batch_window: int = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How the server listens and what it lets in.

    Attributes:
        host: address to bind.
        port: 0 takes a free one.
        api_keys: keys that let a client in; none: everybody may come in.
        admin_keys: keys among or besides those that may empty the caches; none: every key may.
        state_dir: a folder where outputs, profiles and background runs outlive the process; None
            keeps them in memory.
        served_names: names by which clients may ask for the model besides its own.
        strict: unknown fields of a body are an error instead of a warning.
        limits: caps on one request.
        max_connections: more are answered 429 and closed.
        header_timeout_s: a connection that sends no whole request header for this long is closed;
            also how long an idle connection is kept.
        body_timeout_s: longest wait for a whole body.
        write_timeout_s: a client that takes none of its answer for this long is dropped.
        ping_interval_s: between comments that keep a silent stream alive.
        max_step_age_s: the server is not ready when the engine's loop has not gone round for
            this long.
        max_stall_s: the process ends when the engine has been in one step for this long.
        shutdown_timeout_s: how long running requests may go on after the first signal.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    admin_keys: tuple[str, ...] = field(default=(), repr=False)
    state_dir: Path | None = None
    served_names: tuple[str, ...] = ()
    strict: bool = False
    limits: Limits = Limits()
    max_connections: int = 1024
    header_timeout_s: float = 30.0
    body_timeout_s: float = 30.0
    write_timeout_s: float = 60.0
    ping_interval_s: float = 15.0
    max_step_age_s: float = 10.0
    max_stall_s: float = 300.0
    shutdown_timeout_s: float = 30.0
