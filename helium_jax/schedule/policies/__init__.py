"""Policies: in which order the calls of a run reach the engines, one file each, one signature.

Each is a `MakePolicy`: from a graph and a setting it makes the dispatcher of one run. All see the
same plan; they differ in what they make of it (reference: the table in this folder's README).

Not here: the border they stand at (`helium_jax.schedule.dispatch`) and admission, batching and
eviction, which are the engine's.
"""

from collections.abc import Mapping
from types import MappingProxyType

from helium_jax.schedule.dispatch import MakePolicy
from helium_jax.schedule.policies.agentscope import agentscope
from helium_jax.schedule.policies.helium import helium
from helium_jax.schedule.policies.kvflow import kvflow
from helium_jax.schedule.policies.langgraph import langgraph
from helium_jax.schedule.policies.lspf import lspf
from helium_jax.schedule.policies.naive import naive
from helium_jax.schedule.policies.op_wise import op_wise
from helium_jax.schedule.policies.op_wise_serial import op_wise_serial
from helium_jax.schedule.policies.parrot import parrot
from helium_jax.schedule.policies.query_wise import query_wise
from helium_jax.schedule.policies.random_order import random_order

POLICIES: Mapping[str, MakePolicy] = MappingProxyType(
    {
        "naive": naive,
        "query_wise": query_wise,
        "op_wise": op_wise,
        "op_wise_serial": op_wise_serial,
        "langgraph": langgraph,
        "random": random_order,
        "agentscope": agentscope,
        "parrot": parrot,
        "kvflow": kvflow,
        "lspf": lspf,
        "helium": helium,
    }
)

__all__ = ["POLICIES"]
