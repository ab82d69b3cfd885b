"""Models in three tiers: what a load moves from where, who makes room, and what it costs; without a process."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from comfy.simulator.execution.cache import CacheEntry, NodeCache
from comfy.simulator.machine.load_costs import LoadCosts
from comfy.simulator.machine.model_store import ModelStore, Move, Room, Weights
from comfy.simulator.machine.options import parse_options
from comfy.simulator.machine.vram import SimulatedGpu
from comfy.simulator.media.stand_ins import Model

GIB = 1024**3


def store(vram_bytes: int = 10_000, ram_bytes: int = 100_000, **rules: bool) -> ModelStore:
    return ModelStore(Room(vram_bytes=vram_bytes, ram_bytes=ram_bytes, **rules))


def weights(name: str, size_bytes: int = 4000) -> Weights:
    return Weights(folder="checkpoints", name=name, size_bytes=size_bytes)


def read(models: ModelStore, *names: str, size_bytes: int = 4000) -> list[Weights]:
    loaded = [weights(name, size_bytes) for name in names]
    for each in loaded:
        models.read(each)
    return loaded


def ways(moves: list[Move]) -> list[tuple[str, str, int]]:
    return [(move.leg, move.weights.name, move.size_bytes) for move in moves]


def in_ram(models: ModelStore) -> dict[str, bool]:
    """Files in RAM, and whether a node output holds them."""
    return {file.name: file.held for file in models.listing() if file.in_ram}


def in_vram(models: ModelStore) -> dict[str, int]:
    return {file.name: file.vram_bytes for file in models.listing() if file.vram_bytes}


def test_a_file_goes_from_disk_to_ram_to_vram_once() -> None:
    models = store()
    one = weights("one")

    assert ways([models.read(one)]) == [("disk", "one", 4000)]
    assert ways(models.use([one, one])) == [("vram", "one", 4000)]
    assert models.use([one]) == []
    assert (in_ram(models), in_vram(models)) == ({"one": True}, {"one": 4000})


def test_vram_is_left_by_what_was_unused_for_longest_and_no_more_of_it_than_is_needed() -> None:
    models = store()
    one, two, three = read(models, "one", "two", "three")
    for each in (one, two, one, three):
        models.use([each])

    # A tenth more than 4,000 was asked for, and 2,000 were free.
    assert in_vram(models) == {"one": 4000, "two": 1600, "three": 4000}
    assert models.resident_names() == ["one", "three"]
    assert ways(models.use([two])) == [("vram", "two", 2400)]
    assert models.evicted == {"vram": 2, "ram": 0}


def test_room_is_made_for_each_model_once_and_for_the_work_beside_them() -> None:
    models = ModelStore(Room(vram_bytes=10_000, working_bytes=1000, ram_bytes=100_000))
    one, two = read(models, "one", "two")
    models.use([one])

    models.use([two, two])

    # 4,400 and 1,000 to work in, of which 6,000 were free.
    assert in_vram(models) == {"one": 4000, "two": 4000}
    models.use(read(models, "three", size_bytes=1500))
    assert in_vram(models) == {"one": 3350, "two": 4000}


def test_what_one_step_needs_together_does_not_send_each_other_out() -> None:
    models = store()
    base, control = read(models, "base", size_bytes=9000) + read(models, "control", size_bytes=2000)
    models.use([base])

    assert ways(models.use([base, control])) == [("vram", "control", 1000), ("stream", "control", 1000)]
    assert in_vram(models) == {"base": 9000, "control": 1000}


def test_weights_larger_than_vram_stay_in_part_in_ram_and_are_due_in_each_pass() -> None:
    models = ModelStore(Room(vram_bytes=10_000, working_bytes=1000, ram_bytes=100_000))
    (huge,) = read(models, "huge", size_bytes=30_000)

    assert ways(models.use([huge])) == [("vram", "huge", 9000), ("stream", "huge", 21_000)]
    assert ways(models.use([huge])) == [("stream", "huge", 21_000)]
    assert (models.vram_used_bytes(), models.resident_names()) == (9000, [])


def test_weights_that_nothing_holds_leave_vram_and_stay_in_the_file_cache() -> None:
    models = store()
    (one,) = read(models, "one")
    models.use([one])
    assert models.ram_available_bytes() == 96_000

    del one

    assert (models.vram_used_bytes(), models.ram_available_bytes()) == (0, 100_000)
    assert in_ram(models) == {"one": False}
    assert ways([models.read(weights("one"))]) == [("ram", "one", 4000)]


def test_without_a_file_cache_they_are_gone() -> None:
    models = store(keeps_files=False)
    (one,) = read(models, "one")
    models.use([one])

    del one

    assert models.listing() == []
    assert ways([models.read(weights("one"))]) == [("disk", "one", 4000)]


def test_ram_is_left_by_the_file_cache_then_by_copies_of_what_is_in_vram_then_by_the_rest() -> None:
    models = store(ram_bytes=12_000)
    (held,) = read(models, "held")
    (resident,) = read(models, "resident")
    models.use([resident])
    read(models, "cached")
    assert in_ram(models) == {"held": True, "resident": True, "cached": False}

    kept = read(models, "a")
    assert set(in_ram(models)) == {"held", "resident", "a"}
    kept += read(models, "b")
    assert set(in_ram(models)) == {"held", "a", "b"}
    kept += read(models, "c")
    assert set(in_ram(models)) == {"a", "b", "c"}
    assert models.evicted["ram"] == 3

    # Still in VRAM, so nothing is due; the other one has to be read again.
    assert models.use([resident]) == []
    assert ways(models.use([held])) == [("disk", "held", 4000), ("vram", "held", 4000)]


def test_copies_in_ram_that_were_used_last_stay_longest() -> None:
    models = store(ram_bytes=12_000)
    one, two = read(models, "one", "two")
    for each in (one, two, one):
        models.use([each])
    others = read(models, "three")
    others += read(models, "four")

    assert set(in_ram(models)) == {"one", "three", "four"}


def test_what_is_sent_out_of_vram_goes_back_to_ram_too() -> None:
    models = store(vram_bytes=5000, ram_bytes=8000)
    (one,) = read(models, "one")
    models.use([one])
    read(models, "filler", size_bytes=5000)
    assert "one" not in in_ram(models)
    small = read(models, "small", size_bytes=1000)

    models.use(small)

    assert in_vram(models) == {"one": 3900, "small": 1000}
    assert [move.leg for move in models.use([one])] == ["vram"]


@pytest.mark.parametrize(("holds_filler", "comes_from"), [(False, ["vram"]), (True, ["disk", "vram"])])
def test_what_leaves_vram_goes_back_to_ram_where_there_is_room(holds_filler: bool, comes_from: list[str]) -> None:
    models = store(ram_bytes=8000)
    (one,) = read(models, "one")
    models.use([one])
    filler = read(models, "filler", size_bytes=5000)
    assert "one" not in in_ram(models)

    if not holds_filler:
        # The file cache gives way.
        filler.clear()
    models.unload_all()

    assert [move.leg for move in models.use([one])] == comes_from


def test_a_file_larger_than_ram_is_never_kept_there() -> None:
    models = store(ram_bytes=3000)
    (one,) = read(models, "one")

    assert in_ram(models) == {}
    assert [move.leg for move in models.use([one])] == ["disk", "vram"]


@pytest.mark.parametrize(("unloads_ram", "comes_from"), [(False, ["vram"]), (True, ["disk", "vram"])])
def test_unloading_leaves_ram_to_a_model_unless_vram_is_dynamic(unloads_ram: bool, comes_from: list[str]) -> None:
    models = store(unloads_ram=unloads_ram, keeps_files=False)
    (one,) = read(models, "one")
    models.use([one])

    models.unload_all()

    assert models.vram_used_bytes() == 0
    assert [move.leg for move in models.use([one])] == comes_from


def test_without_smart_memory_each_load_sends_all_others_out() -> None:
    models = store(is_smart=False)
    one, two = read(models, "one", "two")
    models.use([one])
    models.use([two])

    assert in_vram(models) == {"two": 4000}


def test_a_load_takes_its_bytes_over_the_speed_or_what_was_said() -> None:
    checkpoint, vae = weights("one", 6000), Weights(folder="vae", name="v", size_bytes=500)
    by_speed = LoadCosts(disk_bytes_s=3000, bus_bytes_s=12_000)
    assert by_speed.seconds(Move(leg="disk", weights=checkpoint, size_bytes=6000)) == 2.0
    for leg in ("ram", "vram", "stream"):
        assert by_speed.seconds(Move(leg=leg, weights=checkpoint, size_bytes=6000)) == 0.5
    assert LoadCosts(disk_bytes_s=0, bus_bytes_s=0).seconds(Move(leg="disk", weights=vae, size_bytes=500)) == 0.0

    flat = LoadCosts(disk_bytes_s=3000, bus_bytes_s=12_000, checkpoint_s=10.0)
    assert flat.seconds(Move(leg="disk", weights=checkpoint, size_bytes=6000)) == 10.0
    assert flat.seconds(Move(leg="disk", weights=vae, size_bytes=500)) == 0.5
    assert flat.seconds(Move(leg="vram", weights=checkpoint, size_bytes=3000)) == pytest.approx(0.5)


def test_a_gpu_spends_counts_and_names_what_each_pass_costs() -> None:
    costs = LoadCosts(disk_bytes_s=100_000, bus_bytes_s=100_000)
    gpu = SimulatedGpu(room=Room(vram_bytes=10_000, ram_bytes=100_000), costs=costs, speed=10)
    huge = weights("huge", 40_000)

    started_s = time.monotonic()
    gpu.read(huge)
    stream_s = gpu.use(huge, passes=5)
    spent_s = time.monotonic() - started_s

    # Half a simulated second, ten times as fast.
    assert 0.05 <= spent_s < 0.5
    assert stream_s == pytest.approx(0.3)
    loads = gpu.loads()
    assert {leg: (each["count"], each["size_bytes"]) for leg, each in loads.items()} == {
        "disk": (1, 40_000),
        "ram": (0, 0),
        "vram": (1, 10_000),
        "stream": (5, 150_000),
    }
    assert [loads[leg]["seconds"] for leg in ("disk", "vram", "stream")] == pytest.approx([0.4, 0.1, 1.5])

    gpu.use(weights("other", 9000))
    assert gpu.evictions() == {"vram": 1, "ram": 0}
    gpu.forget_counts()
    assert (gpu.loads()["disk"]["count"], gpu.evictions()["vram"]) == (0, 0)
    assert gpu.used_bytes() == 100


def fill(cache: NodeCache, models: ModelStore, name: str) -> None:
    """Run a prompt of a loader and something behind it."""
    cache.begin({f"{name}.loader", f"{name}.text"})
    (loaded,) = read(models, name)
    cache.put(f"{name}.text", CacheEntry(values=("text",)))
    cache.put(f"{name}.loader", CacheEntry(values=(Model(weights=(loaded,)),)))


def kept(cache: NodeCache) -> list[str]:
    return [key for name in "abc" for key in (f"{name}.loader", f"{name}.text") if cache.get(key)]


def test_the_ram_cache_drops_models_of_earlier_prompts_while_ram_is_short() -> None:
    models = store(ram_bytes=100_000)
    cache = NodeCache("ram", 0, headroom_bytes=92_000)
    fill(cache, models, "a")
    fill(cache, models, "b")
    cache.relieve(models.ram_available_bytes)
    assert kept(cache) == ["a.loader", "a.text", "b.loader", "b.text"]

    fill(cache, models, "c")
    cache.relieve(models.ram_available_bytes)

    # The oldest model, although other results are as old; then there is room again.
    assert kept(cache) == ["a.text", "b.loader", "b.text", "c.loader", "c.text"]


def test_it_drops_whatever_the_running_prompt_lacks_where_no_ram_is_enough() -> None:
    models = store(ram_bytes=100_000)
    cache = NodeCache("ram", 0, headroom_bytes=100_000)
    fill(cache, models, "a")
    fill(cache, models, "b")
    cache.relieve(models.ram_available_bytes)

    assert kept(cache) == ["b.loader", "b.text"]
    assert in_ram(models) == {"a": False, "b": True}


def test_other_caches_look_at_no_ram_and_none_lets_go_at_the_end() -> None:
    models = store()
    for mode, entries in (("classic", 2), ("lru", 4), ("none", 0)):
        cache = NodeCache(mode, 100, headroom_bytes=10**9)
        fill(cache, models, "a")
        fill(cache, models, "b")
        cache.relieve(models.ram_available_bytes)
        cache.end()
        assert len(kept(cache)) == entries, mode


def test_options_of_memory(tmp_path: Path) -> None:
    base = ["--user-directory", str(tmp_path)]
    plain = parse_options(base)
    assert (plain.room.vram_bytes, plain.room.ram_bytes) == (24 * GIB, 64 * GIB)
    assert (plain.room.keeps_files, plain.room.is_smart, plain.room.unloads_ram) == (True, True, False)
    assert plain.room.working_bytes == pytest.approx(1.2 * GIB)
    assert (plain.load_costs.disk_bytes_s, plain.load_costs.bus_bytes_s) == (3e9, 12e9)
    assert plain.load_costs.checkpoint_s is None

    flags = [
        "--simulate-vram-gb",
        "8",
        "--simulate-ram-gb",
        "32",
        "--simulate-disk-speed",
        "0.5",
        "--disable-smart-memory",
    ]
    flags += [
        "--simulate-bus-speed",
        "20",
        "--simulate-load-seconds",
        "3",
        "--simulate-no-file-cache",
        "--reserve-vram",
        "2",
    ]
    told = parse_options([*base, *flags])
    assert (told.room.vram_bytes, told.room.ram_bytes, told.room.system_bytes) == (8 * GIB, 32 * GIB, 2 * GIB)
    assert (told.room.keeps_files, told.room.is_smart, told.load_costs.checkpoint_s) == (False, False, 3.0)
    assert told.room.working_bytes == pytest.approx(2.8 * GIB)
    assert (told.load_costs.disk_bytes_s, told.load_costs.bus_bytes_s) == (0.5e9, 20e9)


@pytest.mark.parametrize(
    ("flags", "headroom_gib", "unloads_ram"),
    [
        ((), 4, False),
        (("--cache-ram", "16"), 16, False),
        (("--simulate-version", "0.28.0"), 64, True),
        (("--simulate-version", "0.28.0", "--simulate-ram-gb", "256"), 128, True),
        (("--simulate-version", "0.28.0", "--cache-ram", "4"), 64, True),
        (("--simulate-version", "0.28.0", "--cache-ram", "4", "20"), 20, True),
        (("--simulate-version", "0.28.0", "--disable-dynamic-vram"), 64, False),
    ],
)
def test_rules_of_releases(tmp_path: Path, flags: tuple[str, ...], headroom_gib: int, unloads_ram: bool) -> None:
    options = parse_options(["--user-directory", str(tmp_path), *flags])

    assert (options.idle_headroom_bytes, options.room.unloads_ram) == (headroom_gib * GIB, unloads_ram)


def test_sizes_of_models_can_be_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--user-directory", str(tmp_path)]
    named = ["--simulate-model", "loras/sub/a.safetensors=0.5", "--simulate-model", "vae/b.pt"]
    assert parse_options([*base, *named]).extra_models == {
        ("loras", "sub/a.safetensors"): 500_000_000,
        ("vae", "b.pt"): None,
    }
    for bad in ("vae/b.pt=-1", "vae/b.pt=large", "b.pt", "vae/"):
        with pytest.raises(SystemExit):
            parse_options([*base, "--simulate-model", bad])
    assert "large" in capsys.readouterr().err
