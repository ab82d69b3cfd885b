"""The parts of `tasks/` that need no broker: which instances, how long, under which name, with which error."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from comfy.client.history import History
from comfy.process.discovery import Gpu, GpuSurvey
from comfy.prompts.result import PromptResult
from core.errors import ComfyUnavailable, ConfigurationError, OutputUnavailable, PromptFailed, PromptRejected
from core.records.output import FileSource, OutputFile
from core.storage.folders import LocalStorage
from tasks.instance.agent import InstanceAgent
from tasks.instance.bootsteps import GateStep
from tasks.instance.plan import plan_instances
from tasks.job_errors import job_error
from tasks.messaging.app import make_app
from tasks.messaging.names import GPU_QUEUE
from tasks.outputs.store import store
from tasks.runner.run_times import KEPT, Durations, gpu_seconds
from tests.fleet import work
from tests.services import make_settings
from workflows.graphs.shape import shape_of


def checkout(folder: Path) -> Path:
    """A directory that looks like a ComfyUI checkout."""
    (folder / "main.py").touch()
    return folder


def three_cards() -> GpuSurvey:
    uuids = ("GPU-aa11", "GPU-aa22", "GPU-bb33")
    cards = [Gpu(index=index, uuid=uuid, name="NVIDIA L4", memory_bytes=1) for index, uuid in enumerate(uuids)]
    return GpuSurvey(gpus=tuple(cards))


def second_card_lost() -> GpuSurvey:
    first, _, third = three_cards().gpus
    return GpuSurvey(gpus=(first, third), unreadable=(1,))


def ran(**fields: Any) -> PromptResult:
    """A prompt that ComfyUI worked on for 2.5 s."""
    history = History(prompt_id="p", status="success")
    values: dict[str, Any] = {"started_at_ms": 1_000, "finished_at_ms": 3_500, "cached_nodes": ()}
    return PromptResult(**{"prompt_id": "p", "outputs": [], "history": history, **values, **fields})


class TestPlan:
    def test_simulators_stand_in_where_nothing_else_is_named(self, tmp_path: Path) -> None:
        plan = plan_instances(make_settings(tmp_path, simulated_gpus=3, simulator_args="--simulate-speed 0"))
        assert [(spec.name, spec.kind) for spec in plan] == [(f"gpu{number}", "simulator") for number in range(3)]
        assert plan[0].extra_args == ("--simulate-speed", "0")
        assert len({spec.data_dir for spec in plan}) == 3

    def test_each_named_gpu_gets_a_comfyui(self, tmp_path: Path) -> None:
        settings = make_settings(
            tmp_path, comfyui_dir=checkout(tmp_path), gpus=("0", "GPU-5c2f"), comfyui_args="--lowvram"
        )
        plan = plan_instances(settings, survey=GpuSurvey)
        assert [(spec.kind, spec.gpu, spec.extra_args) for spec in plan] == [
            ("comfyui", "0", ("--lowvram",)),
            ("comfyui", "GPU-5c2f", ("--lowvram",)),
        ]

    def test_what_is_no_checkout_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"no main\.py"):
            plan_instances(make_settings(tmp_path, comfyui_dir=tmp_path, gpus=("0",)))

    def test_gpus_without_a_comfyui_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="COMFYLINE_COMFYUI_DIR"):
            plan_instances(make_settings(tmp_path, gpus=("0",)))

    def test_running_instances_win_over_everything(self, tmp_path: Path) -> None:
        urls = ("http://a:8188/", "http://b:8188")
        plan = plan_instances(make_settings(tmp_path, comfyui_dir=tmp_path, comfyui_urls=urls))
        assert [(spec.kind, spec.url) for spec in plan] == [
            ("attached", "http://a:8188"),
            ("attached", "http://b:8188"),
        ]

    def test_a_checkout_without_a_gpu_names_the_setting(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="COMFYLINE_GPUS"):
            plan_instances(make_settings(tmp_path, comfyui_dir=checkout(tmp_path)), survey=GpuSurvey)

    def test_shared_models_reach_every_comfyui(self, tmp_path: Path) -> None:
        settings = make_settings(tmp_path, comfyui_dir=checkout(tmp_path), models_dir=tmp_path)
        assert [spec.models_dir for spec in plan_instances(settings, survey=three_cards)] == [tmp_path] * 3

    def test_a_folder_of_models_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        settings = make_settings(tmp_path, comfyui_dir=checkout(tmp_path), models_dir=tmp_path / "models")
        with pytest.raises(ConfigurationError, match=f"COMFYLINE_MODELS_DIR={tmp_path}/models"):
            plan_instances(settings, survey=three_cards)


class TestCards:
    """Which of a machine's GPUs get an instance."""

    def plan(self, folder: Path, *names: str, found: GpuSurvey | None = None) -> list[tuple[str, str | None]]:
        settings = make_settings(folder, comfyui_dir=checkout(folder), gpus=names)
        return [(spec.name, spec.gpu) for spec in plan_instances(settings, survey=lambda: found or three_cards())]

    def test_all_of_them_by_default(self, tmp_path: Path) -> None:
        settings = make_settings(tmp_path, comfyui_dir=checkout(tmp_path))
        plan = plan_instances(settings, survey=three_cards)
        assert [(spec.name, spec.gpu, spec.gpu_name) for spec in plan] == [
            ("gpu0", "GPU-aa11", "NVIDIA L4"),
            ("gpu1", "GPU-aa22", "NVIDIA L4"),
            ("gpu2", "GPU-bb33", "NVIDIA L4"),
        ]

    def test_a_card_that_failed_does_not_rename_the_others(self, tmp_path: Path) -> None:
        assert self.plan(tmp_path, found=second_card_lost()) == [("gpu0", "GPU-aa11"), ("gpu2", "GPU-bb33")]

    def test_index_uuid_and_beginning_of_a_uuid_name_a_card(self, tmp_path: Path) -> None:
        assert self.plan(tmp_path, "2", "GPU-aa22", "GPU-aa1") == [
            ("gpu0", "GPU-bb33"),
            ("gpu1", "GPU-aa22"),
            ("gpu2", "GPU-aa11"),
        ]

    @pytest.mark.parametrize("name", ["3", "-1", "GPU-cc", "gpu0", "cuda:0", "aa11"])
    def test_an_unknown_one_is_refused_with_what_there_is(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=f"COMFYLINE_GPUS: {name} is not a GPU") as caught:
            self.plan(tmp_path, "0", name)
        assert "0 (NVIDIA L4, GPU-aa11), 1 (NVIDIA L4, GPU-aa22), 2 (" in caught.value.message

    def test_the_beginning_of_two_uuids_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="GPU-aa names more than one GPU"):
            self.plan(tmp_path, "GPU-aa")

    @pytest.mark.parametrize("names", [("0", "GPU-aa11"), ("GPU-aa1", "GPU-aa11"), ("0", "00")])
    def test_one_card_named_twice_is_refused(self, names: tuple[str, str], tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"COMFYLINE_GPUS names one GPU twice: .* are both 0 \(NVIDIA L4"):
            self.plan(tmp_path, *names)

    def test_a_part_of_a_card_is_taken_as_given(self, tmp_path: Path) -> None:
        assert self.plan(tmp_path, "MIG-1", "0") == [("gpu0", "MIG-1"), ("gpu1", "GPU-aa11")]

    @pytest.mark.parametrize("lost", ["1", "GPU-aa22"])
    def test_a_named_card_that_failed_does_not_stop_the_others(
        self, lost: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        plan = self.plan(tmp_path, "0", lost, "2", found=second_card_lost())
        assert plan == [("gpu0", "GPU-aa11"), ("gpu2", "GPU-bb33")]
        assert f"{lost} is left out" in caplog.text

    def test_without_a_driver_to_ask_they_are_taken_as_given(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert self.plan(tmp_path, "0", "GPU-x", found=GpuSurvey()) == [("gpu0", "0"), ("gpu1", "GPU-x")]
        assert "taken as given" in caplog.text


class TestDurations:
    def test_nothing_is_expected_of_a_shape_never_seen(self) -> None:
        assert Durations().expect("x") is None

    def test_the_newest_run_counts_most(self) -> None:
        durations = Durations()
        for seconds in (4.0, 4.0, 1.0, 1.0, 1.0):
            durations.learn("x", seconds)
        expected = durations.expect("x")
        assert expected is not None
        assert 1.0 < expected < 1.5

    def test_it_forgets_the_shapes_not_used_for_longest(self) -> None:
        durations = Durations()
        for number in range(KEPT + 10):
            durations.learn(str(number), 1.0)
            durations.learn("often", 1.0)
        assert durations.expect("0") is None
        assert durations.expect("often") == 1.0

    @pytest.mark.parametrize(
        ("cached", "seconds"),
        [((), 2.5), (("1",), 2.5), (("1", "2"), None), (("1", "2", "3"), None)],
    )
    def test_what_the_cache_saved_is_not_taken_for_speed(self, cached: tuple[str, ...], seconds: float | None) -> None:
        assert gpu_seconds(ran(cached_nodes=cached), work(2.5)) == seconds

    def test_without_comfyuis_clock_nothing_is_learned(self) -> None:
        assert gpu_seconds(ran(started_at_ms=None), work(2.5)) is None

    def test_seeds_colours_and_texts_do_not_change_the_shape(self) -> None:
        assert shape_of(work(1.0, seed=1, prefix="a")) == shape_of(work(1.0, seed=2, prefix="b"))

    @pytest.mark.parametrize("other", [work(2.0), work(1.0, steps=11)])
    def test_what_makes_it_longer_does(self, other: dict[str, Any]) -> None:
        assert shape_of(other) != shape_of(work(1.0))


class TestStorage:
    def pending(self, source: dict[str, str], name: str = "a.png", asset_id: str = "1") -> OutputFile:
        return OutputFile(
            id=asset_id,
            job_id="job",
            name=name,
            source=FileSource(**source),
            node_id="9",
            kind="image",
            content_type="image/png",
        )

    def saved(self, folder: Path, name: str, content: bytes = b"picture") -> dict[str, str]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        return {"root": str(folder), "path": str(folder / name)}

    def test_files_are_moved_and_hashed(self, tmp_path: Path) -> None:
        source = self.saved(tmp_path / "gpu", "a.png")
        [stored] = store(tmp_path / "outputs", [self.pending(source)])
        assert (stored.storage_key, stored.size_bytes) == ("job/a.png", 7)
        assert str(stored.hash).startswith("blake3:")
        assert stored.path_below(tmp_path / "outputs").read_bytes() == b"picture"
        assert not Path(source["path"]).exists()

    def test_doing_it_again_after_a_crash_gives_the_same(self, tmp_path: Path) -> None:
        files = [self.pending(self.saved(tmp_path / "gpu", "a.png"))]
        assert store(tmp_path / "outputs", files) == store(tmp_path / "outputs", files)

    def test_two_files_of_one_name_are_both_kept(self, tmp_path: Path) -> None:
        first = self.pending(self.saved(tmp_path / "gpu" / "x", "a.png", b"1"), asset_id="1")
        second = self.pending(self.saved(tmp_path / "gpu" / "y", "a.png", b"2"), asset_id="2")
        files = store(tmp_path / "outputs", [first, second])
        assert [file.storage_key for file in files] == ["job/a.png", "job/a (2).png"]
        assert [file.path_below(tmp_path / "outputs").read_bytes() for file in files] == [b"1", b"2"]

    @pytest.mark.parametrize("path", ["missing.png", "../secret.txt", "link.png"])
    def test_nothing_outside_the_instance_is_taken(self, tmp_path: Path, path: str) -> None:
        (tmp_path / "secret.txt").write_text("secret")
        (tmp_path / "gpu").mkdir()
        (tmp_path / "gpu" / "link.png").symlink_to(tmp_path / "secret.txt")
        source = {"root": str(tmp_path / "gpu"), "path": str(tmp_path / "gpu" / path)}
        with pytest.raises(OutputUnavailable):
            store(tmp_path / "outputs", [self.pending(source)])
        assert (tmp_path / "secret.txt").read_text() == "secret"

    @pytest.mark.parametrize("path", ["missing.png", "../x.png", "a\0b.png", "x" * 5000, "folder", "/etc/hostname"])
    def test_a_file_that_cannot_be_had_is_told_and_the_others_come(self, tmp_path: Path, path: str) -> None:
        good = self.saved(tmp_path / "gpu", "a.png")
        (tmp_path / "gpu" / "folder").mkdir()
        bad = {"root": str(tmp_path / "gpu"), "path": str(tmp_path / "gpu" / path)}
        missing: dict[str, str] = {}
        files = [self.pending(bad, name="b.png", asset_id="1"), self.pending(good, asset_id="2")]
        stored = store(tmp_path / "outputs", files, missing)
        assert [file.id for file in stored] == ["2"]
        assert list(missing) == ["1"]
        assert "Node 9" in missing["1"]
        assert "b.png" in missing["1"]
        assert str(tmp_path) not in missing["1"]

    def test_two_nodes_that_report_one_file_both_have_it(self, tmp_path: Path) -> None:
        source = self.saved(tmp_path / "gpu", "a.png")
        files = [self.pending(source, asset_id=asset_id) for asset_id in ("1", "2")]
        stored = store(tmp_path / "outputs", files)
        assert [file.storage_key for file in stored] == ["job/a.png", "job/a (2).png"]
        assert store(tmp_path / "outputs", files) == stored

    def test_an_input_file_that_a_node_shows_stays_where_it_is(self, tmp_path: Path) -> None:
        source = self.saved(tmp_path / "gpu" / "input", "a.png")
        [stored] = store(tmp_path / "outputs", [self.pending(source)])
        assert stored.path_below(tmp_path / "outputs").read_bytes() == Path(source["path"]).read_bytes()

    @pytest.mark.parametrize("name", ["../../x.png", "/etc/x.png", ".hidden", "a/b.png"])
    def test_a_name_never_leaves_the_jobs_folder(self, tmp_path: Path, name: str) -> None:
        [stored] = store(tmp_path / "outputs", [self.pending({"text": "words"}, name=name)])
        assert stored.path_below(tmp_path / "outputs").resolve().parent == tmp_path / "outputs" / "job"

    def test_texts_become_files_and_a_job_can_be_removed(self, tmp_path: Path) -> None:
        [stored] = store(tmp_path / "outputs", [self.pending({"text": "Zürich"}, name="t.txt")])
        assert stored.path_below(tmp_path / "outputs").read_text(encoding="utf-8") == "Zürich"
        LocalStorage(tmp_path / "outputs").remove_folder("job")
        LocalStorage(tmp_path / "outputs").remove_folder("job")
        assert list((tmp_path / "outputs").iterdir()) == []


class TestErrors:
    def test_a_node_error_tells_where_it_happened(self) -> None:
        error = job_error(PromptFailed("boom", "7", "KSampler", "RuntimeError", "Traceback ..."))
        assert error.to_json() == {
            "code": "node_execution_error",
            "message": "boom",
            "node_id": "7",
            "class_type": "KSampler",
            "traceback": "Traceback ...",
        }

    def test_a_refusal_names_the_first_node(self) -> None:
        error = job_error(PromptRejected("refused", {"3": {"class_type": "LoadImage", "errors": []}}))
        assert (error.code, error.node_id, error.class_type) == ("invalid_workflow", "3", "LoadImage")

    def test_others_have_no_node(self) -> None:
        assert job_error(ComfyUnavailable("gone")).node_id is None


class TestApp:
    def test_messages_are_json_late_acknowledged_and_keep_no_result(self, tmp_path: Path) -> None:
        conf = make_app(make_settings(tmp_path, broker_url="redis://h"), "gpu").conf
        assert conf.accept_content == ["json"]
        assert conf.task_acks_late is True
        assert conf.worker_prefetch_multiplier == 1
        assert conf.task_ignore_result is True
        assert conf.result_backend is None

    def test_rabbitmq_confirms_and_the_api_does_not_wait_long(self, tmp_path: Path) -> None:
        conf = make_app(make_settings(tmp_path, broker_url="amqp://h"), "api").conf
        assert conf.broker_transport_options["confirm_publish"] is True
        assert conf.broker_connection_timeout <= 0.5


class Idle:
    """Celery's consumer before its loop runs: it knows no place yet for a message that comes."""

    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []
        self.queues: list[str] = []
        self.timer = self.app = self.task_consumer = self
        self.process_context = {InstanceAgent: SimpleNamespace(takes_jobs=True)}

    def call_repeatedly(self, _every_s: float, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.later.append(functools.partial(call, *arguments))

    def consuming_from(self, queue: str) -> bool:
        return queue in self.queues

    def add_task_queue(self, queue: str) -> None:
        self.queues.append(queue)


def test_turns_are_taken_no_sooner_than_celery_has_a_place_for_them() -> None:
    consumer = Idle()
    GateStep(consumer).start(consumer)

    assert consumer.queues == []

    for call in consumer.later:
        call()
    assert consumer.queues == [GPU_QUEUE]


@pytest.mark.parametrize(("url", "goes_on"), [("redis://127.0.0.1:1/0", True), ("amqp://127.0.0.1:1//", False)])
def test_what_a_broker_refuses_is_a_lost_connection_on_redis_alone(tmp_path: Path, url: str, goes_on: bool) -> None:
    assert make_app(make_settings(tmp_path, broker_url=url), "gpu").conf.broker_channel_error_retry is goes_on
