"""Nothing secret leaks: marked secrets go through a whole fleet, and then all that it has written is searched for them.

200 jobs bring credentials of buckets, webhook secrets and keys of partner nodes; two in five of them fail or are tried
again. Searched are the ledger's files, the broker's, logs, outputs, Flower's pages, the answers of the API, the
webhooks that came, and the environment and command line of the ComfyUI processes.

Where a secret may stand: in the environment of our own processes, which is how the operator gave it to us, and an
access key id and a session token in presigned URLs, which S3 defines so.
"""

from __future__ import annotations

import base64
import io
import os
import random
import signal
import socket
import string
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from PIL import Image
from sqlalchemy import func, select

from core.ledger import Ledger
from core.ledger.database.tables import deliveries, jobs, secrets
from core.settings import Settings
from tests.canaries import Canary, Find, finds_in_files
from tests.chaos.receiver import Receiver, receiving
from tests.fleet import TERMINAL, Fleet
from tests.ports import free_port
from tests.s3_server import Front, S3Server
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.slow

JOBS = 200
#: Of twenty jobs the last eight have a fault. Memory seldom: an instance that runs out of it too often is replaced.
FAULTS = ("memory", "node", "node", "node", "bucket", "bucket", "receiver", "receiver")


def word() -> str:
    return "c4nary" + "".join(random.choices(string.ascii_letters + string.digits, k=12))


SECRET = Canary(word())
#: Stands in access key ids and session tokens.
SIGNER = Canary(word(), may_sign_urls=True)
API_KEY = f"key-{SECRET.word}"
FLOWER = f"admin:{SECRET.word}"
#: Of 32 bytes; the word stands at the beginning, so that its base64 is the one that is set.
KEYS = [base64.b64encode(f"{SECRET.word}{number:014}".encode()).decode() for number in (1, 2)]
HEADERS = {"Authorization": f"Bearer {API_KEY}"}
PARTNER_KEY = f"partner/{SECRET.word}"


DEAF_PORT = free_port()


def refusing() -> Iterator[bytes]:
    """Answers of an S3 server that repeats what it was sent."""
    words = f"{SIGNER.word} does not exist, nor {SECRET.word}"
    while True:
        body = f"<Error><Code>InvalidAccessKeyId</Code><Message>{words}</Message></Error>"
        yield f"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n{body}".encode()


def graph(number: int, fault: str) -> dict[str, Any]:
    image: list[Any] = ["1", 0]
    nodes: dict[str, Any] = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": number}},
    }
    if fault in ("node", "memory"):
        kind = "runtime" if fault == "node" else "oom"
        nodes["2"] = {"class_type": "T_Err", "inputs": {"image": image, "kind": kind}}
        image = ["2", 0]
    nodes["9"] = {"class_type": "SaveImage", "inputs": {"images": image, "filename_prefix": "picture"}}
    return nodes


class Canaries:
    """The fleet, what surrounds it, and all that was heard from it."""

    def __init__(self, fleet: Fleet, s3: S3Server, receiver: Receiver) -> None:
        self.fleet = fleet
        self.s3 = s3
        self.receiver = receiver
        self.target = s3.new_target()
        self.refusing = Front(s3.port, refusing())
        self.listening = Front(s3.port, ())
        self.flower_url = f"http://127.0.0.1:{fleet.environment()['COMFYLINE_FLOWER_PORT']}"
        self.answers: dict[str, bytes] = {}
        self.ids: list[str] = []
        #: By Flower, when it was searched last.
        self.tasks_shown = 0
        self.ledger = Ledger(Settings(data_dir=fleet.data_dir, secret_key=",".join(KEYS)))

    def ask(self, method: str, path: str, body: Any = None) -> requests.Response:
        answer = requests.request(method, f"{self.fleet.base_url}{path}", json=body, headers=HEADERS, timeout=60)
        self.answers[f"{method} {path} {len(self.answers)}"] = repr(dict(answer.headers)).encode() + answer.content
        return answer

    def submit(self, number: int) -> None:
        fault = (("",) * 12 + FAULTS)[number % 20]
        bucket = {
            "access_key_id": SIGNER.word,
            "secret_access_key": f"s3+/{SECRET.word}=",
            "session_token": f"{SIGNER.word}token",
            "endpoint_url": self.refusing.url if fault == "bucket" else self.listening.url,
            "bucket_name": self.target.bucket_name,
        }
        # Each its own: many failures of one receiver would have the rest wait.
        nobody = f"http://127.0.1.{number}:{DEAF_PORT}/hook"
        hook = {
            "url": nobody if fault == "receiver" else self.receiver.url,
            "secret": f"s3cret-{SECRET.word}",
            "headers": {"Authorization": f"Basic {SECRET.word}"},
        }
        if number % 2:
            wishes = {"workflow_json": graph(number, fault), "s3": bucket, "webhook": hook}
            answer = self.ask("POST", "/generate", {"input": wishes})
        else:
            extra = {"api_key_comfy_org": PARTNER_KEY}
            order = {"workflow": graph(number, fault), "s3": bucket, "webhook": hook, "extra_data": extra}
            answer = self.ask("POST", "/api/v2/jobs", order)
        assert answer.status_code in (201, 202), answer.text
        self.ids.append(answer.json()["id"])

    def count(self, *conditions: Any) -> int:
        with self.ledger.database.read() as connection:
            return connection.execute(select(func.count()).where(*conditions)).scalar_one()

    def finds(self) -> list[Find]:
        both = (SECRET, SIGNER)
        found = finds_in_files(both, self.fleet.root)
        for what, content in {**self.answers, **self.pages(), **self.processes(), **self.webhooks()}.items():
            found += [find for canary in both for find in canary.finds(what, content)]
        return found

    def pages(self) -> dict[str, bytes]:
        """All that Flower shows."""
        auth = ("admin", SECRET.word)
        workers = requests.get(f"{self.flower_url}/api/workers", auth=auth, timeout=10)
        tasks = requests.get(f"{self.flower_url}/api/tasks?limit=2000", auth=auth, timeout=10)
        assert workers.ok
        self.tasks_shown = len(tasks.json())
        paths = ["/workers", "/tasks", "/broker", "/metrics", *(f"/worker/{name}" for name in workers.json())]
        failed = [key for key, task in tasks.json().items() if task["state"] == "FAILURE"][:20]
        pages = {"/api/workers": workers.content, "/api/tasks": tasks.content}
        for path in [*paths, *(f"/task/{key}" for key in failed)]:
            answer = requests.get(f"{self.flower_url}{path}", auth=auth, timeout=10)
            assert answer.ok, path
            pages[path] = answer.content
        return {f"Flower {path}": content for path, content in pages.items()}

    def processes(self) -> dict[str, bytes]:
        """Environment and command line of the instances, and the command lines of all."""
        found: dict[str, bytes] = {}
        instances = [pid for name in ("gpu0", "gpu1") if (pid := self.fleet.living_instance_pid(name))]
        assert instances
        for pid in instances:
            found[f"environment of instance {pid}"] = Path(f"/proc/{pid}/environ").read_bytes()
        for pid in [*instances, *(process.pid for process in self.fleet.processes.values())]:
            found[f"command line of {pid}"] = Path(f"/proc/{pid}/cmdline").read_bytes()
        return found

    def webhooks(self) -> dict[str, bytes]:
        return {f"webhook {key}": repr(bodies).encode() for key, bodies in self.receiver.posts().items()}

    def close(self) -> None:
        self.ledger.close()
        self.refusing.close()
        self.listening.close()


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canaries]:
    s3 = S3Server()
    variables = {
        "S3_ACCESS_KEY_ID": SIGNER.word,
        "S3_SECRET_ACCESS_KEY": SECRET.word,
        "S3_BUCKET_NAME": "operators-bucket",
        "S3_ENDPOINT_URL": s3.url,
        "S3_SESSION_TOKEN": f"{SIGNER.word}token",
        "WEBHOOK_SECRET": SECRET.word,
    }
    fleet = Fleet(
        tmp_path_factory.mktemp("canaries"),
        api_keys=API_KEY,
        secret_key=",".join(KEYS),
        flower_basic_auth=FLOWER,
        flower_port=str(free_port()),
        simulator_args="--simulate-test-nodes --simulate-speed 0 --simulate-version 0.3.64",
        reconcile_s="0.5",
        # On a busy machine a first try may fail, and come late: it must not be the last one.
        upload_give_up_s=str(5 * PATIENCE),
        webhook_schedule_s="0.3,0.3",
    ).with_variables(**variables)
    with receiving() as receiver, fleet:
        fleet.start("broker", "api", "gpu0", "gpu1", "io", "beat", "flower")
        found = Canaries(fleet, s3, receiver)
        until(lambda: is_ready(found), timeout_s=40, what="a ready fleet")
        yield found
        found.close()
    s3.stop()


def is_ready(canaries: Canaries) -> bool:
    try:
        ready = canaries.ask("GET", "/ready")
        with socket.create_connection(("127.0.0.1", int(canaries.flower_url.rpartition(":")[2]))):
            return bool(ready.json()["healthy_instances"] == 2)
    except OSError:
        return False


def test_nothing_leaks_while_jobs_run_nor_after(canaries: Canaries) -> None:
    fleet = canaries.fleet
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(canaries.submit, range(JOBS // 2)))
        assert canaries.count(secrets.c.sealed.is_not(None)) > 0
        assert canaries.finds() == []
        # What runs there is lost, and tried again.
        os.kill(until(lambda: fleet.living_instance_pid("gpu1"), what="an instance"), signal.SIGKILL)
        list(pool.map(canaries.submit, range(JOBS // 2, JOBS)))
        for job_id in canaries.ids[-5:]:
            canaries.ask("POST", f"/api/v2/jobs/{job_id}/cancel")
    canaries.ask("POST", "/api/v2/jobs", {"workflow": {}, "s3": [SECRET.word], "extra_data": SECRET.word})
    canaries.ask("POST", "/api/v2/jobs", {"workflow": {}, "s3": {"secretAccessKey": SECRET.word}})
    canaries.ask("POST", "/generate", {"input": {"webhook": SECRET.word, "workflow_json": graph(0, "")}})

    until(lambda: canaries.count(jobs.c.status.not_in(TERMINAL)) == 0, timeout_s=90, what="the end of all jobs")
    until(lambda: canaries.count(deliveries.c.next_try_at_ms.is_not(None)) == 0, timeout_s=30, what="the last webhook")
    until(lambda: canaries.count(secrets.c.sealed.is_not(None)) == 0, timeout_s=10, what="the end of all secrets")
    for job_id in canaries.ids:
        canaries.ask("GET", f"/result/{job_id}")
    for path in ("/api/v2/jobs?limit=100", "/webhooks/deliveries", "/ready", "/health", "/openapi.json", "/queue-info"):
        canaries.ask("GET", path)

    assert canaries.finds() == []
    check_what_happened(canaries)


def check_what_happened(canaries: Canaries) -> None:
    """The search was worth something: all went where it should, and failed as it should."""
    results = [canaries.ask("GET", f"/result/{job_id}").json() for job_id in canaries.ids]
    statuses = Counter(result["status"] for result in results)
    assert statuses["failed"] >= JOBS * 0.2 - 10
    assert statuses["completed"] >= JOBS * 0.8 - 10
    refused = [result for result in results if "could not be uploaded" in (result["message"] or "")]
    assert len(refused) >= JOBS * 0.1 - 10
    assert canaries.count(deliveries.c.state == "dead") >= JOBS * 0.1 - 10
    assert canaries.tasks_shown >= JOBS
    assert len(canaries.s3.content(canaries.target)) >= JOBS * 0.5
    # Presigned URLs show their signer, and nothing else of it shows.
    shown = [output["url"] for result in results for output in result["output"] if SIGNER.word in (output["url"] or "")]
    assert len(shown) >= JOBS * 0.5
    # The bucket was signed for with the client's credentials, and the instances had the key of the partner nodes.
    assert any(SIGNER.word.encode() in head for head in canaries.listening.heads)
    urls = [instance.url for instance in canaries.ledger.instances.all()]
    assert PARTNER_KEY in "".join(requests.get(f"{url}/history", timeout=10).text for url in urls)
    pictures = list(canaries.fleet.data_dir.glob("outputs/*/*.png"))
    assert len(pictures) >= JOBS * 0.7
    for picture in pictures[:20]:
        told = repr(Image.open(io.BytesIO(picture.read_bytes())).info).encode()
        assert b"EmptyImage" in told
        assert not SECRET.finds("a picture", told)


def test_the_search_would_find_them(canaries: Canaries) -> None:
    folder = canaries.fleet.root / "control"
    folder.mkdir()
    planted = {
        form: b"\0\1before" + filler + needle + b"after"
        for filler in (b"", b"=")
        for form, needle in SECRET.forms.items()
    }
    secret = f"a/b+{SECRET.word}=&c"
    for shift in range(3):
        planted[f"base64 of it, {shift}"] = base64.urlsafe_b64encode(b"?" * shift + secret.encode())
    planted["quoted"] = quote(secret, safe="").encode()
    planted["of a URL's signer, elsewhere"] = f"token={SIGNER.word}".encode()
    for number, content in enumerate(planted.values()):
        (folder / str(number)).write_bytes(content)

    found = {Path(find.where).name for find in finds_in_files((SECRET, SIGNER), canaries.fleet.root)}

    assert found == {str(number) for number in range(len(planted))}
    # As it is given to us: the one place where it stands.
    own = Path(f"/proc/{canaries.fleet.processes['api'].pid}/environ").read_bytes()
    assert SECRET.finds("environment", own)


def test_a_lost_key_ends_jobs_and_is_told_to_the_operator_alone(canaries: Canaries) -> None:
    fleet = canaries.fleet
    for name in ("gpu0", "gpu1", "io"):
        fleet.stop(name)
    fleet.reconfigure(secret_key=base64.b64encode(os.urandom(32)).decode())
    # Else neither would start.
    assert fleet.command("adopt-key").returncode == 0
    fleet.start("gpu0", "io")
    first = len(canaries.ids)
    for number in range(2):
        # The second brings no key of partner nodes, and gets as far as the bucket.
        canaries.submit(number)
    partner, bucket = canaries.ids[first:]

    until(lambda: canaries.count(jobs.c.id.in_([partner, bucket]), jobs.c.status.in_(TERMINAL)) == 2, what="two ends")
    failed = canaries.ask("GET", f"/api/v2/jobs/{partner}").json()
    assert (failed["status"], failed["error"]["code"]) == ("failed", "secret_unreadable")
    (output,) = canaries.ask("GET", f"/result/{bucket}").json()["output"]
    assert "can no longer read the secrets" in output["upload_error"]
    until(lambda: canaries.count(deliveries.c.job_id.in_([partner, bucket]), deliveries.c.state != "dead") == 0)
    assert "FLEET" not in repr([failed, output, canaries.ask("GET", f"/webhooks/deliveries?job_id={bucket}").text])
    for name in ("gpu0", "io"):
        assert "not among those of COMFYLINE_SECRET_KEY" in fleet.log(name)
