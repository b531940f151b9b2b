"""Which implementation a machine gets, before anything is allocated, and why."""

from typing import Protocol

from helium_jax.kernels.attention import mosaic_gpu, mosaic_tpu
from helium_jax.kernels.attention.tuning import Target

# The order of a page's elements that each implementation reads without copies (`KVPages`).
ORDERS = {"mosaic_tpu": "joined", "mosaic_gpu": "rows", "xla": "columns", "reference": "columns"}


def choose_implementation(
    platform: str,
    *,
    dtype: str,
    head_size: int,
    page_size: int,
    num_heads: int,
    num_kv_heads: int,
    kv_dtype: str | None = None,
    compute_capability: str | None = None,
) -> tuple[str, str]:
    """The implementation of `paged_attention` for pools of this shape, and the reason.

    Pages must be allocated in its order (`ORDERS`) and layouts made for it (`Target`).

    Args:
        platform: "cpu", "gpu" (or "cuda") or "tpu".
        dtype: of activations.
        head_size: H.
        page_size: B.
        num_heads: N.
        num_kv_heads: K.
        kv_dtype: of the pages; that of the activations when left out.
        compute_capability: of a GPU, as its device has it, like "9.0".

    Returns:
        a key of IMPLEMENTATIONS and one sentence for people.
    """
    kv_dtype = kv_dtype or dtype
    heads = f"{num_heads}/{num_kv_heads} heads of {head_size}"
    shape = f"pages of {page_size} tokens in {kv_dtype}, {heads} in {dtype}"
    if platform == "tpu":
        name = "mosaic_tpu"
        reason = mosaic_tpu.why_not(
            dtype=dtype, kv_dtype=kv_dtype, head_size=head_size, page_size=page_size
        )
    elif platform in ("gpu", "cuda"):
        name = "mosaic_gpu"
        reason = mosaic_gpu.why_not(
            dtype=dtype,
            kv_dtype=kv_dtype,
            head_size=head_size,
            page_size=page_size,
            queries_per_kv_head=num_heads // num_kv_heads,
            compute_capability=compute_capability,
        )
    else:
        return "xla", f"there is no kernel for {platform!r}, and XLA's work list was made for it"
    if reason is None:
        return name, f"the Pallas kernel reads {shape}"
    return "xla", f"not {name}: {reason}"


class Device(Protocol):
    """What is read of a `jax.Device`; GPUs also have compute_capability and core_count."""

    @property
    def platform(self) -> str: ...


def choose_target(
    device: Device,
    *,
    dtype: str,
    kv_dtype: str,
    head_size: int,
    page_size: int,
    num_heads: int,
    num_kv_heads: int,
    implementation: str | None = None,
) -> tuple[Target, str]:
    """What steps on a device are packed for, and the reason.

    Args:
        device: that the pages will live on.
        dtype: of activations.
        kv_dtype: of the pages.
        implementation: a choice already made; None makes it.
    """
    if implementation is not None:
        name, reason = implementation, "it was asked for"
    else:
        name, reason = choose_implementation(
            device.platform,
            dtype=dtype,
            kv_dtype=kv_dtype,
            head_size=head_size,
            page_size=page_size,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            compute_capability=getattr(device, "compute_capability", None),
        )
    target = Target(
        implementation=name,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=head_size,
        num_cores=getattr(device, "core_count", 1),
    )
    return target, reason
