"""Hosts that fetch model files, by what the ledger says to them: who fetches what, and what makes room for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from comfy.model_files import download
from comfy.model_files.cache import PART_SUFFIX
from comfy.model_files.journal import journal_of
from core.ledger import Ledger
from core.ledger.database.tables import instances
from core.ledger.instances import STOPPED
from core.ledger.model_sets import load_subject, model_set_of, run_subject
from core.ledger.models import speeds
from core.model_files import yielding as model_yielding
from core.records.model_file import AWAITS_FILES, ModelCopy, ModelFile, Yield
from core.records.requirements import Requirements
from core.settings import Settings
from tasks.models import failures, fetcher, pace
from tasks.models.fetcher import ModelFetcher, fetches_models
from tests.ledger_moves import claimed, digest_of, produced, register, submit
from tests.model_server import ModelServer, content, model_server
from tests.paths import ROOT
from tests.waiting import until

SIZE = 1_000_000
#: Holds a lock of a folder, as another host does that shares it.
HOLD = """
import sys
from pathlib import Path
from comfy.model_files.cache import ModelCache
with ModelCache(Path(sys.argv[1])).locked(sys.argv[2]) as is_ours:
    print(is_ours, flush=True)
    sys.stdin.read()
"""
Host = Callable[..., Path]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that a test can wait for."""
    monkeypatch.setattr(fetcher, "LOOK_S", 0.2)
    monkeypatch.setattr(failures, "FIRST_PAUSE_S", 0.2)


@contextmanager
def host(settings: Settings, ledger: Ledger, name: str, **fields: Any) -> Iterator[Path]:
    """A host with a GPU, which fetches to a folder of its own; yields the folder."""
    folder = fields.get("models_dir") or settings.data_dir / f"models-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    pool = fields.get("pool")
    come_up(ledger, name, pool=pool)
    own = {"models_dir": folder, "models_allow_http": True, "min_free_disk_bytes": 0, "host": name, **fields}
    running = ModelFetcher(settings.model_copy(update=own), arrived=lambda: None)
    running.start()
    try:
        yield folder
    finally:
        running.end()
        running._loop.join(10)


def come_up(ledger: Ledger, name: str, pool: str | None = None) -> None:
    known: dict[str, Any] = {"worker": f"w-{name}", "pool": pool}
    ledger.instances.register(name=f"gpu0@{name}", host=name, kind="simulator", gpu=None, **known)
    ledger.instances.up(
        f"gpu0@{name}",
        url="http://127.0.0.1:1",
        output_dir=None,
        version=None,
        device=None,
        object_info={"KSampler": {}},
        restarts=0,
        fetches_models=True,
        **known,
    )


def offer(ledger: Ledger, name: str, file: str) -> str:
    """Have a host's GPU list one file alone; returns its catalogue."""
    known: dict[str, Any] = {
        "object_info": {f"Loads-{file}": {}},
        "model_sizes": {file: SIZE, f"checkpoints/{file}": SIZE},
    }
    ledger.instances.offers(f"gpu0@{name}", worker=f"w-{name}", **known)
    return digest_of(ledger, f"gpu0@{name}")


def yields_on(ledger: Ledger, name: str) -> Any:
    with ledger.database.read() as connection:
        return connection.execute(select(instances.c.yields).where(instances.c.host == name)).scalar_one()


def reason(ledger: Ledger, file: str) -> str:
    """Why the jobs wait that load this file."""
    outlook = ledger.outlook.read()
    [line_id] = [line_id for line_id, kind in outlook.kinds.items() if kind.files == (file,)]
    return outlook.forecast.sentence(line_id)


def enter(ledger: Ledger, server: ModelServer, path: str, *, seed: int = 0, **fields: Any) -> ModelFile:
    name = path.replace("/", "-")
    served = server.serve(f"/{name}", content(SIZE, seed))
    [entry] = ledger.manifest.put([ModelFile(path=path, source=f"{server.url}/{name}", sha256=served.sha256, **fields)])
    return entry


def wait_for(ledger: Ledger, *names: str, **fields: Any) -> str:
    """A job that waits for files."""
    return submit(ledger, catalogues=(AWAITS_FILES,), models=names, **fields).id


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.glob("*/**/*.sft")}


def parts_in(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*/**/.*.sft.*")}


def drip(server: ModelServer, name: str) -> None:
    """Have a source send a byte each five seconds."""
    file = server.files[f"/checkpoints-{name}"]
    file.bytes_s, file.piece_bytes, file.has_ranges = 0.2, 1, False


def copy_of(ledger: Ledger, entry: ModelFile) -> ModelCopy | None:
    return next((copy for copy in ledger.copies.all() if copy.path == entry.path), None)


def test_all_files_of_a_job_come_to_one_host_that_suits(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer
) -> None:
    a, b = enter(ledger, server, "checkpoints/a.sft"), enter(ledger, server, "loras/b.sft", seed=1)
    with (
        host(ledger_settings, ledger, "one", pool="p") as one,
        host(ledger_settings, ledger, "two", pool="p") as two,
        host(ledger_settings, ledger, "three") as three,
    ):
        wait_for(ledger, "a.sft", "b.sft", requires=Requirements(pool="p"))
        until(lambda: {a.path, b.path} in (files_in(one), files_in(two)), what="both files on one host")
        until(lambda: [copy.state for copy in ledger.copies.all()] == ["ready"] * 2, what="their copies")
        assert files_in(one) | files_in(two) == {a.path, b.path}
        assert not (files_in(one) and files_in(two))
        assert files_in(three) == set()
    assert server.sent == {"/checkpoints-a.sft": SIZE + 1, "/loras-b.sft": SIZE + 1}


def test_each_host_keeps_what_is_pinned_to_it(ledger_settings: Settings, ledger: Ledger, server: ModelServer) -> None:
    pool = enter(ledger, server, "checkpoints/pool.sft", pools=("p",))
    tag = enter(ledger, server, "checkpoints/tag.sft", seed=1, tags=("t",))
    enter(ledger, server, "checkpoints/none.sft", seed=2)
    with (
        host(ledger_settings, ledger, "one", pool="p") as one,
        host(ledger_settings, ledger, "two", pool="q", models_tags=("t", "u")) as two,
    ):
        until(lambda: (files_in(one), files_in(two)) == ({pool.path}, {tag.path}), what="the pinned files")


def test_what_a_host_cannot_start_without_is_fetched_by_whichever_worker_fetches_and_stays(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer
) -> None:
    own, other = enter(ledger, server, "checkpoints/own.sft"), enter(ledger, server, "checkpoints/a.sft", seed=1)
    with host(ledger_settings, ledger, "one", models_max_bytes=SIZE) as folder:
        job_id = wait_for(ledger, "a.sft")
        until(lambda: files_in(folder) == {other.path}, what="the other file")
        assert "/checkpoints-own.sft" not in server.sent, "nobody has missed it"
        ledger.jobs.cancel(job_id)
        fields: dict[str, Any] = {"models_dir": folder, "models_allow_http": True, "host": "one"}
        second = ModelFetcher(ledger_settings.model_copy(update=fields), arrived=lambda: None)
        assert second.lacking(("own.sft", "in-no-manifest.sft")) == ["own.sft"]
        assert second.missing(("own.sft", "in-no-manifest.sft")) == ["own.sft"]
        until(lambda: files_in(folder) == {own.path}, what="the file")
        assert second.missing(("own.sft",)) == []
        second._close()
        wait_for(ledger, "a.sft")
        until(lambda: _failed(ledger, other), what="that there is no room for the other one")


def test_what_runs_stays_and_the_longest_unused_goes(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer
) -> None:
    first, second, third = (
        enter(ledger, server, f"checkpoints/{name}.sft", seed=seed) for seed, name in enumerate("abc")
    )
    with host(ledger_settings, ledger, "one", models_max_bytes=2 * SIZE) as one:
        for name, entry in (("a.sft", first), ("b.sft", second)):
            job_id = wait_for(ledger, name)
            until(lambda path=entry.path: path in files_in(one), what=name)  # type: ignore[misc]
            ledger.jobs.cancel(job_id)
        # The first one came first, and a job runs with it.
        claimed(ledger, "gpu0@one", models=("a.sft",))
        job_id = wait_for(ledger, "c.sft")
        until(lambda: third.path in files_in(one), what="the third file")
        assert files_in(one) == {first.path, third.path}
        # Both are in use now.
        wait_for(ledger, "b.sft")
        [copy] = until(lambda: [each for each in ledger.copies.all() if each.state == "failed"], what="the failure")
        assert copy.path == second.path
        assert f"There is no room for {second.path}, {SIZE} bytes: {2 * SIZE} bytes of fetched files" in str(copy.error)
        assert files_in(one) == {first.path, third.path}
        ledger.jobs.cancel(job_id)
        until(lambda: second.path in files_in(one), what="the second one again")
        assert files_in(one) == {first.path, second.path}


def test_jobs_that_wait_do_not_keep_each_others_room_for_ever(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer
) -> None:
    entries = {name: enter(ledger, server, f"checkpoints/{name}.sft", seed=seed) for seed, name in enumerate("abcd")}
    with host(ledger_settings, ledger, "one", models_max_bytes=2 * SIZE) as one:
        before = wait_for(ledger, "c.sft")
        until(lambda: files_in(one) == {entries["c"].path}, what="a file of the second job")
        ledger.jobs.cancel(before)
        first, second = wait_for(ledger, "a.sft", "b.sft"), wait_for(ledger, "c.sft", "d.sft")
        until(lambda: files_in(one) == {entries["a"].path, entries["b"].path}, what="both files of the first job")
        copy = until(lambda: _failed(ledger, entries["d"]) or _failed(ledger, entries["c"]), what="those that wait")
        assert "There is no room for" in str(copy.error)
        ledger.jobs.cancel(first)
        until(lambda: files_in(one) == {entries["c"].path, entries["d"].path}, what="both files of the second job")
        ledger.jobs.cancel(second)


def test_a_file_comes_as_soon_as_there_is_room_however_often_it_failed_before(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE_S", 1000.0)
    running, entry = enter(ledger, server, "checkpoints/a.sft"), enter(ledger, server, "checkpoints/b.sft", seed=1)
    with host(ledger_settings, ledger, "one", models_max_bytes=SIZE) as one:
        first = wait_for(ledger, "a.sft")
        until(lambda: files_in(one) == {running.path}, what="the first file")
        wait_for(ledger, "b.sft")
        until(lambda: _failed(ledger, entry), what="the failure")
        asked = len(server.asked)
        ledger.jobs.cancel(first)
        until(lambda: files_in(one) == {entry.path}, what="the second file")
        assert [path for path, _ in server.asked[asked:]].count("/checkpoints-b.sft") <= 6


def test_a_folder_in_the_place_of_a_file_is_told(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer
) -> None:
    entry = enter(ledger, server, "checkpoints/a.sft", pools=("p",))
    folder = ledger_settings.data_dir / "own"
    (folder / entry.path).mkdir(parents=True)
    with host(ledger_settings, ledger, "one", pool="p", models_dir=folder):
        copy = until(lambda: _failed(ledger, entry), what="the failure")
    assert copy.error == "checkpoints/a.sft is a folder on this host, and no file: move it away, or mend the manifest."


def test_a_file_in_the_place_of_a_folder_is_told(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer
) -> None:
    entry = enter(ledger, server, "checkpoints/a.sft/sub/b.sft", pools=("p",))
    folder = ledger_settings.data_dir / "own"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "a.sft").write_bytes(b"an operator's own")
    with host(ledger_settings, ledger, "one", pool="p", models_dir=folder):
        copy = until(lambda: _failed(ledger, entry), what="the failure")
    assert copy.error == (
        "checkpoints/a.sft/sub/b.sft belongs below checkpoints/a.sft, which is a file on this host, and no folder: "
        "move it away, or mend the manifest."
    )
    assert (folder / "checkpoints" / "a.sft").read_bytes() == b"an operator's own"


def test_an_operators_own_file_is_there_and_stays(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer
) -> None:
    entry = enter(ledger, server, "checkpoints/a.sft", size_bytes=SIZE, pools=("p",))
    other = enter(ledger, server, "checkpoints/b.sft", seed=1, size_bytes=SIZE, pools=("p",))
    folder = ledger_settings.data_dir / "own"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / entry.path).write_bytes(content(SIZE, 7))
    (folder / other.path).write_bytes(b"something else")
    with host(ledger_settings, ledger, "one", pool="p", models_dir=folder):
        until(lambda: len(ledger.copies.all()) == 2, what="both copies")
        found = {copy.path: (copy.state, copy.error) for copy in ledger.copies.all()}
    assert found[entry.path] == ("ready", None)
    assert found[other.path][0] == "failed"
    assert "is another file, of 14 bytes, which was not fetched by us" in str(found[other.path][1])
    assert (folder / other.path).read_bytes() == b"something else"
    assert server.sent == {}


def test_a_file_that_changes_in_the_manifest_is_fetched_anew(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer
) -> None:
    entry = enter(ledger, server, "checkpoints/a.sft", pools=("p",))
    with host(ledger_settings, ledger, "one", pool="p") as one:
        place = one / entry.path
        until(lambda: place.exists() and place.read_bytes() == content(SIZE), what="the file")
        enter(ledger, server, "checkpoints/a.sft", seed=9, pools=("p",))
        until(lambda: place.read_bytes() == content(SIZE, 9), what="the newer file")


def test_what_an_entry_said_before_is_replaced_wherever_it_is_though_no_job_waits_for_it(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer
) -> None:
    entry = enter(ledger, server, "checkpoints/a.sft")
    with host(ledger_settings, ledger, "one") as one:
        place = one / entry.path
        ledger.jobs.cancel(wait_for(ledger, "a.sft"))
        job_id = wait_for(ledger, "a.sft")
        until(lambda: place.exists() and place.read_bytes() == content(SIZE), what="the file")
        ledger.jobs.cancel(job_id)
        enter(ledger, server, "checkpoints/a.sft", seed=9)
        until(lambda: place.read_bytes() == content(SIZE, 9), what="the newer one")
        until(lambda: [copy.state for copy in ledger.copies.all()] == ["ready"], what="that it is told")


def test_a_backlog_brings_a_file_to_a_second_host_and_to_no_third(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer
) -> None:
    entry = enter(ledger, server, "checkpoints/a.sft", size_bytes=SIZE)
    served = server.files["/checkpoints-a.sft"]
    register(ledger, "gpu0@has", {"UNETLoader": {}})
    pins = (digest_of(ledger, "gpu0@has"), AWAITS_FILES)
    # As many as a second host that works on them is enough for: a fetch costs 3 s here, and a load 2 s.
    models = model_set_of(["a.sft"])
    ledger.durations.learn_all({run_subject(models): 1.0, load_subject(models): 2.0}, gpu="simulator")
    submit(ledger, catalogues=pins, models=("a.sft",))
    served.bytes_s = 200e3
    with (
        host(ledger_settings, ledger, "one", pool="p") as one,
        host(ledger_settings, ledger, "two", pool="p") as two,
        host(ledger_settings, ledger, "three", pool="q") as three,
    ):
        until(lambda: [need.backlog_s for need in ledger.file_needs.read().needs] == [pytest.approx(1.0)], what="it")
        assert ledger.copies.all() == [], "one job is not worth a fetch"
        for _ in range(7):
            submit(ledger, catalogues=pins, models=("a.sft",))
        [copy] = until(ledger.copies.all, what="a fetch")
        assert (copy.host, copy.state) == ("two", "fetching")
        served.bytes_s = None
        until(lambda: files_in(two) == {entry.path}, what="the file at the second host")
        until(lambda: [each.state for each in ledger.copies.all()] == ["ready"], what="word of it")
        assert files_in(one) | files_in(three) == set()


def test_how_fast_files_come_is_learned(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speeds, "LEAST_BYTES", 1000)
    entry = enter(ledger, server, "checkpoints/a.sft", pools=("p",))
    server.files["/checkpoints-a.sft"].bytes_s = 400e3
    with host(ledger_settings, ledger, "one", pool="p") as one:
        until(lambda: files_in(one) == {entry.path}, what="the file")
        known = ledger.file_needs.read().speeds
    assert known.keys() == {"one"}
    assert 1e3 < known["one"] < 500e3


def test_a_folder_that_cannot_be_written_is_only_read(settings: Settings, tmp_path: Path) -> None:
    assert fetches_models(settings) is False
    assert fetches_models(settings.model_copy(update={"models_dir": tmp_path})) is True
    assert fetches_models(settings.model_copy(update={"models_dir": Path("/proc/self")})) is False


def test_a_job_whose_only_gpu_with_the_file_is_gone_has_it_fetched_elsewhere(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer
) -> None:
    entry = enter(ledger, server, "checkpoints/a.sft")
    register(ledger, "gpu0@gone", {"UNETLoader": {}})
    pins = (AWAITS_FILES, digest_of(ledger, "gpu0@gone"))
    with host(ledger_settings, ledger, "one") as one:
        job_id = submit(ledger, catalogues=pins, models=("a.sft",)).id
        needs = ledger.file_needs.read().needs
        assert [need.is_held_up for need in needs] == [False], "that GPU is there"
        ledger.instances.down("gpu0@gone", worker="w-gpu0@gone", state=STOPPED, reason="gone")
        until(lambda: files_in(one) == {entry.path}, what="the file")
        assert ledger.jobs.get(job_id).status == "queued"


def test_hosts_that_share_a_folder_do_not_fetch_the_same_file_at_once(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer
) -> None:
    entry = enter(ledger, server, "checkpoints/a.sft", pools=("p",))
    other = enter(ledger, server, "checkpoints/b.sft", seed=1, pools=("p",))
    folder = ledger_settings.data_dir / "shared"
    folder.mkdir()
    command = [sys.executable, "-c", HOLD, str(folder), f"file {entry.path}"]
    holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with host(ledger_settings, ledger, "one", pool="p", models_dir=folder):
            until(lambda: files_in(folder) == {other.path}, what="the other file")
            assert entry.path not in {copy.path for copy in ledger.copies.all()}
            holder.kill()
            until(lambda: files_in(folder) == {entry.path, other.path}, what="the file of the host that was killed")
    finally:
        holder.kill()
        holder.communicate()
    assert server.sent["/checkpoints-a.sft"] == SIZE + 1


def test_sources_that_drip_or_are_silent_hold_up_nobody_and_give_way(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "SLOW_S", 0.5)
    monkeypatch.setattr(pace, "FLOOR_S", 3.0)
    monkeypatch.setattr(fetcher, "FLOOR_S", 3.0)
    names = [f"drip{number}.sft" for number in range(fetcher.FILES_AT_ONCE)]
    dripping = [enter(ledger, server, f"checkpoints/{name}") for name in names]
    mute = enter(ledger, server, "checkpoints/mute.sft")
    honest = enter(ledger, server, "checkpoints/honest.sft", seed=1)
    pinned = enter(ledger, server, "checkpoints/pinned.sft", seed=2, pools=("p",))
    for name in names:
        drip(server, name)
    server.files["/checkpoints-mute.sft"].is_mute = True
    try:
        with host(ledger_settings, ledger, "one", pool="p") as one:
            wait_for(ledger, "mute.sft", *names)
            until(lambda: server.busy > len(names), what="all of the bad ones")
            wait_for(ledger, "honest.sft")
            until(lambda: files_in(one) == {honest.path, pinned.path}, what="the honest one, and what is pinned")
            assert not any(copy.error for copy in ledger.copies.all()), "it did not wait for them to give way"
            for entry in (mute, *dripping):
                copy = until(lambda entry=entry: _failed(ledger, entry), what=f"the failure of {entry.path}")  # type: ignore[misc]
                assert f"{entry.source} sends too slowly: " in str(copy.error)
    finally:
        server.files["/checkpoints-mute.sft"].is_mute = False


def _failed(ledger: Ledger, entry: ModelFile) -> ModelCopy | None:
    copy = copy_of(ledger, entry)
    return copy if copy is not None and copy.state == "failed" else None


def test_a_source_without_an_end_gets_the_room_there_is_and_sends_nobody_away(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ROOM_BYTES", SIZE // 10)
    small = enter(ledger, server, "checkpoints/a.sft", pools=("p",))
    endless = enter(ledger, server, "checkpoints/endless.sft", seed=1)
    served = server.serve("/checkpoints-endless.sft", content(20 * SIZE, 1), says_size=False, has_ranges=False)
    served.bytes_s = 20e6
    with host(ledger_settings, ledger, "one", pool="p", models_max_bytes=3 * SIZE) as one:
        until(lambda: files_in(one) == {small.path}, what="the small one")
        wait_for(ledger, "endless.sft")
        copy = until(lambda: _failed(ledger, endless), what="the failure")
        assert f"{endless.source} sends more than there is room for: " in str(copy.error)
        assert (files_in(one), parts_in(one)) == ({small.path}, set())
    assert server.sent["/checkpoints-endless.sft"] < 20 * SIZE


def test_a_fetch_ends_when_its_job_does_and_is_taken_up_again(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer
) -> None:
    entry = enter(ledger, server, "checkpoints/a.sft")
    file = server.files["/checkpoints-a.sft"]
    file.bytes_s = 100e3
    with host(ledger_settings, ledger, "one") as one:
        job_id = wait_for(ledger, "a.sft")
        until(lambda: parts_in(one) and server.busy, what="a fetch")
        ledger.jobs.cancel(job_id)
        until(lambda: not server.busy and not ledger.copies.all(), what="its end")
        assert files_in(one) == set()
        file.bytes_s = None
        wait_for(ledger, "a.sft")
        until(lambda: files_in(one) == {entry.path}, what="the file")


def test_what_is_pinned_goes_on_without_a_job(ledger_settings: Settings, ledger: Ledger, server: ModelServer) -> None:
    entry = enter(ledger, server, "checkpoints/a.sft", pools=("p",))
    server.files["/checkpoints-a.sft"].bytes_s = 100e3
    with host(ledger_settings, ledger, "one", pool="p") as one:
        job_id = wait_for(ledger, "a.sft")
        until(lambda: server.busy, what="a fetch")
        ledger.jobs.cancel(job_id)
        until(lambda: files_in(one) == {entry.path}, what="the file")
    asked = [each for each in server.asked if each[1] == "bytes=0-0"]
    assert len(asked) == 1, "it was not begun twice"


def test_what_there_is_of_a_file_goes_with_its_entry_and_with_a_refusal(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer
) -> None:
    removed = enter(ledger, server, "checkpoints/removed.sft", pools=("p",))
    server.files["/checkpoints-removed.sft"].bytes_s = 100e3
    with host(ledger_settings, ledger, "one", pool="p") as one:
        until(lambda: parts_in(one), what="a fetch")
        ledger.manifest.remove(removed.path)
        until(lambda: not parts_in(one), what="the end of its part")
        # An earlier fetch has left some of a file that its source refuses by now.
        refused = enter(ledger, server, "checkpoints/refused.sft", seed=1)
        server.files["/checkpoints-refused.sft"].status = 404
        server.files["/checkpoints-refused.sft"].has_ranges = False
        part = one / "checkpoints" / f".refused.sft{PART_SUFFIX}"
        for left in (part, journal_of(part)):
            left.write_bytes(b"x" * 1000)
        wait_for(ledger, "refused.sft")
        until(lambda: _failed(ledger, refused), what="the refusal")
        until(lambda: not parts_in(one), what="the end of that part")


def test_hosts_that_share_a_folder_spare_what_the_other_one_needs(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer
) -> None:
    running, pinned, third = (
        enter(ledger, server, f"checkpoints/{name}.sft", seed=seed, pools=pools)
        for seed, (name, pools) in enumerate({"a": (), "b": ("q",), "c": ()}.items())
    )
    shared: dict[str, Any] = {"models_dir": ledger_settings.data_dir / "shared", "models_max_bytes": 2 * SIZE}
    with (
        host(ledger_settings, ledger, "one", pool="p", **shared) as folder,
        host(ledger_settings, ledger, "two", pool="q", **shared),
    ):
        job_id = wait_for(ledger, "a.sft")
        until(lambda: files_in(folder) == {running.path, pinned.path}, what="both files")
        ledger.jobs.cancel(job_id)
        # It runs with one of them, at the other host.
        claimed(ledger, "gpu0@two", models=("a.sft",))
        wait_for(ledger, "c.sft", requires=Requirements(pool="p"))
        copy = until(lambda: _failed(ledger, third), what="the failure")
        assert "There is no room for checkpoints/c.sft" in str(copy.error)
        assert files_in(folder) == {running.path, pinned.path}


def test_a_token_that_is_entered_anew_is_tried_at_once(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE_S", 100.0)
    entry = enter(ledger, server, "checkpoints/a.sft", pools=("p",), token="hub")
    server.files["/checkpoints-a.sft"].token = "right"
    ledger.model_tokens.put("hub", "wrong")
    with host(ledger_settings, ledger, "one", pool="p") as one:
        copy = until(lambda: _failed(ledger, entry), what="the failure")
        assert "it asks for a token, or for another one" in str(copy.error)
        ledger.model_tokens.put("hub", "right")
        until(lambda: files_in(one) == {entry.path}, what="the file")


def test_a_steady_stream_of_jobs_lets_go_of_its_file_for_one_that_was_waited_for_too_long(
    ledger_settings: Settings, ledger: Ledger, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, entry = enter(ledger, server, "checkpoints/a.sft"), enter(ledger, server, "checkpoints/b.sft", seed=1)
    with host(ledger_settings, ledger, "one", models_max_bytes=SIZE) as one:
        first = wait_for(ledger, "a.sft")
        until(lambda: files_in(one) == {kept.path}, what="the first file")
        ledger.jobs.cancel(first)
        pins = (AWAITS_FILES, offer(ledger, "one", "a.sft"))

        def one_more() -> str:
            return submit(ledger, catalogues=pins, models=("a.sft",)).id

        running = claimed(ledger, "gpu0@one", catalogues=pins, models=("a.sft",))
        waits = wait_for(ledger, "b.sft")
        until(lambda: _failed(ledger, entry), what="that it lacks room")
        next_id = one_more()
        following = ledger.claims.claim("gpu0@one")
        assert following is not None
        assert following.job_id == next_id, "it is not time yet"
        one_more()
        assert yields_on(ledger, "one") is None
        monkeypatch.setattr(model_yielding, "OVERTAKING", 0.0)

        until(lambda: yields_on(ledger, "one") == [["a.sft", entry.path, "one"]], what="that it is to go")
        assert ledger.claims.claim("gpu0@one") is None
        assert ledger.turns.missing() == []
        assert reason(ledger, "a.sft") == (
            "a.sft makes room for b.sft, which jobs have waited for much longer, and comes again."
        )
        assert reason(ledger, "b.sft") == (
            "Fetching b.sft waits for room: it is there when the jobs that run with a.sft have ended."
        )
        for claim in (running, following):
            assert files_in(one) == {kept.path}, "a running job may load it"
            ledger.claims.generated(claim, [produced(claim)], outputs_reused=False)
        until(lambda: files_in(one) == {entry.path}, what="the other file")
        # Its GPU lists it still, and no job may be sent there for it.
        until(lambda: (copy := copy_of(ledger, entry)) is not None and copy.state == "ready", what="word of it")
        assert ledger.claims.claim("gpu0@one") is None
        pins_of_other = (AWAITS_FILES, offer(ledger, "one", "b.sft"))
        until(lambda: yields_on(ledger, "one") is None, what="the end of that")
        ledger.jobs.cancel(waits)
        served = claimed(ledger, "gpu0@one", catalogues=pins_of_other, models=("b.sft",))
        ledger.claims.generated(served, [produced(served)], outputs_reused=False)
        until(lambda: files_in(one) == {kept.path}, what="the first file again")


def test_what_a_host_had_asked_for_ends_with_it(ledger_settings: Settings, ledger: Ledger, server: ModelServer) -> None:
    come_up(ledger, "gone")
    with host(ledger_settings, ledger, "one"):
        for name in ("gone", "one"):
            ledger.yields.put([Yield(name="x.sft", to="loras/y.sft", by=name)], by=name, hosts={"one"}, alive={"gone"})
        ledger.instances.down("gpu0@gone", worker="w-gone", state=STOPPED, reason="it is gone")
        until(lambda: yields_on(ledger, "one") is None, what="that nobody heeds it")
