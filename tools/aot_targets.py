"""Chips that programs are compiled for without being there: their topologies for XLA's compilers.

The CUDA plugin compiles for a described chip; the numbers are those of the CUDA programming guide's
tables and the datasheets. libtpu knows its chips by name.
"""

import importlib.util
import os
from dataclasses import dataclass

CUDA_PLUGINS = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """What the compilers and our choices must know of one chip.

    Attributes:
        platform: "cuda" or "tpu".
        topology: libtpu's name of the smallest slice; "" for GPUs.
        capability: compute capability of a GPU.
        cores: multiprocessors.
        memory_bytes: device memory.
        bandwidth: bytes a second.
        cache_bytes: L2.
        clock_ghz: boost clock.
        shared_bytes: shared memory that one thread block may have.
    """

    platform: str
    topology: str = ""
    capability: str = ""
    cores: int = 0
    memory_bytes: int = 0
    bandwidth: int = 0
    cache_bytes: int = 0
    clock_ghz: float = 0.0
    shared_bytes: int = 0


_KIB, _MIB, _GB = 2**10, 2**20, 10**9
CHIPS = {
    "h200": Chip(platform="cuda", capability="9.0", cores=132, memory_bytes=141 * _GB,
                 bandwidth=4800 * _GB, cache_bytes=50 * _MIB, clock_ghz=1.98,
                 shared_bytes=227 * _KIB),
    "a100": Chip(platform="cuda", capability="8.0", cores=108, memory_bytes=80 * _GB,
                 bandwidth=2000 * _GB, cache_bytes=40 * _MIB, clock_ghz=1.41,
                 shared_bytes=163 * _KIB),
    "l4": Chip(platform="cuda", capability="8.9", cores=58, memory_bytes=24 * _GB,
               bandwidth=300 * _GB, cache_bytes=48 * _MIB, clock_ghz=2.0,
               shared_bytes=99 * _KIB),
    "b200": Chip(platform="cuda", capability="10.0", cores=148, memory_bytes=180 * _GB,
                 bandwidth=8000 * _GB, cache_bytes=126 * _MIB, clock_ghz=1.96,
                 shared_bytes=227 * _KIB),
    "v5e": Chip(platform="tpu", topology="v5e:2x2"),
    "v6e": Chip(platform="tpu", topology="v6e:2x2"),
}  # fmt: skip


def prepare_environment() -> None:
    """To be called before jax is imported: the compilers read these once, and nothing else does."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    os.environ["MOSAIC_GPU_DUMP_PTXAS"] = "1"  # registers and spills of every kernel, printed
    os.environ["MOSAIC_GPU_DUMP_RESOURCES"] = "1"  # its shared memory
    for name, value in {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_LOG_DIR": "disabled",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        os.environ.setdefault(name, value)


def why_missing(chip: Chip) -> str | None:
    """What is not installed to compile for a chip; None if nothing is missing."""
    if chip.platform == "tpu":
        return None if importlib.util.find_spec("libtpu") else "libtpu is not installed"
    if importlib.util.find_spec("jax_plugins") is not None:
        for name in CUDA_PLUGINS:
            if importlib.util.find_spec(name) is not None:
                return None
    return "no CUDA plugin is installed (jax-cuda13-plugin and -pjrt, with --no-deps)"


def open_devices(name: str, chip: Chip) -> list:
    """Abstract devices of one chip, as `jax.sharding.Mesh` takes them."""
    import jax
    from jax.experimental import topologies

    jax.devices()  # the plugins register with the first look at the devices
    if chip.platform == "tpu":
        topology = topologies.get_topology_desc(chip.topology, platform="tpu")
    else:
        topology = topologies.get_topology_desc(
            "", platform="cuda", topology="1x1x1", target_config=_describe(name, chip)
        )
    return list(topology.devices)[:1]


def _describe(name: str, chip: Chip) -> str:
    """XLA's GpuTargetConfigProto as text."""
    major, minor = chip.capability.split(".")
    extension = "feature_extension: ACCELERATED_FEATURES" if int(major) >= 9 else ""
    limit = 2**31 - 1
    return f"""
    gpu_device_info {{
      name: "{name}" device_vendor: "NVIDIA Corporation"
      cuda_compute_capability {{ major: {major} minor: {minor} {extension} }}
      core_count: {chip.cores} fpus_per_core: 128 clock_rate_ghz: {chip.clock_ghz}
      threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
      block_dim_limit_x: {limit} block_dim_limit_y: 65535 block_dim_limit_z: 65535
      thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
      shared_memory_per_block: 49152 shared_memory_per_block_optin: {chip.shared_bytes}
      shared_memory_per_core: {chip.shared_bytes + 1024}
      memory_bandwidth: {chip.bandwidth} l2_cache_size: {chip.cache_bytes}
      device_memory_size: {chip.memory_bytes}
      driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
      dnn_version: "9.10.0"
    }}
    platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
    device_description_str: "{name}"
    """
