"""Metrics: declared names only, own registry, vLLM's names beside ours."""

import pytest

from helium_jax.telemetry.metrics import Metrics, Reading


def test_a_counter_is_served_under_both_names():
    metrics = Metrics(model_name="tiny")
    metrics.count("prompt_tokens_total", 7)
    metrics.count("request_success_total", finished_reason="stop")
    text = metrics.expose().decode()
    assert "helium:prompt_tokens_total 7.0" in text
    assert 'vllm:prompt_tokens_total{model_name="tiny"} 7.0' in text
    assert 'vllm:request_success_total{finished_reason="stop",model_name="tiny"} 1.0' in text


def test_histograms_keep_their_buckets_under_the_alias():
    metrics = Metrics(model_name="tiny")
    metrics.observe("time_to_first_token_seconds", 0.3)
    text = metrics.expose().decode()
    assert 'helium:time_to_first_token_seconds_bucket{le="0.5"} 1.0' in text
    assert 'vllm:time_to_first_token_seconds_bucket{le="0.5",model_name="tiny"} 1.0' in text
    assert 'vllm:time_to_first_token_seconds_count{model_name="tiny"} 1.0' in text


def test_a_source_is_read_at_every_exposition():
    metrics = Metrics(model_name="tiny")
    values = iter([1.0, 2.0])
    metrics.add_source(
        lambda: [
            Reading(
                name="num_requests_running",
                kind="gauge",
                help="Running",
                value=next(values),
                labels={"worker": "0"},
            )
        ]
    )
    assert 'helium:num_requests_running{worker="0"} 1.0' in metrics.expose().decode()
    assert 'vllm:num_requests_running{model_name="tiny",worker="0"} 2.0' in (
        metrics.expose().decode()
    )


def test_two_owners_share_nothing():
    first, second = Metrics(model_name="a"), Metrics(model_name="b")
    first.count("generation_tokens_total", 5)
    assert "helium:generation_tokens_total 0.0" in second.expose().decode()


def test_an_undeclared_name_is_refused():
    with pytest.raises(KeyError):
        Metrics(model_name="a").count("made_up_total")


def test_an_undeclared_label_is_refused():
    with pytest.raises(ValueError, match="label"):
        Metrics(model_name="a").count("request_success_total", user="mallory")
