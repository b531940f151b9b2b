"""What `paged_attention` and the layout refuse, and how the implementation is chosen."""

import dataclasses

import jax.numpy as jnp
import pytest

from helium_jax.kernels.attention import (
    IMPLEMENTATIONS,
    make_layout,
    paged_attention,
    unpack_batch,
)
from helium_jax.kernels.pages import allocate_pages

PAGES = dict(num_layers=2, num_pages=8, page_size=16, num_kv_heads=2, head_size=8, dtype="float32")
LAYOUT = make_layout(num_tokens=4, num_seqs=2, pages_per_seq=3, page_size=16, num_pages=8)


def attend(q_shape=(4, 4, 8), layer=0, layout=LAYOUT, q_dtype="float32", scale=1.0, **options):
    batch = unpack_batch(layout, jnp.zeros(layout.num_ints, jnp.int32))
    return paged_attention(
        jnp.zeros(q_shape, q_dtype), allocate_pages(**PAGES), layer, batch, scale=scale, **options
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(q_shape=(5, 4, 8)), r"q has shape \(5, 4, 8\)"),
        (dict(q_shape=(4, 4, 9)), r"q has shape \(4, 4, 9\)"),
        (dict(q_shape=(4, 3, 8)), "q has 3 heads"),
        (dict(q_dtype="int32"), "q is in int32; expected a float dtype"),
        (dict(layer=2), "layer=2 is not a layer"),
        (dict(layer=-1), "layer=-1 is not a layer"),
        (dict(scale=float("nan")), "scale=nan must be a finite number"),
        (dict(scale=float("inf")), "scale=inf must be a finite number"),
        (dict(window=0), "window=0 must be an integer of at least 1"),
        (dict(window=2.5), "window=2.5 must be an integer of at least 1"),
        (dict(soft_cap=float("inf")), "soft_cap=inf must be positive and finite"),
        (dict(soft_cap=0.0), "soft_cap=0.0 must be positive"),
        (dict(soft_cap=float("nan")), "soft_cap=nan must be positive"),
        (dict(layout=dataclasses.replace(LAYOUT, page_size=32)), "layout.page_size=32 differs"),
        (dict(layout=dataclasses.replace(LAYOUT, num_pages=9)), "layout.num_pages=9 differs"),
        (dict(implementation="cuda"), "implementation='cuda' is unknown; choose one of"),
    ],
)
def test_names_the_argument_that_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        attend(**options)


def refuse(*_args, **_options):
    raise NotImplementedError("head size 8")


def test_the_default_falls_through_and_an_explicit_choice_raises(monkeypatch):
    monkeypatch.setitem(IMPLEMENTATIONS, "xla", refuse)
    out, _ = attend()
    assert out.shape == (4, 4, 8)
    with pytest.raises(NotImplementedError, match="head size 8"):
        attend(implementation="xla")
    monkeypatch.setitem(IMPLEMENTATIONS, "reference", refuse)
    with pytest.raises(NotImplementedError, match="; xla: head size 8; reference: head"):
        attend()


@pytest.mark.parametrize("name", ["num_tokens", "num_seqs", "pages_per_seq", "page_size"])
def test_a_layout_without_capacity_is_refused(name):
    capacities = dict(num_tokens=4, num_seqs=2, pages_per_seq=3, page_size=16, num_pages=8)
    with pytest.raises(ValueError, match=f"{name}=0 must be at least"):
        make_layout(**{**capacities, name: 0})


def test_ints_of_another_layout_are_refused():
    with pytest.raises(ValueError, match="expected int32"):
        unpack_batch(LAYOUT, jnp.zeros(LAYOUT.num_ints + 1, jnp.int32))
