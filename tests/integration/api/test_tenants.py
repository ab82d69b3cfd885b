"""What one tenant owns does not exist for another one, in any contract; operators see all of it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from blake3 import blake3
from sqlalchemy import update

from core.ledger.database.tables import deliveries
from core.records.access import ALL_TENANTS, SCOPES, Limits
from core.records.job_error import JobError
from tests.integration.api.comfy_v2.test_assets import png
from tests.integration.api_fixtures import Api, postgres_database, running_api, settings_for
from tests.makers import GRAPH

#: All that is no operator's.
OWN = tuple(scope for scope in SCOPES if scope not in ("operate", "admin"))
PICTURE = png(7)
NOBODYS = str(uuid.uuid4())
LOADING = {
    "1": {"class_type": "LoadImage", "inputs": {"image": ""}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


class Client:
    """Somebody with a key."""

    def __init__(self, api: Api, tenant: str, *scopes: str, limits: Limits | None = None) -> None:
        self.api = api
        if tenant not in [each.name for each in api.ledger.tenants.all()]:
            api.ledger.tenants.create(tenant)
        self.key, self.secret = api.ledger.keys.create(
            tenant, name="test", scopes=scopes or OWN, limits=limits or Limits()
        )

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.secret}", **options.pop("headers", {})}
        return requests.request(
            method, self.api.url + path, headers=headers, timeout=20, allow_redirects=False, **options
        )

    def submitted(self, **fields: Any) -> str:
        self.api.worker.beat()
        answer = self.ask("POST", "/api/v2/jobs", json={"workflow": GRAPH, **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def uploaded(self, content: bytes = PICTURE, name: str = "room.png") -> dict[str, Any]:
        answer = self.ask("POST", "/api/v2/assets", files={"file": content}, data={"file_path": name})
        assert answer.ok, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("api")
    if request.param == "sqlite":
        with running_api(settings_for(folder, allow_networks=("loopback",))) as running:
            running.worker.come_up()
            yield running
        return
    with (
        postgres_database() as url,
        running_api(settings_for(folder, database_url=url, allow_networks=("loopback",))) as running,
    ):
        running.worker.come_up()
        yield running


class Belongings:
    """One of everything that a tenant may own."""

    def __init__(self, owner: Client) -> None:
        api = owner.api
        self.owner = owner
        self.ended = owner.submitted(webhook={"url": "http://127.0.0.1:9/x"}, metadata={"label": "of-acme"})
        api.worker.run(self.ended, PICTURE)
        self.failed = owner.submitted()
        claim = api.worker.claim(self.failed)
        api.ledger.claims.fail(claim, JobError(code="node_execution_error", message="boom"))
        self.asked = "order-66"
        answer = owner.ask("POST", "/generate", json={"input": {"workflow_json": GRAPH, "request_id": self.asked}})
        assert answer.status_code == 202, answer.text
        self.running = owner.submitted()
        api.worker.claim(self.running)
        self.queued = owner.submitted()
        self.upload = owner.uploaded(PICTURE + b"acme", "acme-room.png")
        job = owner.ask("GET", f"/api/v2/jobs/{self.ended}").json()
        self.output = job["outputs"][0]
        self.local_path = f"{self.ended}/{api.ledger.jobs.get(self.ended).outputs[0].storage_key}".split("/", 1)[1]
        body = {"workflow": GRAPH, "over": {"1.color": [1, 2]}, "label": "of-acme"}
        self.batch = owner.ask("POST", "/api/v2/batches", json=body).json()["id"]
        self.children = [job.id for job in api.ledger.batch_children.page(self.batch, of=ALL_TENANTS)]
        notes = owner.ask("POST", "/comfyui/userdata/acme-notes.json", data=b"of-acme")
        assert notes.status_code == 200, notes.text
        [delivery] = api.ledger.deliveries.page(job_id=self.ended)
        self.delivery = delivery.id

    @property
    def jobs(self) -> list[str]:
        return [self.ended, self.failed, self.running, self.queued]

    def places(self) -> dict[str, list[tuple[str, str]]]:
        """By the name of a place in a path: ids of these things, and one of nothing of the kind."""
        of_jobs = [(job_id, NOBODYS) for job_id in self.jobs]
        digest = f"blake3:{'0' * 64}"
        return {
            "job_id": of_jobs,
            "request_id": [*of_jobs, (self.asked, "order-67")],
            "task_id": [*of_jobs, (self.asked, "order-67")],
            "asset_id": [(self.upload["id"], NOBODYS), (self.output["id"], NOBODYS)],
            "upload_id": [(NOBODYS, str(uuid.uuid4()))],
            "digest": [(self.upload["hash"], digest)],
            "key_id": [(self.owner.key.id, NOBODYS)],
            "tenant": [("acme", "nobody")],
            "batch_id": [(self.batch, NOBODYS)],
            "delivery_id": [(self.delivery, NOBODYS)],
            "prompt_id": of_jobs,
            "file": [("acme-notes.json", "nothing.json")],
            "rollout_id": [(NOBODYS, str(uuid.uuid4()))],
            "path": [(self.local_path, self.local_path.replace(self.ended, NOBODYS))],
        }

    def words(self) -> list[str]:
        """What tells of these things wherever it stands."""
        ids = [*self.jobs, *self.children, self.batch, self.asked, self.upload["id"], self.output["id"], self.delivery]
        return [*ids, self.upload["hash"].removeprefix("blake3:"), "acme-room.png", "of-acme"]


@pytest.fixture(scope="module")
def acme(api: Api) -> Belongings:
    return Belongings(Client(api, "acme"))


@pytest.fixture(scope="module")
def other(api: Api, acme: Belongings) -> Client:
    return Client(api, "globex")


def routes(api: Api) -> list[tuple[str, str, dict[str, Any]]]:
    document = api.get("/openapi.json").json()
    return [
        (method.upper(), path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]


def example(api: Api, operation: dict[str, Any]) -> dict[str, Any]:
    """What a request to a route may bring: the first example of its body."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return {}
    document = api.get("/openapi.json").json()
    name = content["schema"].get("$ref", content["schema"].get("anyOf", [{}])[0].get("$ref", "")).rpartition("/")[2]
    return {"json": document["components"]["schemas"][name]["examples"][0]}


def told(answer: requests.Response, *ids: str) -> tuple[int, str, dict[str, str]]:
    """An answer without what differs each time, and without the id that was asked for."""
    text = answer.text
    for each in ids:
        text = text.replace(each, "ID")
    headers = {name: value for name, value in answer.headers.items() if name not in ("Date", "Content-Length")}
    for name in ("X-Request-Id", "X-Comfy-Request-Id"):
        headers.pop(name, None)
    return answer.status_code, re.sub(r'"request_id": "[0-9a-f-]+"', "", text), headers


#: Places in paths that name nothing that a tenant owns.
COMMON = {"name", "model_path", "pool", "token_name", "provider", "model", "folder", "class_type", "dest"}
#: What writes a file of a tenant's own, whatever others call theirs.
OWN_FILES = "/comfyui/userdata/{file}"


def test_no_route_tells_another_tenants_things_from_what_does_not_exist(
    api: Api, acme: Belongings, other: Client
) -> None:
    places, asked = acme.places(), 0
    for method, path, operation in routes(api):
        names = re.findall(r"{(\w+)}", path)
        if not names or set(names) <= COMMON:
            continue
        if path.startswith(OWN_FILES) and method == "POST":
            continue
        [name] = set(names) - COMMON
        path = path.replace("{provider}/{model}", "fleet/text2image")
        assert name in places, f"{path}: say in `places` what {name} is of"
        for theirs, nobodys in places[name]:
            body = example(api, operation)
            answers = [
                told(other.ask(method, path.replace(f"{{{name}}}", each), **body), each) for each in (theirs, nobodys)
            ]
            assert answers[0] == answers[1], f"{method} {path} of {theirs}"
            # ComfyUI says of what it does not have that there is nothing.
            is_refused = 400 <= answers[0][0] < 500 or answers[0][1] in ("{}", '{"cancelled": false}')
            assert is_refused, f"{method} {path} of {theirs}: {answers[0]}"
            asked += 1
    assert asked > 40
    # And nothing has happened to any of it.
    found = {job.id: job.status for job in api.ledger.jobs.page(of="acme")}
    assert [found[job_id] for job_id in acme.jobs] == ["succeeded", "failed", "running", "queued"]
    assert [found[job_id] for job_id in acme.children] == ["queued", "queued"]
    assert api.ledger.batches.get(acme.batch, of="acme").state == "running"
    assert api.ledger.input_files.get(acme.upload["id"]).tenant == "acme"
    assert api.ledger.deliveries.get(acme.delivery).state == "pending"


def test_no_list_has_another_tenants_things(api: Api, acme: Belongings, other: Client) -> None:
    for method, path, _ in routes(api):
        # A stream that does not end has a test of its own (test_feed).
        if method != "GET" or "{" in path or path == "/api/v2/events":
            continue
        text = other.ask(method, path).text
        for word in acme.words():
            assert word not in text, f"{path} tells {word}"


@pytest.mark.parametrize(
    "query",
    [
        "/api/v2/jobs?id_prefix={job}",
        "/api/v2/jobs?metadata[label]=of-acme",
        "/api/v2/jobs?error=boom",
        "/webhooks/deliveries?job_id={job}",
    ],
)
def test_no_filter_finds_them(acme: Belongings, other: Client, query: str) -> None:
    path = query.format(job=acme.ended)
    theirs = acme.failed if "error=" in query else acme.ended
    assert theirs in acme.owner.ask("GET", path).text
    assert theirs not in other.ask("GET", path).text


def test_its_owner_finds_each_of_them(acme: Belongings) -> None:
    owner = acme.owner
    for path in (
        *(f"/api/v2/jobs/{job_id}" for job_id in acme.jobs),
        f"/result/{acme.asked}",
        f"/task/{acme.ended}",
        f"/api/v2/assets/{acme.upload['id']}/content",
        f"/api/v2/assets/{acme.output['id']}",
        f"/webhooks/deliveries/{acme.delivery}",
        f"/download/{acme.local_path}",
    ):
        assert owner.ask("GET", path).status_code == 200, path
    assert owner.ask("HEAD", f"/api/v2/assets/by-hash/{acme.upload['hash']}").status_code == 200


@pytest.mark.parametrize("scope", ["operate", "admin"])
def test_an_operators_key_sees_them(api: Api, acme: Belongings, scope: str) -> None:
    operator = Client(api, "default", "read", "webhooks", scope)
    listed = operator.ask("GET", "/api/v2/jobs").text
    assert all(job_id in listed for job_id in acme.jobs)
    assert operator.ask("GET", f"/result/{acme.asked}").status_code == 200
    assert operator.ask("GET", f"/api/v2/assets/{acme.output['id']}/content").content == PICTURE
    assert operator.ask("GET", f"/webhooks/deliveries/{acme.delivery}").status_code == 200


def test_counts_are_of_ones_own(acme: Belongings, other: Client) -> None:
    own, others = acme.owner.ask("GET", "/queue-info").json(), other.ask("GET", "/queue-info").json()
    assert (own["preprocess_queue_size"], own["generation_queue_size"]) == (4, 1), "two of them are of its batch"
    assert (others["preprocess_queue_size"], others["generation_queue_size"]) == (0, 0)


def test_a_hash_that_is_known_gives_nothing(acme: Belongings, other: Client) -> None:
    answer = other.ask("POST", "/api/v2/assets/from-hash", json={"hash": acme.upload["hash"], "file_path": "x.png"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "blob_not_found")
    again = other.uploaded(PICTURE + b"acme", "acme-room.png")
    assert again["created_new"], "that the bytes were here is not told"
    assert again["id"] != acme.upload["id"]
    assert other.ask("DELETE", f"/api/v2/assets/{again['id']}").status_code == 204
    assert acme.owner.ask("GET", f"/api/v2/assets/{acme.upload['id']}/content").status_code == 200


@pytest.mark.parametrize("of", ["upload", "output", "path"])
def test_no_graph_loads_another_tenants_file(acme: Belongings, other: Client, of: str) -> None:
    theirs = {"upload": acme.upload["id"], "output": acme.output["id"], "path": acme.local_path}[of]
    graph = {**LOADING, "1": {"class_type": "LoadImage", "inputs": {"image": {"asset": theirs}}}}
    nobodys = {**LOADING, "1": {"class_type": "LoadImage", "inputs": {"image": {"asset": NOBODYS}}}}
    answers = [
        told(other.ask("POST", "/api/v2/jobs", json={"workflow": each}), asset)
        for each, asset in ((graph, theirs), (nobodys, NOBODYS))
    ]
    assert answers[0] == answers[1]
    assert answers[0][0] == 422


def test_a_name_of_a_file_is_ones_own(api: Api) -> None:
    first, second = Client(api, "one"), Client(api, "two")
    names = []
    for number, client in enumerate((first, second)):
        answer = client.ask("POST", "/upload/image", files={"file": ("lamp.png", png(number))})
        names.append(answer.json()["filename"])
    assert names == ["lamp.png", "lamp.png"], "that the name is taken elsewhere is not told"
    graph = {**LOADING, "1": {"class_type": "LoadImage", "inputs": {"image": "lamp.png"}}}
    for number, client in enumerate((first, second)):
        job_id = client.submitted(workflow=graph)
        [file] = api.ledger.jobs.get(job_id).inputs
        digest = blake3(png(number)).hexdigest()
        assert digest in file.key.replace("/", "")


def test_ids_of_clients_are_their_tenants(api: Api) -> None:
    first, second = Client(api, "one"), Client(api, "two")
    key = {"Idempotency-Key": "the-same"}
    answers = [client.ask("POST", "/api/v2/jobs", json={"workflow": GRAPH}, headers=key) for client in (first, second)]
    assert [answer.status_code for answer in answers] == [201, 201]
    body = {"input": {"workflow_json": GRAPH, "request_id": "the-same"}}
    for client in (first, second):
        assert client.ask("POST", "/generate", json=body).status_code == 202
    jobs = [client.ask("GET", "/result/the-same").json() for client in (first, second)]
    assert {job["id"] for job in jobs} == {"the-same"}
    assert first.ask("POST", "/cancel/the-same").json()["status"] == "cancelled"
    assert second.ask("GET", "/result/the-same").json()["status"] != "cancelled"


def test_a_request_may_have_the_id_of_another_tenants_job(acme: Belongings, other: Client) -> None:
    body = {"input": {"workflow_json": GRAPH, "request_id": acme.queued}}
    assert other.ask("POST", "/generate", json=body).status_code == 202
    assert acme.owner.ask("GET", f"/result/{acme.queued}").json()["id"] == acme.queued
    assert other.ask("POST", f"/cancel/{acme.queued}").status_code == 200
    assert acme.owner.ask("GET", f"/api/v2/jobs/{acme.queued}").json()["status"] == "queued"


def test_a_template_with_a_file_brings_it_for_its_tenant(api: Api, other: Client) -> None:
    form = {"input_image": ("mine.png", png(99))}
    answer = other.ask("POST", "/workflows/upscale", files=form)
    # This fleet has no nodes for it: the file was there before that was found.
    assert answer.status_code == 422
    file = api.ledger.input_files.by_hash(f"blake3:{blake3(png(99)).hexdigest()}")
    assert file is not None
    assert file.tenant == "globex"


def test_a_purge_is_of_ones_own(api: Api, acme: Belongings, other: Client) -> None:
    mine = other.submitted(webhook={"url": "http://127.0.0.1:9/x"})
    api.ledger.jobs.cancel(mine)
    ended = {"state": "dead", "next_try_at_ms": None}
    with api.ledger.database.write() as transaction:
        transaction.connection.execute(update(deliveries).values(**ended))
    assert other.ask("DELETE", "/webhooks/deliveries?state=dead").json() == {"purged": 1}
    assert api.ledger.deliveries.get(acme.delivery).id == acme.delivery
    assert api.ledger.deliveries.page(job_id=mine) == []


@pytest.fixture(scope="module")
def limited(api: Api) -> Client:
    return Client(api, "limited", limits=Limits(max_priority=5, templates=("text2image",), pools=("small",)))


@pytest.fixture(scope="module")
def pooled(api: Api) -> Client:
    api.worker.come_up("gpu1@test", pool="small")
    api.worker.come_up("gpu2@test", pool="large")
    return Client(api, "limited", limits=Limits(max_priority=5, pools=("small",)))


#: A submission on each contract, with a priority.
SUBMISSIONS: dict[str, Callable[[int], dict[str, Any]]] = {
    "/api/v2/jobs": lambda n: {"workflow": GRAPH, "priority": n},
    "/generate": lambda n: {"input": {"workflow_json": GRAPH, "priority": n}},
    "/custom_workflow": lambda n: {"workflow": GRAPH, "custom_fields": {}, "priority": n},
}


@pytest.mark.parametrize("path", list(SUBMISSIONS))
def test_a_keys_highest_priority_holds_on_every_contract(pooled: Client, path: str) -> None:
    taken, refused = (pooled.ask("POST", path, json=SUBMISSIONS[path](n)) for n in (5, 6))
    assert taken.status_code in (201, 202), taken.text
    assert refused.status_code == 422
    assert "priority must be at most 5, not 6: this key may ask for no more" in refused.text


@pytest.mark.parametrize("path", list(SUBMISSIONS))
def test_a_key_of_templates_brings_no_graph(limited: Client, path: str) -> None:
    answer = limited.ask("POST", path, json=SUBMISSIONS[path](0))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_allowed")
    assert "text2image" in answer.text


def test_a_key_of_templates_fills_no_other(limited: Client) -> None:
    other = limited.ask("POST", "/workflows/flux", json={"parameters": {"prompt": "x"}})
    assert (other.status_code, other.json()["error"]["code"]) == (403, "not_allowed")
    own = limited.ask("POST", "/workflows/text2image", json={"parameters": {"prompt": "x"}})
    assert own.json().get("error", {}).get("code") != "not_allowed"


def test_the_one_pool_of_a_key_is_its_jobs(api: Api, pooled: Client) -> None:
    job_id = pooled.submitted()
    requires = api.ledger.jobs.get(job_id).requires
    assert requires is not None
    assert requires.pool == "small"
    other = pooled.ask("POST", "/api/v2/jobs", json={"workflow": GRAPH, "requires": {"pool": "large"}})
    assert (other.status_code, other.json()["error"]["code"]) == (403, "not_allowed")


def test_of_several_pools_a_job_names_one(api: Api, pooled: Client) -> None:
    client = Client(api, "limited", limits=Limits(pools=("small", "large")))
    unsaid = client.ask("POST", "/api/v2/jobs", json={"workflow": GRAPH})
    assert unsaid.status_code == 403
    assert "requires.pool must be one of small, large" in unsaid.text
    client.submitted(requires={"pool": "large"})


def test_who_sees_the_things_of_several_is_told_whose_they_are(api: Api) -> None:
    acme, operator = Client(api, "told-acme"), Client(api, "default", "read", "cancel", "operate", "submit")
    job_id = acme.submitted()
    batch = acme.ask("POST", "/api/v2/batches", json={"workflow": GRAPH, "over": {"1.color": [1]}}).json()["id"]
    paths: dict[str, Callable[[Any], list[Any]]] = {
        f"/api/v2/jobs/{job_id}": lambda body: [body],
        "/api/v2/jobs?limit=100": lambda body: [each for each in body["jobs"] if each["id"] == job_id],
        f"/api/v2/batches/{batch}": lambda body: [body],
        "/api/v2/batches?limit=100": lambda body: [each for each in body["batches"] if each["id"] == batch],
        f"/api/v2/batches/{batch}/jobs": lambda body: body["jobs"],
    }
    for path, shown in paths.items():
        assert [each["tenant"] for each in shown(operator.ask("GET", path).json())] == ["told-acme"], path
        assert ["tenant" in each for each in shown(acme.ask("GET", path).json())] == [False], path
    assert operator.ask("POST", f"/api/v2/jobs/{job_id}/cancel").json()["tenant"] == "told-acme"


def test_jobs_that_are_added_to_a_batch_count_as_of_the_key_that_adds_them(api: Api) -> None:
    first, second = Client(api, "adders"), Client(api, "adders")
    operator = Client(api, "default", "operate", "submit")
    batch = first.ask("POST", "/api/v2/batches", json={"workflow": GRAPH, "over": {"1.color": [1]}}).json()["id"]
    for client in (second, operator):
        added = client.ask("POST", f"/api/v2/batches/{batch}/jobs", json={"over": {"1.color": [2]}})
        assert added.status_code == 201, added.text
    jobs = api.ledger.batch_children.page(batch, of=ALL_TENANTS)
    # An operator's key is of another tenant, and none that these jobs could count as of.
    assert [job.key_id for job in jobs] == [first.key.id, second.key.id, first.key.id]
