"""Which host fetches what: all files of a job come to one host, pinned ones to each that is named."""

from __future__ import annotations

from core.model_files.needs import FetchHost, FleetNeeds, HostGpu, Need, by_name, host_for, wants_of
from core.records.model_file import ModelCopy, ModelFile
from core.records.requirements import Requirements


def entry(path: str, size: int = 10**9, pools: tuple[str, ...] = (), tags: tuple[str, ...] = ()) -> ModelFile:
    source = "https://a.example/x"
    return ModelFile(path=path, source=source, sha256="0" * 64, size_bytes=size, pools=pools, tags=tags)


def host(name: str, *names: str, pool: str | None = None, vram_bytes: int | None = None) -> FetchHost:
    return FetchHost(name=name, gpus=(HostGpu(pool=pool, vram_bytes=vram_bytes, names=frozenset(names)),))


def copies(*found: ModelCopy) -> dict[tuple[str, str], ModelCopy]:
    return {(copy.host, copy.path): copy for copy in found}


A, B = entry("checkpoints/a.sft"), entry("loras/b.sft")
NEED = Need(files=("a.sft", "b.sft", "own.sft"), is_held_up=True)


def wanted(name: str, fleet: FleetNeeds, *manifest: ModelFile) -> tuple[list[str], list[str]]:
    wants = wants_of(name, fleet, manifest, pool="p", tags=("t",))
    return [each.path for each in wants.for_jobs], [each.path for each in wants.pinned]


def test_pins_by_pool_and_by_tag_and_no_others() -> None:
    manifest = (
        entry("a/pool.sft", pools=("p", "q")),
        entry("a/tag.sft", tags=("t",)),
        entry("a/other.sft", pools=("q",), tags=("u",)),
        entry("a/none.sft"),
    )
    assert wanted("here", FleetNeeds(), *manifest) == ([], ["a/pool.sft", "a/tag.sft"])


def test_a_job_that_waits_has_all_its_files_fetched_by_one_host_that_suits() -> None:
    need = Need(files=NEED.files, is_held_up=True, requires=Requirements(pool="q"))
    hosts = (host("one", pool="q"), host("two", pool="q"), host("three", pool="r"))
    fleet = FleetNeeds(hosts=hosts, needs=(need,))
    chosen = host_for(need, fleet, by_name((A, B)))
    assert chosen in ("one", "two")
    for each in hosts:
        paths = [A.path, B.path] if each.name == chosen else []
        assert wanted(each.name, fleet, A, B) == (paths, [])
    nobody = Need(files=NEED.files, is_held_up=True, requires=Requirements(vram_gb=80))
    small = FleetNeeds(hosts=(host("one", vram_bytes=24 * 10**9),), needs=(nobody,))
    assert host_for(nobody, small, {}) is None
    assert wanted("one", small, A, B) == ([], [])


def test_a_file_of_the_same_name_in_another_folder_is_another_file() -> None:
    need = Need(files=("model.sft",), is_held_up=True)
    here = host("here", "model.sft", "vae/model.sft")
    fleet = FleetNeeds(hosts=(here,), needs=(need,))
    assert wanted("here", fleet, entry("vae/model.sft"), entry("checkpoints/model.sft")) == (
        ["checkpoints/model.sft"],
        [],
    )
    # Workers of before tell no folders.
    before = FleetNeeds(hosts=(host("here", "model.sft"),), needs=(need,))
    assert wanted("here", before, entry("checkpoints/model.sft")) == ([], [])


def test_folders_of_older_names_are_those_of_today() -> None:
    listed = host("here", "u.sft", "diffusion_models/u.sft", "t.sft", "text_encoders/t.sft")
    assert listed.lists(entry("unet/u.sft"))
    assert listed.lists(entry("clip/t.sft"))
    assert not listed.lists(entry("clip/u.sft"))


def test_it_is_the_host_that_has_most_of_them_and_stays_that() -> None:
    hosts = (host("one", "a.sft"), host("two"), host("three"))
    fleet = FleetNeeds(hosts=hosts, needs=(NEED,))
    assert host_for(NEED, fleet, by_name((A, B))) == "one"
    assert wanted("one", fleet, A, B) == ([B.path], []), "it lists the other one, wherever it is from"
    larger = entry("loras/b.sft", size=9 * 10**9)
    begun = FleetNeeds(hosts=hosts, needs=(NEED,), copies=copies(ModelCopy(host="two", path=B.path, state="fetching")))
    assert host_for(NEED, begun, by_name((A, larger))) == "two"


def test_a_host_that_failed_gives_way_to_others() -> None:
    failed = ModelCopy(host="one", path=B.path, state="failed", error="no")
    fleet = FleetNeeds(hosts=(host("one", "a.sft"), host("two")), needs=(NEED,), copies=copies(failed))
    assert host_for(NEED, fleet, by_name((A, B))) == "two"


def test_a_host_that_fetches_less_is_asked_first() -> None:
    other = ModelCopy(host="two", path="vae/c.sft", state="fetching")
    fleet = FleetNeeds(hosts=(host("one"), host("two")), needs=(NEED,), copies=copies(other))
    assert host_for(NEED, fleet, by_name((A, B))) == "one"


def test_jobs_that_can_run_somewhere_have_nothing_fetched() -> None:
    need = Need(files=("a.sft",))
    assert wanted("one", FleetNeeds(hosts=(host("one"),), needs=(need,)), A) == ([], [])


def test_who_waits_longer_is_first_and_all_of_a_name_are_fetched() -> None:
    twin = entry("loras/a.sft")
    needs = (Need(files=("b.sft",), is_held_up=True, since_ms=2), Need(files=("a.sft",), is_held_up=True, since_ms=1))
    fleet = FleetNeeds(hosts=(host("one"),), needs=needs)
    assert wanted("one", fleet, A, B, twin) == ([A.path, twin.path, B.path], [])
