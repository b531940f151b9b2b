"""The prefix index: from the chained hash of a block to the page that holds its KV.

The hash of a block covers everything before it: blake2b(parent's digest + token ids). The first
parent is a root made of a random secret, the model's version and the caller's salt, so that
digests cannot be guessed, nor compared between stores, models or salts.
"""

from array import array
from collections.abc import Sequence as Indexable
from collections.abc import ValuesView
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

DIGEST_BYTES = 32


class BlockKey(NamedTuple):
    """Identity of the tokens in one full page and of all tokens before them.

    A tuple and not a dataclass, since equality of keys (digest and token ids) is the hot operation.

    Attributes:
        digest: chained hash.
        tokens: the page's token ids as int32 bytes; compared on every match.
    """

    digest: bytes
    tokens: bytes


@dataclass(slots=True, eq=False, kw_only=True)
class Block:
    """A shareable block: a key, the page that holds it, and what eviction must know.

    Attributes:
        key: identity.
        parent: the block before it; resident as long as this one is.
        page: page id. May change while nobody reads the block.
        num_children: resident blocks that follow it directly.
        num_pins: pins that cover it.
        next_use: planned next use; None is unknown.
        hinted_at: epoch in which `next_use` was set; see `Hints`.
        last_used: time of its last release, in the store's ticks.
    """

    key: BlockKey
    parent: "Block | None" = field(repr=False)
    page: int
    num_children: int = 0
    num_pins: int = 0
    next_use: int | None = None
    hinted_at: int = 0
    last_used: int = 0


def make_root(secret: bytes, model_version: str, salt: str) -> bytes:
    """The parent of first blocks; equal only for equal secret, model version and salt."""
    version = model_version.encode()
    hasher = blake2b(digest_size=DIGEST_BYTES, key=secret)
    hasher.update(len(version).to_bytes(8, "little"))  # so that ("a", "b") is not ("ab", "")
    hasher.update(version)
    hasher.update(salt.encode())
    return hasher.digest()


def is_first(key: BlockKey, root: bytes) -> bool:
    """Whether a block is the first of a sequence under `root`."""
    return blake2b(root + key.tokens, digest_size=DIGEST_BYTES).digest() == key.digest


def extend_keys(
    keys: list[BlockKey], root: bytes, token_ids: Indexable[int], page_size: int
) -> None:
    """Appends to `keys` those of the full blocks of `token_ids` it does not have yet."""
    parent = keys[-1].digest if keys else root
    for start in range(len(keys) * page_size, len(token_ids) - page_size + 1, page_size):
        tokens = array("i", token_ids[start : start + page_size]).tobytes()
        parent = blake2b(parent + tokens, digest_size=DIGEST_BYTES).digest()
        keys.append(BlockKey(parent, tokens))


class PrefixIndex:
    """Resident blocks by digest. A block's parent is always resident too."""

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks: dict[bytes, Block] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def blocks(self) -> ValuesView[Block]:
        """All residents; changes with the index."""
        return self._blocks.values()

    def get(self, key: BlockKey) -> Block | None:
        """The resident block with this key; None if there is none, or only one whose hash agrees
        and whose tokens do not."""
        block = self._blocks.get(key.digest)
        return block if block is not None and block.key.tokens == key.tokens else None

    def has_digest(self, digest: bytes) -> bool:
        return digest in self._blocks

    def match(self, keys: Indexable[BlockKey]) -> list[Block]:
        """The resident blocks of the longest resident prefix of `keys`."""
        matched = []
        get = self._blocks.get
        for digest, tokens in keys:
            block = get(digest)
            if block is None or block.key.tokens != tokens:
                break
            matched.append(block)
        return matched

    def count_match(self, keys: Indexable[BlockKey], most: int) -> int:
        """How many blocks `match(keys[:most])` would find, in O(log n): parents of residents are
        resident. Looks at digests only."""
        blocks = self._blocks
        found, missing = 0, min(most, len(keys)) + 1
        while missing - found > 1:
            middle = (found + missing) // 2
            if keys[middle - 1][0] in blocks:
                found = middle
            else:
                missing = middle
        return found

    def add(self, key: BlockKey, parent: Block | None, page: int) -> Block:
        """Makes a block resident; its digest must not be."""
        block = Block(key=key, parent=parent, page=page)
        self._blocks[key.digest] = block
        if parent is not None:
            parent.num_children += 1
        return block

    def remove(self, block: Block) -> None:
        """Forgets a block without children."""
        assert block.num_children == 0, "a block was dropped before the blocks that follow it"
        del self._blocks[block.key.digest]
        if block.parent is not None:
            block.parent.num_children -= 1
