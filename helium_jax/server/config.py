"""What the server may be told, and the one table of caps that are checked before any work."""

from dataclasses import dataclass, field


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
        json_depth: deepest nesting of a body.
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
    json_depth: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How the server listens and what it lets in.

    Attributes:
        host: address to bind.
        port: 0 takes a free one.
        api_keys: keys that let a client in; none: everybody may come in.
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
        shutdown_timeout_s: how long running requests may go on after the first signal.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    served_names: tuple[str, ...] = ()
    strict: bool = False
    limits: Limits = Limits()
    max_connections: int = 1024
    header_timeout_s: float = 30.0
    body_timeout_s: float = 30.0
    write_timeout_s: float = 60.0
    ping_interval_s: float = 15.0
    max_step_age_s: float = 10.0
    shutdown_timeout_s: float = 30.0
