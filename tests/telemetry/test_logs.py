"""The log format: one line per record, whatever the text contains."""

import logging
import sys

from helium_jax.telemetry.logs import LineFormatter, logging_to_stderr


def _record(message, *args, exc_info=None, **extra):
    record = logging.LogRecord("helium.test", logging.INFO, "f.py", 1, message, args, exc_info)
    record.__dict__.update(extra)
    return record


def test_a_line_carries_the_request_id():
    line = LineFormatter().format(_record("done in %d ms", 5, request_id="req-1"))
    assert line.endswith("INFO    helium.test [req-1] done in 5 ms")


def test_a_record_without_request_gets_a_dash():
    assert "[-] hello" in LineFormatter().format(_record("hello"))


def test_text_cannot_forge_a_second_line():
    line = LineFormatter().format(_record("model %s", "x\r\n2031 INFO fake\x00\u2028end"))
    assert "\n" not in line
    assert "\r" not in line
    assert "\\x0d" in line
    assert "\\x00" in line


def test_a_traceback_stays_on_one_line():
    try:
        raise ValueError("bad\nthing")
    except ValueError:
        line = LineFormatter().format(_record("failed", exc_info=sys.exc_info()))
    assert "\n" not in line
    assert "ValueError: bad" in line


def test_records_of_the_package_go_to_stderr_only_inside_the_context(capsys):
    log = logging.getLogger("helium_jax.some.module")
    with logging_to_stderr(logging.INFO):
        log.info("inside %d", 1, extra={"request_id": "r"})
        log.debug("too quiet")
        logging.getLogger("other").error("not ours")
    log.error("outside")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "helium_jax.some.module [r] inside 1" in err
