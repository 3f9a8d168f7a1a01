"""How large a piece of a matrix product each Triton kernel takes, by kind of chip and of number."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

__all__ = ["CANDIDATES", "Tile", "Tiles", "tiles_for"]


@dataclass(frozen=True)
class Tile:
    """``rows`` x ``entries`` results, summed over steps of ``width``; ``group`` row blocks pass together through L2."""

    rows: int
    entries: int
    width: int
    warps: int = 8
    stages: int = 3
    group: int = 16
    halves: bool = True
    """Use up the results of a tile one half of its entries after the other: fewer registers, less shared memory."""
    flatten: bool = False
    """Make one loop of the tiles and of their sums, so that loads of a tile overlap the end of the one before."""
    resident: int = 1
    """Programs that share a processor: one computes while another uses up its results."""
    specialize: bool = False
    """Warp specialization: four warps load and twice four compute, each of these half of the rows.  The compiler does
    so only with ``warps=4`` and without ``halves``, and is right only with tensor descriptors that the kernel makes: by
    one from outside it copies all rows into the room of half of them."""

    def __post_init__(self) -> None:
        if self.specialize and (self.halves or self.warps != 4):
            raise ValueError("Tile: specialize=True needs warps=4 and halves=False.")

    def by_pointers(self) -> Tile:
        """For matrices that no tensor descriptor can read: addresses need registers of their own."""
        return self if self.rows <= 128 and self.entries <= 128 and not self.specialize else Tile(64, 128, 32)


@dataclass(frozen=True)
class Tiles:
    """The tiles of the kernels: log-sum-exp, chunk of G, and the three of the filtered backward."""

    log_sum: Tile
    signal: Tile
    kept_signal: Tile
    kept_weight: Tile
    kept_hidden: Tile


_HOPPER = Tiles(
    log_sum=Tile(128, 256, 64, halves=False),  # it writes nothing so wide, and fits into the registers whole
    signal=Tile(128, 256, 64),
    kept_signal=Tile(128, 256, 64),
    kept_weight=Tile(64, 128, 256),  # [entries, width] results, summed over tokens
    kept_hidden=Tile(128, 128, 128),  # [rows, width] results, summed over entries
)
_AMPERE = Tiles(
    log_sum=Tile(128, 128, 32),
    signal=Tile(128, 128, 32),
    kept_signal=Tile(128, 128, 32),
    kept_weight=Tile(32, 128, 128),
    kept_hidden=Tile(128, 32, 128),
)
_FLOAT32 = Tiles(*[Tile(128, 64, 16)] * 5)  # without tensor cores; a wider step does not fit into the registers
_INTERPRETED = Tiles(
    log_sum=Tile(16, 64, 32, group=2),
    signal=Tile(32, 64, 32, group=2),
    kept_signal=Tile(16, 64, 32),
    kept_weight=Tile(32, 16, 32),
    kept_hidden=Tile(16, 64, 32),
)

_OF_LOGITS = (
    Tile(128, 256, 64, stages=3),
    Tile(128, 256, 64, stages=4),
    Tile(128, 256, 64, stages=3, flatten=True),
    Tile(128, 256, 64, stages=4, flatten=True),
    Tile(128, 256, 64, stages=3, halves=False),
    Tile(128, 256, 64, stages=4, group=8),
    Tile(128, 256, 64, stages=4, group=32),
    Tile(256, 128, 64, stages=3),
    Tile(128, 128, 64, warps=4, stages=3, resident=2),
    Tile(64, 256, 64, warps=4, stages=2, resident=2),
    Tile(128, 256, 64, warps=4, stages=3, halves=False, specialize=True),
    Tile(128, 256, 64, warps=4, stages=4, halves=False, specialize=True),
)
CANDIDATES = {
    "log_sum": (*(replace(tile, halves=False) for tile in _OF_LOGITS), Tile(128, 256, 64, stages=4, flatten=True)),
    "signal": _OF_LOGITS[:-1],  # its last one has no room for what it writes
    "kept_signal": (
        Tile(128, 256, 64, stages=3),
        Tile(128, 256, 64, stages=4),
        Tile(256, 128, 64, stages=3),
        Tile(128, 128, 64, warps=4, stages=3),
    ),
    "kept_weight": (
        Tile(64, 128, 256, stages=3),
        Tile(64, 128, 256, stages=4),
        Tile(64, 256, 128, stages=3),
        Tile(128, 128, 128, stages=3),
    ),
    "kept_hidden": (Tile(128, 128, 128, stages=3), Tile(128, 128, 128, stages=2), Tile(64, 128, 256, stages=2)),
}
"""What ``bench/cross_entropy.py`` tries for each kernel."""


def tiles_for(device: torch.device, dtype: torch.dtype) -> Tiles:
    """Fixed for a chip, not timed at run time: another choice would sum in another order and change the last digits."""
    if device.type != "cuda":
        return _INTERPRETED
    if dtype == torch.float32:
        return _FLOAT32
    # The large tiles need 213 KB of shared memory; consumer cards, those of capability 12 too, have 99 KB.
    return _HOPPER if 9 <= torch.cuda.get_device_capability(device)[0] < 12 else _AMPERE
