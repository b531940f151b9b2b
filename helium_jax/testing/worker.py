"""The imagined KV store and the counters of one worker of a fake generator."""

from collections.abc import Collection

from helium_jax.types import CachedPrefix, CacheMap, CacheSnapshot, EngineStatistics

_SPARE_PAGES = 65_536  # always free: the imagined store never evicts
_MAX_DRAWN = 512  # pages of a map


class FakeWorker:
    """An imagined KV store that has room for everything, and the counters of one worker.

    Attributes:
        is_alive: takes requests.
        running: ids of requests that hold it.
        decode_tokens: generated so far.
    """

    def __init__(self, *, page_size: int, prefix_caching: bool) -> None:
        self.is_alive = True
        self.running: set[str] = set()
        self._page_size = page_size
        self._prefix_caching = prefix_caching
        self._blocks: set[tuple[str, tuple[int, ...]]] = set()
        self._prefill_tokens = 0
        self.decode_tokens = 0
        self._queried_tokens = 0
        self._hit_tokens = 0

    def warm(self, salt: str, ids: tuple[int, ...]) -> tuple[int, int]:
        """Remembers full pages as if computed; returns tokens resident and newly computed."""
        pages = self._pages(salt, ids)
        computed = sum(page not in self._blocks for page in pages) * self._page_size
        self._blocks.update(pages)
        self._prefill_tokens += computed
        return len(pages) * self._page_size, computed

    def lookup(self, salt: str, ids: tuple[int, ...]) -> int:
        """Prompt tokens whose full pages were seen before; remembers the prompt's pages."""
        pages = self._pages(salt, ids)
        num_hits = 0
        if self._prefix_caching:
            # At least one token is always computed: its logits give the first new token.
            most = (len(ids) - 1) // self._page_size
            while num_hits < most and pages[num_hits] in self._blocks:
                num_hits += 1
            self._blocks.update(pages)
        kv_cached = num_hits * self._page_size
        self._queried_tokens += len(ids)
        self._hit_tokens += kv_cached
        self._prefill_tokens += len(ids) - kv_cached
        return kv_cached

    def reset(self) -> int:
        """Forgets every page; returns how many there were."""
        freed = len(self._blocks)
        self._blocks.clear()
        return freed

    def draw(self, worker: int, salts: Collection[str] | None) -> CacheMap:
        """The pages that are remembered, one stretch each; of the spare ones as many again."""
        size = self._page_size
        drawn = sorted(self._blocks, key=lambda block: (len(block[1]), block))[:_MAX_DRAWN]
        place = {block: number for number, block in enumerate(drawn)}
        prefixes = [
            CachedPrefix(
                parent=place.get((salt, ids[:-size])),
                num_pages=1,
                num_below=sum(
                    salt == other and ids == longer[: len(ids)] and len(longer) > len(ids)
                    for other, longer in self._blocks
                ),
                token_ids=ids[-size:] if salts is None or salt in salts else (),
            )
            for salt, ids in drawn
        ]
        return CacheMap(
            worker=worker,
            page_size=size,
            pages_per_cell=1,
            cells="c" * len(drawn) + "f" * len(drawn),
            prefixes=tuple(prefixes),
            num_folded=len(self._blocks) - len(drawn),
        )

    def statistics(self) -> EngineStatistics:
        """What was computed, and a store with room left."""
        num_cached = len(self._blocks)
        cache = CacheSnapshot(
            page_size=self._page_size,
            num_pages=num_cached + _SPARE_PAGES,
            num_free=_SPARE_PAGES,
            num_cached=num_cached,
            num_used=0,
            queried_tokens=self._queried_tokens,
            hit_tokens=self._hit_tokens,
        )
        return EngineStatistics(
            num_waiting=0,
            num_running=len(self.running),
            num_steps=self.decode_tokens,
            num_prefill_tokens=self._prefill_tokens,
            num_decode_tokens=self.decode_tokens,
            num_padded_tokens=0,
            num_preemptions=0,
            num_compiles_after_warmup=0,
            host_seconds=0.0,
            device_seconds=0.0,
            last_step_age_seconds=0.0,
            cache=cache,
            is_alive=self.is_alive,
        )

    def _pages(self, salt: str, ids: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
        size = self._page_size
        return [(salt, ids[:end]) for end in range(size, len(ids) + 1, size)]
