"""The command line without a server: arguments, what it prints, and the pieces that decide."""

from __future__ import annotations

import io
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from rich.console import Console

from cli.exit_codes import exit_status_of
from cli.local.broker import broker_spec
from cli.local.credentials import flower_cookie_secret, flower_credentials, flower_credentials_file
from cli.local.log_watch import LogWatch
from cli.local.processes import describe_end, last_line
from cli.local.stack import addresses, check_ports, child_environment
from cli.main import COMMANDS, comfyline, run
from cli.output.terminal import (
    JobProgress,
    Screen,
    describe_job,
    describe_progress,
    describe_refusal,
)
from cli.output.text_tables import printable
from cli.output.waits import describe_place, describe_wait, why_it_waits
from cli.remote.answers import RequestRefused
from cli.remote.client import Client
from cli.remote.sse import SseEvent, read_events
from cli.remote.task_values import local_image, names_for, parse_parameters, read_workflow
from cli.remote.written_files import Draft, result_file
from core.errors import ConfigurationError, InvalidRequest
from core.settings import Settings
from tests.paths import ROOT
from tests.services import make_settings


class _Answer:
    """Bytes of an event stream in the pieces in which they come."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces: Iterator[bytes] = iter(pieces)

    def read1(self, _size: int) -> bytes:
        return next(self._pieces, b"")


def _plain_screen() -> tuple[Screen, io.StringIO]:
    screen, text = Screen(), io.StringIO()
    screen.console = Console(file=text, force_terminal=False, width=200, highlight=False, markup=False)
    return screen, text


class TestArguments:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["nonsense"],
            ["submit"],
            ["submit", "no-such-file.json"],
            ["status"],
            ["watch"],
            ["query", "--task_id", "x"],
            ["query", "--output", "x.json"],
            ["download"],
            ["download-all"],
            ["list", "--limit", "0"],
            ["list", "--limit", "10001"],
            ["run"],
            ["upload"],
            ["upload", "no-such-file.png"],
            ["submit", "x", "--server"],
            *(["submit", "-", "--start-within", number] for number in ("nan", "inf", "-inf", "0", "-1", "1e999")),
            ["run", "x", "--start-within", "nan"],
            ["drain", "--all", "--wait", "--timeout", "nan"],
            ["tenants", "create", "acme", "--weight", "nan"],
            ["tenants", "set", "acme", "--weight", "inf"],
            ["tenants", "weigh", "acme", "nan"],
            ["keys", "rotate", "ID", "--keep", "nan"],
            ["vast-worker", "--max-perf", "nan"],
            ["restart", "--all", "--wait", "--timeout", "inf"],
            ["cancel"],
            ["delete"],
        ],
    )
    def test_misuse_exits_2_with_a_line_and_no_traceback(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "Error" in err
        assert "Traceback" not in err

    def test_help_lists_the_commands(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["--help"]) == 0
        out = capsys.readouterr().out
        assert "demo" in out
        assert "submit" in out

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["version"]) == 0
        assert capsys.readouterr().out.startswith("comfyline ")

    def test_a_misspelt_setting_is_one_line(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COMFYLINE_API_PROT", "8001")
        assert run(["list"]) == 2
        err = capsys.readouterr().err
        assert err.startswith("comfyline: COMFYLINE_API_PROT ")
        assert len(err.splitlines()) == 1

    @pytest.mark.parametrize("address", ["localhost:8000", "ftp://host", "http://", ""])
    def test_a_server_must_be_an_http_address(self, address: str) -> None:
        with pytest.raises(RequestRefused, match="not a server's address"):
            Client(address)

    @pytest.mark.parametrize(
        ("status", "expected"), [("succeeded", 0), ("failed", 1), ("expired", 1), ("canceled", 3), ("unheard-of", 1)]
    )
    def test_exit_status_tells_the_outcome(self, status: str, expected: int) -> None:
        assert exit_status_of(status) == expected


class TestWorkflowFile:
    GRAPH = b'{"1": {"class_type": "A", "inputs": {"seed": 18446744073709551615}}}'

    def test_seeds_keep_every_digit(self) -> None:
        assert read_workflow(self.GRAPH, "f")["1"]["inputs"]["seed"] == 2**64 - 1

    def test_the_graph_may_stand_in_a_template_of_the_raw_workflow(self) -> None:
        body = b'{"input": {"handler": "RawWorkflow", "workflow_json": %b}}' % self.GRAPH
        assert list(read_workflow(body, "f")) == ["1"]

    @pytest.mark.parametrize("wrapper", ["prompt", "workflow"])
    def test_the_graph_may_stand_in_a_request_body(self, wrapper: str) -> None:
        assert list(read_workflow(b'{"%b": %b}' % (wrapper.encode(), self.GRAPH), "f")) == ["1"]

    def test_a_node_may_be_called_prompt(self) -> None:
        assert list(read_workflow(b'{"prompt": {"class_type": "A", "inputs": {}}}', "f")) == ["prompt"]

    @pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"text"', b"\xff", b'{"a": NaN}'])
    def test_anything_else_is_refused_with_the_file_name(self, body: bytes) -> None:
        with pytest.raises(InvalidRequest, match=r"mine\.json is not a workflow"):
            read_workflow(body, "mine.json")


class TestTaskValues:
    @pytest.mark.parametrize(
        ("workflow", "names"),
        [
            ("sd3", ["sd3"]),
            ("a/b/interior_design.json", ["interior_design.json", "interior_design"]),
            ("a/room_v0.03_linux.json", ["room_v0.03_linux.json", "room_v0.03_linux", "room"]),
            ("old_vase_v2.json", ["old_vase_v2.json", "old_vase_v2", "old"]),
        ],
    )
    def test_a_server_is_asked_for_the_most_exact_name_first(self, workflow: str, names: list[str]) -> None:
        assert names_for(workflow) == names

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("12", 12),
            ("0.5", 0.5),
            ("true", True),
            ("twelve", "twelve"),
            ('"12"', "12"),
            ("", ""),
            ("a=b", "a=b"),
            ("null", "null"),
            ("[1]", "[1]"),
            ("NaN", "NaN"),
            ("9" * 30, "9" * 30),
        ],
    )
    def test_a_parameter_is_text_unless_it_reads_as_a_number(self, text: str, value: object) -> None:
        found = parse_parameters([f"Name={text}"])
        assert found == {"name": value}
        assert type(found["name"]) is type(value)

    @pytest.mark.parametrize("texts", [["a"], ["=1"], [" =1"], ["a=1", "A=2"], ["room=x"]])
    def test_parameters_are_named_and_given_once(self, texts: list[str]) -> None:
        with pytest.raises(InvalidRequest, match=f"-p {texts[-1]}"):
            parse_parameters(texts, taken=["room"])

    @pytest.mark.parametrize("image", [None, "http://host/room.jpg", "https://host/room.jpg"])
    def test_only_files_are_uploaded(self, image: str | None) -> None:
        assert local_image(image) is None


class TestFiles:
    def test_a_draft_that_is_not_kept_leaves_nothing(self, tmp_path: Path) -> None:
        with Draft(tmp_path / "new") as draft:
            draft.write(b"half")
            assert len(list((tmp_path / "new").iterdir())) == 1
        assert list((tmp_path / "new").iterdir()) == []

    def test_a_full_disk_is_told_of_in_words(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="No space left"), result_file(Path("/dev/full")) as write:
            write({"id": "x"})

    def test_a_result_replaces_what_a_link_points_at(self, tmp_path: Path) -> None:
        (tmp_path / "real.json").write_text("old")
        (tmp_path / "link.json").symlink_to("real.json")
        with result_file(tmp_path / "link.json") as write:
            write({"id": "x"})
        assert (tmp_path / "link.json").is_symlink()
        assert json.loads((tmp_path / "real.json").read_text()) == {"id": "x"}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "real.json"]


class TestDocumentation:
    TEXT = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_is_there(self, name: str) -> None:
        assert re.search(rf"`comfyline {name}\b", self.TEXT)

    @pytest.mark.parametrize("name", ["submit", "watch", "query", "download", "download-all", "download-from-json"])
    def test_every_option_of_the_task_commands_is_there(self, name: str) -> None:
        command = comfyline.get_command(click.Context(comfyline), name)
        assert command is not None
        for parameter in [*comfyline.params, *command.params]:
            if isinstance(parameter, click.Option):
                assert any(option in self.TEXT for option in parameter.opts if option.startswith("--")), parameter.opts


class TestEventStream:
    def test_events_come_out_whole_however_they_are_cut(self) -> None:
        stream = (
            b': hello\n\nid: 4\nevent: status\r\ndata: {"status": "running"}\r\n\r\nevent: x\ndata: {"a":\ndata: 1}\n\n'
        )
        for cut in range(len(stream)):
            events = list(read_events(_Answer(stream[:cut] or b":", stream[cut:])))
            assert events == [
                SseEvent(name="status", data={"status": "running"}),
                SseEvent(name="x", data={"a": 1}),
            ]

    def test_half_an_event_and_no_json_are_nothing(self) -> None:
        assert list(read_events(_Answer(b"data: {\n\ndata: 7\n\nevent: status\ndata: {}"))) == []


class TestPlainOutput:
    def test_progress_is_a_line_for_each_node_and_tenth(self) -> None:
        screen, text = _plain_screen()
        with screen.progress() as progress:
            assert isinstance(progress, JobProgress)
            progress(SseEvent(name="status", data={"status": "queued", "queue_position": 3}))
            progress(SseEvent(name="status", data={"status": "queued", "queue_position": 3}))
            progress(SseEvent(name="status", data={"status": "running"}))
            for step in range(1, 21):
                data = {"value": step / 20, "current_node": "3", "current_node_class": "KSampler"}
                progress(SseEvent(name="progress", data={**data, "step": step, "steps": 20}))
            progress(SseEvent(name="status", data={"status": "succeeded"}))
        lines = text.getvalue().splitlines()
        assert lines[:2] == ["queued (place 3 in the queue)", "running"]
        assert lines[2] == "  5%  KSampler (node 3), step 1/20"
        assert lines[-1] == "succeeded"
        assert 10 <= len(lines) <= 14

    def test_a_waiting_job_says_why_and_says_it_again_only_if_that_changes(self) -> None:
        screen, text = _plain_screen()
        place = {"status": "queued", "queue_position": 1, "estimated_wait_ms": 9000}
        held = {"position": 1, "starts_in_s": 9.0, "reason": "Waits for gpu0@a.", "reason_code": "held"}
        with screen.progress() as progress:
            progress(SseEvent(name="status", data=place | {"queue": held}))
            progress(SseEvent(name="status", data=place | {"queue": held | {"reason": "Waits for gpu0@a, still."}}))
            loads = {"reason": "gpu0@a will load it.", "reason_code": "load"}
            progress(SseEvent(name="status", data=place | {"queue": held | loads}))
        assert text.getvalue().splitlines() == [
            "queued (place 1 in the queue, begins in about 9 s: Waits for gpu0@a.)",
            "queued (place 1 in the queue, begins in about 9 s: gpu0@a will load it.)",
        ]

    def test_a_job_that_no_gpu_takes_has_a_reason_alone(self) -> None:
        queue = {"position": None, "starts_in_s": None, "reason": "No GPU can run it.", "reason_code": "no_gpu"}
        assert (
            describe_wait({"queue_position": None, "estimated_wait_ms": None, "queue": queue}) == "No GPU can run it."
        )
        assert describe_wait({"queue_position": 2, "queue": None}) == "place 2 in the queue", "another server"

    def test_progress_tells_node_step_and_share(self) -> None:
        data = {"current_node": "3", "current_node_class": "KSampler", "step": 9, "steps": 20}
        assert describe_progress(data | {"nodes_done": 4, "nodes_total": 7}) == (
            "KSampler (node 3), step 9/20, 4 of 7 nodes done"
        )
        assert describe_progress({"value": 0.5}) == ""

    def test_a_job_that_has_a_gpu_and_does_not_go_on_says_why(self) -> None:
        note = "Fetching its input file: 42 %, about 5 s."
        data = {"value": 0.0, "nodes_done": 0, "nodes_total": 7, "note": note}
        assert describe_progress(data) == note
        assert why_it_waits({"progress": data, "queue": None}) == note
        screen, text = _plain_screen()
        with screen.progress() as progress:
            for percent in (42, 43):
                progress(SseEvent(name="progress", data=data | {"note": note.replace("42", str(percent))}))
            progress(SseEvent(name="progress", data={"value": 0.1, "current_node": "3"}))
        assert text.getvalue().splitlines() == [f"  0%  {note}", " 10%  node (node 3)"]

    def test_a_job_that_no_healthy_gpu_can_run_is_said_to_wait_for_one(self) -> None:
        place = {"queue_position": 1}
        assert describe_place({**place, "estimated_wait_ms": None}) == "place 1 in the queue, no GPU is ready for it"
        assert describe_place({**place, "estimated_wait_ms": 900}) == "place 1 in the queue, begins in about 1 s"
        assert describe_place(place) == "place 1 in the queue", "a server that estimates nothing"
        assert describe_place({"queue_position": None, "estimated_wait_ms": None}) == ""

    def test_text_of_others_cannot_steer_the_terminal(self) -> None:
        assert printable("a\x1b[2Jb\x07\tc\nd") == "a�[2Jb�\tc\nd"

    @pytest.mark.parametrize(
        "found",
        [
            {"class_type": "KSampler", "errors": [{"message": "Value too big", "details": "steps"}]},
            [{"reason": "Value too big", "field": "steps"}],
        ],
    )
    def test_a_refused_graph_is_explained_node_by_node(self, found: object) -> None:
        screen, text = _plain_screen()
        describe_refusal(screen, {"node_errors": {"3": found}})
        assert "node 3" in text.getvalue()
        assert "Value too big steps" in text.getvalue()

    @pytest.mark.parametrize("details", [None, [], {"node_errors": 1}, {"node_errors": {"1": {"errors": ["x"]}}}])
    def test_details_of_another_shape_are_passed_over(self, details: object) -> None:
        screen, text = _plain_screen()
        describe_refusal(screen, details)
        assert text.getvalue() == ""


class TestCredentials:
    def test_made_once_kept_private(self, settings: Settings) -> None:
        made = flower_credentials(settings)
        assert made.startswith("comfyline:")
        assert len(made) >= 30
        assert flower_credentials(settings) == made
        assert stat.S_IMODE(flower_credentials_file(settings).stat().st_mode) == 0o600
        assert flower_cookie_secret(settings) == flower_cookie_secret(settings) != made
        assert sorted(path.name for path in settings.data_dir.iterdir()) == [
            "flower-cookie-secret",
            "flower-credentials",
        ]

    def test_the_setting_wins(self, tmp_path: Path) -> None:
        settings = make_settings(tmp_path, flower_basic_auth="me:secret:with:colons")
        assert flower_credentials(settings) == "me:secret:with:colons"
        assert not flower_credentials_file(settings).exists()

    @pytest.mark.parametrize("value", ["me", "me:", ":secret", "mé:secret"])
    def test_no_password_is_no_credential(self, tmp_path: Path, value: str) -> None:
        with pytest.raises(ConfigurationError, match="COMFYLINE_FLOWER_BASIC_AUTH"):
            flower_credentials(make_settings(tmp_path, flower_basic_auth=value))


class TestStack:
    def test_one_port_for_two_servers_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="COMFYLINE_API_PORT and COMFYLINE_FLOWER_PORT"):
            check_ports(make_settings(tmp_path, api_port=8000, flower_port=8000))

    @pytest.mark.parametrize(("host", "expected"), [("0.0.0.0", "http://127.0.0.1:8000"), ("::1", "http://[::1]:8000")])
    def test_addresses_can_be_opened(self, tmp_path: Path, host: str, expected: str) -> None:
        assert addresses(make_settings(tmp_path, api_host=host, api_port=8000)).api == expected

    def test_paths_mean_the_same_to_children(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COMFYLINE_API_KEYS", "read from the file by now")
        monkeypatch.setenv("COMFYLINE_API_KEYS_FILE", "keys.txt")
        settings = make_settings(tmp_path, data_dir="here", comfyui_dir="comfy", database_url="sqlite:///jobs.db")
        environment = child_environment(settings, {"COMFYLINE_API_PORT": "8123"})
        assert environment["COMFYLINE_DATA_DIR"] == str(tmp_path / "here")
        assert environment["COMFYLINE_COMFYUI_DIR"] == str(tmp_path / "comfy")
        assert environment["COMFYLINE_DATABASE_URL"] == f"sqlite:///{tmp_path / 'jobs.db'}"
        assert environment["COMFYLINE_API_PORT"] == "8123"
        assert "COMFYLINE_API_KEYS_FILE" not in environment
        assert environment["COMFYLINE_API_KEYS"] == "read from the file by now"

    def test_the_broker_is_durable_and_private(self, settings: Settings) -> None:
        command = broker_spec(settings, {}).command
        options = dict(zip(command[1::2], command[2::2], strict=True))
        assert options["--port"] == "0"
        assert options["--unixsocketperm"] == "700"
        assert options["--appendonly"] == "yes"
        assert options["--maxmemory-policy"] == "noeviction"
        assert Path(command[0]).is_absolute()


class TestLogs:
    def test_only_warnings_and_lines_for_people_are_news(self, tmp_path: Path) -> None:
        log = tmp_path / "io.log"
        log.write_text("2026-01-01 00:00:00,000 ERROR old\n")
        watch = LogWatch(tmp_path, ["io", "api"])
        with log.open("a") as file:
            file.write("2026-01-01 00:00:01,000 INFO celery: fine\n")
            file.write("2026-01-01 00:00:02,000 WARNING celery: hm\ncomfyline: Waiting for the broker\n2026 ERROR ha")
        assert list(watch.news()) == [
            ("io", "2026-01-01 00:00:02,000 WARNING celery: hm"),
            ("io", "comfyline: Waiting for the broker"),
        ]
        with log.open("a") as file:
            file.write("lf a line\n")
        assert list(watch.news()) == [("io", "2026 ERROR half a line")]
        assert list(watch.news()) == []

    def test_a_log_that_starts_anew_is_read_from_its_start(self, tmp_path: Path) -> None:
        log = tmp_path / "io.log"
        log.write_text("x" * 1000 + "\n")
        watch = LogWatch(tmp_path, ["io"])
        log.write_text("1 ERROR new\n")
        assert list(watch.news()) == [("io", "1 ERROR new")]

    def test_a_log_that_somebody_removes_is_waited_for(self, tmp_path: Path) -> None:
        log = tmp_path / "io.log"
        log.write_text("1 ERROR old\n")
        watch = LogWatch(tmp_path, ["io"])
        log.unlink()
        assert list(watch.news()) == []
        log.write_text("1 ERROR new\n")
        assert list(watch.news()) == [("io", "1 ERROR new")]

    def test_last_line(self, tmp_path: Path) -> None:
        log = tmp_path / "x.log"
        assert last_line(log) == ""
        log.write_text("a" * 10_000 + "\nthe end\n\n")
        assert last_line(log) == "the end"

    def test_ends_are_told_in_words(self) -> None:
        assert describe_end(3) == "ended with status 3"
        assert describe_end(-9) == "was killed by SIGKILL"


def test_a_job_is_shown_with_where_it_ran_and_where_it_was_lost(capsys: pytest.CaptureFixture[str]) -> None:
    loss = {"attempt": 1, "code": "stuck", "instance": "gpu0@a", "gpu": "cuda:0 T4", "at": "2026-11-22T05:56:10.280Z"}
    job = {"id": "j1", "status": "running", "attempt": 2, "instance": "gpu1@a", "gpu": None, "losses": [loss]}

    describe_job(Screen(), job)
    describe_job(Screen(), {"id": "j2", "status": "queued", "attempt": 0, "instance": None, "gpu": None, "losses": []})

    assert capsys.readouterr().out.splitlines() == [
        "j1  running",
        "  on         gpu1@a, attempt 2",
        "  lost       stuck on gpu0@a (cuda:0 T4) at 2026-11-22T05:56:10.280Z",
        "j2  queued",
    ]
