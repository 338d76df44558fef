"""The native engine's key/value cache: rows with lengths of their own, which are added and dropped between steps."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class SlotCache(Cache):
    """A key/value cache whose rows have lengths of their own; rows are appended and dropped between steps.

    `begin(starts_B, count)` sets the positions of the next `count` tokens of each row. Buffers grow by doubling.
    """

    def __init__(self, num_layers: int) -> None:
        self.slots = [SlotLayer(self) for _ in range(num_layers)]
        super().__init__(layers=[*self.slots])
        self.lengths_B = torch.empty(0, dtype=torch.long)
        self.starts_B = self.lengths_B
        self.width = 0  # visible positions once the next tokens are written
        self.rows_B1 = self.positions_BT = torch.empty(0, 1, dtype=torch.long)

    def begin(self, starts_B: Tensor, count: int) -> None:
        """Set the positions of the next write: `count` tokens per row, from `starts_B` on."""
        self.starts_B = starts_B
        self.width = int(starts_B.max()) + count
        self.rows_B1 = torch.arange(len(starts_B), device=starts_B.device)[:, None]
        self.positions_BT = starts_B[:, None] + torch.arange(count, device=starts_B.device)

    def append(self, other: SlotCache, source_B: Tensor, *, spare: int = 0) -> None:
        """Add one row for each index in `source_B`, copied from that row of `other`; reserve `spare` tokens."""
        self.lengths_B = torch.cat([self.lengths_B.to(source_B.device), other.lengths_B[source_B]])
        for mine, theirs in zip(self.slots, other.slots, strict=True):
            mine.append(theirs, source_B, spare)

    def put(self, row: int, other: SlotCache, source: int) -> None:
        """Copy row `source` of `other`, which may be this cache, into `row`: one that is there, or the next one.

        Buffers grow by doubling, so that rows can come one by one; `drop_last` leaves theirs to the next ones.
        """
        length_1 = other.lengths_B[source : source + 1]
        self.lengths_B = torch.cat([self.lengths_B[:row].to(length_1.device), length_1, self.lengths_B[row + 1 :]])
        for mine, theirs in zip(self.slots, other.slots, strict=True):
            mine.put(row, theirs, source, int(length_1))

    def drop_last(self) -> None:
        """Drop the last row."""
        self.lengths_B = self.lengths_B[:-1]

    def copy_row(self, row: int, length: int) -> SlotCache:
        """Return the first `length` tokens of one row as a cache of its own."""
        copied = SlotCache(len(self.slots))
        copied.lengths_B = self.lengths_B[row : row + 1].clamp(max=length)
        for mine, theirs in zip(self.slots, copied.slots, strict=True):
            theirs.states, theirs.is_initialized = mine.states[:, row : row + 1, :, :length].clone(), True
        return copied

    def keep(self, rows_B: Tensor) -> None:
        """Drop all rows but these."""
        self.lengths_B = self.lengths_B[rows_B]
        for slot in self.slots:
            slot.states = slot.states[:, rows_B]


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values in one tensor: `states`, shape (2, B, heads, capacity, head_dim).

    After `put` it may have more rows than the cache; those behind the cache's last one are spare.
    """

    is_sliding = False

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self.cache = cache
        self.states = torch.empty(2, 0, 0, 0, 0)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare: the first write makes the buffer."""

    def write(self, states_BT2HD: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values at each row's own positions; return all visible ones, (B, heads, width, D) each."""
        batch, _, _, heads, head_dim = states_BT2HD.shape
        if not self.is_initialized:
            self.states = states_BT2HD.new_zeros(2, batch, heads, self.cache.width, head_dim)
            self.is_initialized = True
        capacity = self.states.shape[3]
        if self.cache.width > capacity:
            self.states = _widen(self.states, max(self.cache.width, 2 * capacity))
        self.states[:, self.cache.rows_B1, :, self.cache.positions_BT] = states_BT2HD
        keys, values = self.states[:, :batch, :, : self.cache.width]
        return keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Take keys and values (B, heads, T, D), return all visible ones; transformers' modules call this."""
        return self.write(torch.stack([key_states, value_states]).permute(1, 3, 0, 2, 4))

    def append(self, other: SlotLayer, source_B: Tensor, spare: int) -> None:
        """Add rows copied from another layer."""
        _, old, *_ = self.states.shape
        _, _, heads, width, head_dim = other.states.shape
        capacity = max(self.states.shape[3], width + spare)
        states = other.states.new_zeros(2, old + len(source_B), heads, capacity, head_dim)
        if old:
            states[:, :old, :, : self.states.shape[3]] = self.states
        states[:, old:, :, :width] = other.states[:, source_B]
        self.states, self.is_initialized = states, True

    def put(self, row: int, other: SlotLayer, source: int, length: int) -> None:
        """Copy the first `length` tokens of a row of another layer, or of this one, into `row`."""
        _, rows, heads, capacity, head_dim = self.states.shape
        if not self.is_initialized:
            _, _, heads, _, head_dim = other.states.shape
            self.states, self.is_initialized = other.states.new_zeros(2, 1, heads, length, head_dim), True
        elif length > capacity:
            self.states = _widen(self.states, max(length, 2 * capacity))
        if row >= rows and rows:
            self.states = torch.nn.functional.pad(self.states, (0, 0, 0, 0, 0, 0, 0, rows))
        self.states[:, row, :, :length] = other.states[:, source, :, :length]
        self.states[:, row, :, length:] = 0  # masked, but 0 × NaN of an earlier row would not be 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of keys visible to a query, and their offset."""
        return self.cache.width, 0

    def get_seq_length(self) -> int:
        """Return the tokens before the next write; only meaningful during a prefill, where it is 0."""
        return self.cache.width if self.cache.width == 0 else int(self.cache.starts_B.min())

    def get_max_length(self) -> int:
        """Return -1: the cache grows as needed."""
        return -1

    get_max_cache_shape = get_max_length  # its name in older versions, such as the 5.10 that verl needs


def _widen(states: Tensor, capacity: int) -> Tensor:
    return torch.nn.functional.pad(states, (0, 0, 0, capacity - states.shape[3]))
