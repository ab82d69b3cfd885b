"""Keeps the books of where the weights of model files are: on disk only, in RAM, in VRAM, or in part."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable
from typing import Literal, TypeAlias

#: ComfyUI asks for a tenth more room than the weights take.
_HEADROOM = 1.1

#: From disk to RAM; from the system's file cache to the process; from RAM to VRAM; from RAM to VRAM in each pass.
Leg: TypeAlias = Literal["disk", "ram", "vram", "stream"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """The weights read from one file. They live as long as something holds this object: the node cache does."""

    folder: str
    name: str
    size_bytes: int

    @property
    def file(self) -> tuple[str, str]:
        return self.folder, self.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
    """How much memory there is, and by which rules it is used."""

    vram_bytes: int
    #: VRAM that weights leave free, for what is computed with them.
    working_bytes: int = 0
    ram_bytes: int
    #: RAM that the system and the process take, whatever is loaded.
    system_bytes: int = 0
    #: Files that no node output holds any more stay in the system's file cache until their room is needed.
    keeps_files: bool = True
    #: Weights stay in VRAM until their room is needed; else each load sends all others out.
    is_smart: bool = True
    #: Weights that are unloaded on request lose their RAM too, as under ComfyUI's DynamicVRAM; else they move there.
    unloads_ram: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Move:
    """Bytes of one model on their way."""

    leg: Leg
    weights: Weights
    size_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldFile:
    """Where one file's bytes are now."""

    folder: str
    name: str
    size_bytes: int
    vram_bytes: int
    in_ram: bool
    #: Whether a node output holds it. What is in RAM and not held is in the system's file cache.
    held: bool


@dataclasses.dataclass(kw_only=True)
class _Copy:
    size_bytes: int
    holders: weakref.WeakSet[Weights] = dataclasses.field(default_factory=weakref.WeakSet)


class ModelStore:
    """VRAM and RAM with what is in them. Not safe for several threads, and takes no time: moves are only named.

    What is in VRAM has a copy in RAM as long as there is room for one, so leaving VRAM costs nothing.
    """

    def __init__(self, room: Room) -> None:
        self.room = room
        # Both with the longest unused first. VRAM by object: weights that the cache dropped free it by themselves.
        self._vram: weakref.WeakKeyDictionary[Weights, int] = weakref.WeakKeyDictionary()
        self._ram: dict[tuple[str, str], _Copy] = {}
        #: How often weights left a tier, wholly or in part, because others needed the room.
        self.evicted = {"vram": 0, "ram": 0}

    def read(self, weights: Weights) -> Move:
        """Bring a file into RAM for a loader."""
        self._settle()
        was_there = self._keep(weights)
        return Move(leg="ram" if was_there else "disk", weights=weights, size_bytes=weights.size_bytes)

    def use(self, wanted: Iterable[Weights]) -> list[Move]:
        """Bring weights into VRAM as far as they fit, sending out what is longest unused.

        What does not fit stays in RAM, as ComfyUI has it, and is a `stream` move: its bytes are due in each pass.
        """
        self._settle()
        together = list(dict.fromkeys(wanted))
        missing_bytes = sum(self._missing_bytes(weights) for weights in together)
        if missing_bytes:
            self._make_vram_room(round(missing_bytes * _HEADROOM) + self.room.working_bytes, keep=together)
        return [move for weights in together for move in self._place(weights)]

    def unload_all(self) -> None:
        """Send everything out of VRAM, because somebody asked for it or memory ran out."""
        for weights in list(self._vram):
            del self._vram[weights]
            if self.room.unloads_ram:
                self._let_go(weights)
            else:
                self._move_back(weights)
        self._settle()

    def vram_used_bytes(self) -> int:
        return sum(self._vram.values())

    def ram_available_bytes(self) -> int:
        """RAM that could be had at once: the file cache gives way to whoever asks."""
        self._settle()
        held = sum(copy.size_bytes for copy in self._ram.values() if copy.holders)
        return max(0, self.room.ram_bytes - self.room.system_bytes - held)

    def resident_names(self) -> list[str]:
        """File names of the weights that are wholly in VRAM, the longest unused first."""
        return [weights.name for weights, there in list(self._vram.items()) if there >= weights.size_bytes]

    def listing(self) -> list[HeldFile]:
        """Every file of which a byte is in RAM or VRAM, by folder and name."""
        self._settle()
        sizes = {file: copy.size_bytes for file, copy in self._ram.items()}
        held = {file for file, copy in self._ram.items() if copy.holders}
        in_vram: dict[tuple[str, str], int] = {}
        for weights, there in list(self._vram.items()):
            sizes[weights.file] = weights.size_bytes
            held.add(weights.file)
            in_vram[weights.file] = in_vram.get(weights.file, 0) + there
        return [
            HeldFile(
                folder=file[0],
                name=file[1],
                size_bytes=sizes[file],
                vram_bytes=in_vram.get(file, 0),
                in_ram=file in self._ram,
                held=file in held,
            )
            for file in sorted(sizes)
        ]

    def _place(self, weights: Weights) -> list[Move]:
        resident_bytes = self._vram.pop(weights, 0)
        missing_bytes = weights.size_bytes - resident_bytes
        free_bytes = self.room.vram_bytes - self.room.working_bytes - self.vram_used_bytes() - resident_bytes
        loaded_bytes = min(missing_bytes, max(0, free_bytes))
        # Put back as the one used last.
        self._vram[weights] = resident_bytes + loaded_bytes
        moves: list[tuple[Leg, int]] = []
        was_in_ram = weights.file in self._ram
        if missing_bytes or was_in_ram:
            self._keep(weights)
        if missing_bytes and not was_in_ram:
            moves.append(("disk", weights.size_bytes))
        moves += [("vram", loaded_bytes), ("stream", missing_bytes - loaded_bytes)]
        return [Move(leg=leg, weights=weights, size_bytes=size_bytes) for leg, size_bytes in moves if size_bytes]

    def _missing_bytes(self, weights: Weights) -> int:
        return weights.size_bytes - self._vram.get(weights, 0)

    def _make_vram_room(self, needed_bytes: int, keep: list[Weights]) -> None:
        for weights, resident_bytes in list(self._vram.items()):
            lacking_bytes = needed_bytes - (self.room.vram_bytes - self.vram_used_bytes())
            if weights in keep or (lacking_bytes <= 0 and self.room.is_smart):
                continue
            # No more than is needed, as ComfyUI does: the rest of it is still there when it is used next.
            out_bytes = min(resident_bytes, lacking_bytes) if self.room.is_smart else resident_bytes
            self._vram[weights] = resident_bytes - out_bytes
            if out_bytes == resident_bytes:
                del self._vram[weights]
            self.evicted["vram"] += 1
            self._move_back(weights)

    def _move_back(self, weights: Weights) -> None:
        if weights.file not in self._ram and weights.size_bytes <= self.ram_available_bytes():
            self._keep(weights)

    def _keep(self, weights: Weights) -> bool:
        """Make a file's copy in RAM the one used last; whether it was there."""
        copy = self._ram.pop(weights.file, None)
        was_there = copy is not None
        copy = copy or _Copy(size_bytes=weights.size_bytes)
        copy.holders.add(weights)
        if was_there or self._make_ram_room(weights.size_bytes):
            self._ram[weights.file] = copy
        return was_there

    def _make_ram_room(self, needed_bytes: int) -> bool:
        # First the file cache, then copies of what is in VRAM, at last what is nowhere else.
        in_vram = {weights.file for weights in list(self._vram)}
        order = sorted(self._ram, key=lambda file: (bool(self._ram[file].holders), file not in in_vram))
        while self._ram_free_bytes() < needed_bytes and order:
            del self._ram[order.pop(0)]
            self.evicted["ram"] += 1
        return self._ram_free_bytes() >= needed_bytes

    def _ram_free_bytes(self) -> int:
        copies = sum(copy.size_bytes for copy in self._ram.values())
        return self.room.ram_bytes - self.room.system_bytes - copies

    def _let_go(self, weights: Weights) -> None:
        copy = self._ram.get(weights.file)
        if copy is not None:
            copy.holders.discard(weights)

    def _settle(self) -> None:
        if not self.room.keeps_files:
            self._ram = {file: copy for file, copy in self._ram.items() if copy.holders}
