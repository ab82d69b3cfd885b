"""Files of a prompt that has just ended come into the folder of their job, and those of others do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comfy.client.history import History
from comfy.client.outputs import ReportedOutput
from comfy.prompts.session import PromptResult
from core.ledger import Ledger
from core.records.instance import InstanceRecord
from core.records.job import new_job_id
from tasks.runner import collect as collect_module
from tasks.runner.collect import Collector
from tests.ledger_moves import submit
from tests.makers import GRAPH, come_up, result_of, saved_file

JOB = new_job_id()
GONE_PICTURE = saved_file("gone.png", subfolder="")


class Client:
    """An instance that hands out some files, `<subfolder>/<name>`."""

    def __init__(self, *files: str) -> None:
        self.files = set(files)
        self.asked: list[str] = []

    def has(self, item: ReportedOutput) -> bool:
        self.asked.append(f"{item.subfolder}/{item.filename}")
        return self.asked[-1] in self.files


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    for name in ("output", "temp", "input"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def ours(ledger: Ledger, data_dir: Path) -> InstanceRecord:
    return come_up(ledger, output_dir=str(data_dir / "output"))


@pytest.fixture
def elsewhere(ours: InstanceRecord) -> InstanceRecord:
    return replace(ours, output_dir=None)


@pytest.fixture
def collector(ledger: Ledger) -> Collector:
    return Collector(ledger)


def write(folder: Path, name: str, content: bytes = b"picture") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def collect(
    collector: Collector,
    instance: InstanceRecord,
    *items: ReportedOutput,
    graph: dict[str, Any] | None = None,
    client: Client | None = None,
    **fields: Any,
) -> tuple[PromptResult, set[str]]:
    result = result_of("p", outputs=list(items), **fields)
    asked: Any = client or Client()
    return collector.collect(result, graph or GRAPH, instance, asked, JOB)


def places(result: PromptResult) -> list[tuple[str | None, str | None]]:
    return [(item.subfolder, item.filename) for item in result.outputs]


class TestMoving:
    def test_a_file_outside_its_jobs_folder_comes_into_it(
        self, collector: Collector, ours: InstanceRecord, data_dir: Path
    ) -> None:
        write(data_dir / "output", "a.png", b"1")
        write(data_dir / "temp", "a.png", b"2")
        result, gone = collect(collector, ours, saved_file("a.png"), saved_file("a.png", folder="temp"))
        assert places(result) == [(JOB, "a.png")] * 2
        assert (data_dir / "output" / JOB / "a.png").read_bytes() == b"1"
        assert (data_dir / "temp" / JOB / "a.png").read_bytes() == b"2"
        assert not (data_dir / "output" / "a.png").exists()
        assert gone == set()

    def test_one_that_is_in_it_stays_as_it_is(self, collector: Collector, ours: InstanceRecord, data_dir: Path) -> None:
        write(data_dir / "output", f"{JOB}/x/a.png")
        result, _ = collect(collector, ours, saved_file("a.png", subfolder=f"{JOB}/x"), saved_file(folder=None))
        assert places(result)[0] == (f"{JOB}/x", "a.png")
        assert (data_dir / "output" / JOB / "x" / "a.png").exists()

    def test_names_that_are_taken_get_a_number(
        self, collector: Collector, ours: InstanceRecord, data_dir: Path
    ) -> None:
        for name in (f"{JOB}/a.png", f"{JOB}/2_a.png", "a.png"):
            write(data_dir / "output", name, name.encode())
        result, _ = collect(collector, ours, saved_file("a.png"))
        assert places(result) == [(JOB, "3_a.png")]
        assert (data_dir / "output" / JOB / "3_a.png").read_bytes() == b"a.png"

    def test_what_two_nodes_report_is_moved_once(
        self, collector: Collector, ours: InstanceRecord, data_dir: Path
    ) -> None:
        write(data_dir / "output", "a.png")
        result, gone = collect(
            collector, ours, saved_file("a.png"), saved_file("a.png", node_id="3"), cached_nodes=("3",)
        )
        assert places(result) == [(JOB, "a.png")] * 2
        assert gone == set()

    def test_input_files_and_texts_stay(self, collector: Collector, ours: InstanceRecord, data_dir: Path) -> None:
        write(data_dir / "input", "a.png")
        text = saved_file("", filename=None, kind="text", text="words")
        result, _ = collect(collector, ours, saved_file("a.png", folder="input"), text)
        assert places(result)[0] == ("", "a.png")
        assert (data_dir / "input" / "a.png").exists()
        assert result.outputs[1].text == "words"

    @pytest.mark.parametrize("name", ["gone.png", "link.png", "x" * 300])
    def test_what_is_not_there_or_no_file_of_ours_is_left_to_be_told_of(
        self, collector: Collector, ours: InstanceRecord, data_dir: Path, name: str
    ) -> None:
        (data_dir / "output" / "link.png").symlink_to("/etc/hostname")
        result, gone = collect(collector, ours, saved_file(name))
        assert places(result) == [("", name)]
        assert gone == set()

    def test_a_folder_that_cannot_be_made_costs_nothing(
        self, collector: Collector, ours: InstanceRecord, data_dir: Path
    ) -> None:
        write(data_dir / "output", JOB)
        write(data_dir / "output", "a.png")
        result, gone = collect(collector, ours, saved_file("a.png"), cached_nodes=("2",))
        assert places(result) == [("", "a.png")]
        assert gone == set(), "it is there"


class TestGone:
    def test_what_the_cache_spared_and_is_gone_has_to_run_again(
        self, collector: Collector, ours: InstanceRecord
    ) -> None:
        _, gone = collect(collector, ours, GONE_PICTURE, cached_nodes=("2",))
        assert gone == {"2"}
        assert collector.nodes_to_run(GRAPH) == ["2"]

    def test_what_ran_and_is_gone_has_not(self, collector: Collector, ours: InstanceRecord) -> None:
        _, gone = collect(collector, ours, GONE_PICTURE)
        assert gone == set()
        assert collector.nodes_to_run(GRAPH) == []

    def test_a_node_of_no_graph_is_named_all_the_same(self, collector: Collector, ours: InstanceRecord) -> None:
        _, gone = collect(collector, ours, saved_file("gone.png", "77"), cached_nodes=("77",))
        assert gone == {"77"}

    def test_elsewhere_the_instance_is_asked(self, collector: Collector, elsewhere: InstanceRecord) -> None:
        client = Client("/there.png")
        items = [saved_file("there.png", "1"), saved_file("gone.png", "2"), saved_file("ran.png", "3")]
        text = saved_file("", "1", filename=None, text="words")
        result, gone = collect(collector, elsewhere, *items, text, client=client, cached_nodes=("1", "2"))
        assert gone == {"2"}
        assert client.asked == ["/there.png", "/gone.png"]
        assert places(result)[:3] == [("", "there.png"), ("", "gone.png"), ("", "ran.png")]


class TestExpansions:
    def test_what_gives_a_graph_in_its_place_has_to_run(self, collector: Collector, ours: InstanceRecord) -> None:
        meta: dict[str, dict[str, Any]] = {
            "1.0.5": {"parent_node": 1},
            "2": {"parent_node": "1"},
            "9": {"parent_node": "8"},
            "7": {},
        }
        history = History(prompt_id="p", status="success", meta=meta)
        collect(collector, ours, history=history)
        assert collector.nodes_to_run(GRAPH) == ["1"]
        more = {**GRAPH, "3": GRAPH["1"]}
        assert collector.nodes_to_run(more) == ["1", "3"], "its class is known"

    def test_a_node_of_the_graph_itself_says_nothing(self, collector: Collector, ours: InstanceRecord) -> None:
        history = History(prompt_id="p", status="success", meta={"2": {"parent_node": "1"}})
        collect(collector, ours, history=history)
        assert collector.nodes_to_run(GRAPH) == []


class TestForeign:
    def test_files_of_another_job_are_told_of_as_missing(
        self, collector: Collector, ours: InstanceRecord, ledger: Ledger
    ) -> None:
        other = submit(ledger).id
        items = [saved_file("a.png", subfolder=each) for each in (other, JOB, new_job_id(), "")]
        result, _ = collect(collector, ours, *items)
        assert [item.subfolder for item in result.outputs] == ["..", JOB, items[2].subfolder, ""]

    def test_without_one_nobody_asks_the_ledger(
        self, collector: Collector, ours: InstanceRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def never(*_arguments: object) -> None:
            raise AssertionError("it was asked")

        monkeypatch.setattr(collect_module, "persistently", never)
        collect(collector, ours, saved_file("a.png", subfolder=JOB), saved_file("b.png"))


def saver(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"2": {"class_type": class_type, "inputs": {"folder_name": JOB, **inputs}}}


class TestUnreported:
    """Nodes that save into a folder, and may say nothing of it."""

    @pytest.fixture(autouse=True)
    def folders(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            collect_module, "folders_of", lambda graph, *, job_id: {"2": graph["2"]["inputs"].get("folder", job_id)}
        )

    def test_what_lies_there_is_theirs(self, collector: Collector, ours: InstanceRecord, data_dir: Path) -> None:
        for name in ("b.png", "a.png", ".hidden", "sub/c.png"):
            write(data_dir / "output" / JOB, name)
        result, _ = collect(collector, ours, graph=saver("Any"))
        assert places(result) == [(JOB, "a.png"), (JOB, "b.png")]
        assert {item.node_id for item in result.outputs} == {"2"}

    def test_but_not_what_others_have_reported(
        self, collector: Collector, ours: InstanceRecord, data_dir: Path
    ) -> None:
        for name in ("a.png", "b.png"):
            write(data_dir / "output" / JOB, name)
        result, _ = collect(collector, ours, saved_file("a.png", "1", subfolder=JOB), graph=saver("Any"))
        assert [(item.node_id, item.filename) for item in result.outputs] == [("1", "a.png"), ("2", "b.png")]

    def test_a_node_that_reported_a_file_is_believed(
        self, collector: Collector, ours: InstanceRecord, data_dir: Path
    ) -> None:
        for name in ("a.png", "b.png"):
            write(data_dir / "output" / JOB, name)
        result, _ = collect(collector, ours, saved_file("a.png", subfolder=JOB), graph=saver("Any"))
        assert places(result) == [(JOB, "a.png")]
        text = saved_file("", filename=None, text="words")
        result, _ = collect(collector, ours, text, graph=saver("Any"))
        assert len(result.outputs) == 3, "a text is no file"

    def test_in_the_jobs_own_folder_its_prefix_tells_them(
        self, collector: Collector, ours: InstanceRecord, data_dir: Path
    ) -> None:
        for name in ("mine_1.png", "mine.png", "other_1.png"):
            write(data_dir / "output" / JOB, name)
        result, _ = collect(collector, ours, graph=saver("Any", filename_prefix=f"{JOB}/mine"))
        assert places(result) == [(JOB, "mine_1.png")]

    def test_a_folder_that_is_not_there_has_nothing(self, collector: Collector, ours: InstanceRecord) -> None:
        result, _ = collect(collector, ours, graph=saver("Any"))
        assert result.outputs == []

    @pytest.mark.parametrize(
        ("class_type", "inputs", "files", "asked_last"),
        [
            ("SaveImageDataSetToFolder", {"filename_prefix": "p"}, ["p_00000.png", "p_00001.png"], "p_00002.png"),
            (
                "SaveImageTextDataSetToFolder",
                {"filename_prefix": "p", "texts": ["1", 0]},
                ["p_00000.png", "p_00000.txt", "p_00001.png"],
                "p_00002.png",
            ),
            (
                "SaveImageDataSetToFolder",
                {"filename_prefix": "p", "mode": "increment"},
                ["p_00001_00000.png", "p_00002_00001.png"],
                "p_00003_00002.png",
            ),
            (
                "SaveImageKJ",
                {"filename_prefix": f"{JOB}/p"},
                ["p_00001_.png", "p_00002_.png"],
                "p_00003_.png",
            ),
            (
                "SaveImageKJ",
                {"filename_prefix": f"{JOB}/p", "caption": "c", "caption_file_extension": ".cap"},
                ["p_00001_.png", "p_00001_.cap", "p_00002_.png"],
                "p_00003_.png",
            ),
            ("SaveImageKJ", {"caption": "c"}, ["00001_.png", "00001_.txt"], "00002_.png"),
            ("Any", {"filename_prefix": "p"}, [], None),
        ],
    )
    def test_elsewhere_their_numbers_are_counted(
        self,
        collector: Collector,
        elsewhere: InstanceRecord,
        class_type: str,
        inputs: dict[str, Any],
        files: list[str],
        asked_last: str | None,
    ) -> None:
        extra = ["p_00000.txt", "p_00001_.cap", "p_00001_.txt"]
        client = Client(*(f"{JOB}/{name}" for name in [*files, *extra]))
        result, _ = collect(collector, elsewhere, graph=saver(class_type, **inputs), client=client)
        assert [item.filename for item in result.outputs] == files
        assert client.asked[-1:] == ([] if asked_last is None else [f"{JOB}/{asked_last}"])

    @pytest.mark.parametrize("class_type", ["SaveImageDataSetToFolder", "SaveImageKJ"])
    def test_not_for_ever(
        self,
        collector: Collector,
        elsewhere: InstanceRecord,
        class_type: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        assert collect_module.MAX_NUMBERED == 10_000
        monkeypatch.setattr(collect_module, "MAX_NUMBERED", 5)
        client = Client()
        monkeypatch.setattr(client, "has", lambda _item: True)
        result, _ = collect(collector, elsewhere, graph=saver(class_type), client=client)
        assert len(result.outputs) == 5
