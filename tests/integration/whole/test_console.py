"""The console in a real browser, before a real fleet: each page, each deed, two tenants, and an API that goes away."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import requests

from tests.browser import chromium
from tests.console import KEY, Served, fill, made, press, see, shows
from tests.fleet import ALL, Fleet, sampled, work
from tests.foreign_clients import npm_packages
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PAGES = ("fleet", "jobs", "batches", "gallery", "playground", "webhooks", "models", "usage", "keys", "health")
#: What `axe-core` finds wrong, each with where.
AXE = """axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa']}).then(({violations}) =>
  violations.map((each) => [each.id, each.nodes.map((node) => node.html.slice(0, 120))]))"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("console")
    with (
        chromium(root / "profile") as browser,
        Fleet(root, simulated_gpus="2", api_keys=KEY, gpu_prices="simulat=3.60 EUR") as fleet,
    ):
        fleet.key = KEY
        fleet.start(*ALL).ready()
        yield Served(url=fleet.base_url, fleet=fleet, browser=browser)


def test_a_wrong_key_is_told_and_the_right_one_is_kept_from_scripts(served: Served) -> None:
    page = served.browser.open(served.url)
    page.await_true("document.querySelector('nav, input[type=password]')")
    fill(page, "input[type=password]", "nonsense")
    press(page, "Sign in")
    shows(page, "This is no key of this server")
    fill(page, "input[type=password]", KEY)
    press(page, "Sign in")
    page.await_true("document.querySelector('nav')")
    assert page.run("document.cookie") == ""
    assert KEY not in page.run(
        "JSON.stringify({...localStorage, ...sessionStorage}) + document.documentElement.outerHTML"
    )
    page.run("location.reload()")
    page.await_true("document.querySelector('nav')")
    press(page, "Sign out default")
    page.await_true("document.querySelector('input[type=password]')")
    page.close()


def test_every_page_opens_with_what_is_there_and_asks_nobody_else(served: Served) -> None:
    job_id = made(served, label="shown")
    page = served.open()
    page.answered.clear()
    for each in (*PAGES, f"jobs/{job_id}", "playground/text2image"):
        see(page, each)
        page.await_true("document.querySelector('main').innerText.trim().length > 10")
        assert not page.run("document.querySelectorAll('[role=alert]').length"), each
    assert page.answered
    assert {url for url, _ in page.answered if not url.startswith((served.url, "data:"))} == set()
    assert [(url, status) for url, status in page.answered if status >= 400] == []
    page.close()


def test_the_last_hour_is_drawn_of_which_the_page_has_not_seen_a_moment(served: Served) -> None:
    made(served)
    until(lambda: served.ask("GET", "/api/v2/history")["samples"], what="a sample", timeout_s=60)
    page = served.open()
    see(page, "fleet")
    plots = "[...document.querySelectorAll('.plot [role=img]')].map((each) => each.getAttribute('aria-label'))"
    page.await_true(f"{plots}.length === 4")
    labels = page.run(plots)
    assert [label.partition(":")[0] for label in labels] == [
        *("Waiting", "Running", "GPUs at work", "Waited, 95 of 100 jobs")
    ]
    page.close()


def test_the_first_view_is_small_and_its_policy_strict(served: Served) -> None:
    index = requests.get(served.url, timeout=20)
    policy = index.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "<script>" not in index.text
    assert "style=" not in index.text
    page = served.browser.open(served.url)
    page.await_true("document.querySelector('#console').children.length > 0")
    sizes = page.run("performance.getEntriesByType('resource').map((each) => [each.name, each.decodedBodySize])")
    assert sum(size for _, size in sizes) + len(index.content) < 300_000, sizes
    page.close()


def test_a_template_is_filled_in_run_seen_and_run_again(served: Served) -> None:
    page = served.open()
    see(page, "playground/text2image")
    fill(page, "#field-prompt", "a lighthouse at dusk")
    press(page, "Run")
    page.await_true("document.querySelector('.outputs img')?.naturalWidth > 0")
    page.run("document.querySelector('.card a[href^=\"#/jobs/\"]').click()")
    shows(page, "a lighthouse at dusk")
    first = page.run("location.hash")
    press(page, "Again, new seed")
    page.await_true(f"location.hash !== {json.dumps(first)}")
    shows(page, "succeeded")
    page.await_true("document.querySelector('.outputs img')?.naturalWidth > 0")
    press(page, "Delete")
    page.await_true("location.hash === '#/jobs'")
    page.close()


def test_what_would_become_of_a_job_is_told_before_the_click(served: Served) -> None:
    made(served)
    page = served.open()
    see(page, "playground/text2image")
    shows(page, "Fill in prompt")
    fill(page, "#field-prompt", "a lighthouse at noon")
    page.await_true("/Begins .* and runs about .*[.]/.test(document.querySelector('.estimate').innerText)")
    page.await_true("/of GPU time.* about [0-9.]+ EUR/.test(document.querySelector('.estimate').innerText)")
    fill(page, "#field-steps", "100000")
    page.await_true("document.querySelector('.estimate.is-bad').innerText.includes('steps')")
    assert served.ask("GET", "/api/v2/jobs?template=text2image&status=queued,running")["jobs"] == []
    page.close()


def test_a_job_from_elsewhere_is_seen_as_it_goes_and_is_cancelled_here(served: Served) -> None:
    page = served.open()
    see(page, "jobs")
    body = {"workflow": work(60.0, steps=600), "label": "from elsewhere"}
    job_id = str(served.ask("POST", "/api/v2/jobs", json=body)["id"])
    shows(page, "from elsewhere")
    page.await_true("document.querySelector('.row .meter')")
    see(page, f"jobs/{job_id}")
    press(page, "Cancel")
    page.await_true("document.querySelector('main .badge').textContent === 'canceled'")
    page.close()


def test_a_failed_job_says_why(served: Served) -> None:
    graph = sampled(1, denoise=0.5)
    graph[next(iter(graph))]["inputs"] = {}
    refused = requests.post(
        f"{served.url}/api/v2/jobs", json={"workflow": graph}, headers={"X-API-Key": KEY}, timeout=20
    )
    assert refused.status_code == 422
    page = served.open()
    see(page, "jobs/00000000-0000-4000-8000-000000000000")
    shows(page, "There is no job")
    page.close()


def test_jobs_are_found_by_words_of_their_error(served: Served) -> None:
    made(served, label="went well")
    failed = made(served, label="went badly", workflow=work(60.0, steps=600), timeout=1)
    message = served.ask("GET", f"/api/v2/jobs/{failed}")["error"]["message"]
    page = served.open()
    see(page, "jobs")
    shows(page, "went well")
    fill(page, "[aria-label='Words of the error']", message[:30].upper())
    shows(page, "went badly")
    page.await_true("!document.querySelector('main').innerText.includes('went well')")
    page.close()


def test_a_gpu_is_drained_and_resumed(served: Served) -> None:
    page = served.open()
    see(page, "fleet")
    shows(page, "SIMULATED")
    page.await_true("document.querySelectorAll('.tile').length === 2")
    press(page, "Drain")
    page.await_true("document.querySelector('.tile.is-drained, .tile.is-draining')")
    press(page, "Resume")
    page.await_true("document.querySelectorAll('.tile.is-healthy').length === 2")
    page.close()


def test_a_batch_is_made_and_fills(served: Served) -> None:
    page = served.open()
    see(page, "batches")
    press(page, "New batch")
    page.await_true("document.querySelectorAll('#batch-template option').length > 2")
    fill(page, "#batch-template", "text2image")
    fill(page, "[aria-label='prompt for all jobs']", "hills")
    fill(page, "[aria-label='seed, varied']", "1..4")
    shows(page, "4 jobs: 4")
    page.await_true("/done in about .*EUR/s.test(document.querySelector('.estimate').innerText)")
    press(page, "Make 4 jobs")
    page.await_true("location.hash.startsWith('#/batches/')")
    page.await_true("document.querySelector('main .badge').textContent === 'completed'")
    page.await_true("document.querySelector('.sheet').naturalWidth > 100")
    page.close()


def test_what_was_made_is_in_the_gallery_with_how(served: Served) -> None:
    body = {"parameters": {"prompt": "a quiet harbour"}}
    job_id = str(served.ask("POST", "/workflows/text2image", json=body)["id"])
    until(lambda: served.ask("GET", f"/api/v2/jobs/{job_id}")["status"] == "succeeded", what="the picture")
    page = served.open()
    see(page, "gallery")
    page.await_true("document.querySelector('.gallery-item img')?.naturalWidth > 0")
    page.run("document.querySelector('.gallery-item').click()")
    page.await_true("document.querySelector('dialog[open]').innerText.includes('a quiet harbour')")
    page.close()


def test_two_tenants_do_not_see_each_other(served: Served) -> None:
    ours, theirs = served.key_of("acme"), served.key_of("other")
    made(served, key=ours, label="belongs to acme")
    made(served, key=theirs, label="belongs to other")
    page = served.open(ours)
    see(page, "jobs")
    shows(page, "belongs to acme")
    late = made(served, key=theirs, label="belongs to other, late")
    mine = made(served, key=ours, label="belongs to acme, late")
    shows(page, "belongs to acme, late")
    text = page.run("document.querySelector('main').innerText")
    assert "belongs to other" not in text
    assert mine[:8] in text
    see(page, f"jobs/{late}")
    shows(page, "There is no job")
    assert page.run("[...document.querySelectorAll('nav a')].map((each) => each.textContent)") == [
        *("Fleet", "Jobs", "Batches", "Gallery", "Playground", "Health")
    ]
    page.close()


def test_a_reload_in_the_middle_and_an_api_that_comes_back(served: Served) -> None:
    page = served.open()
    body = {"workflow": work(25.0, steps=250), "label": "through it all"}
    job_id = str(served.ask("POST", "/api/v2/jobs", json=body)["id"])
    see(page, f"jobs/{job_id}")
    page.await_true("document.querySelector('main .progress-line')")
    page.run("location.reload()")
    page.await_true("document.querySelector('main .progress-line')")
    served.fleet.kill("api")
    page.await_true("!document.querySelector('.live.is-live')")
    served.fleet.start("api").ready()
    page.await_true("document.querySelector('.live.is-live')")
    page.await_true("document.querySelector('main .badge').textContent === 'succeeded'", timeout_s=90)
    page.close()


def test_ten_thousand_jobs_are_a_list_of_few_rows(served: Served) -> None:
    page = served.open()
    see(page, "jobs")
    # As many as the API would hand out, by a stand-in of its answers: 10,000 jobs take minutes to make.
    page.run("""(() => {
      const asked = window.fetch;
      window.fetch = async (path, init) => {
        if (!String(path).startsWith('/api/v2/jobs?')) return asked(path, init);
        const from = Number(new URL(path, location).searchParams.get('cursor') ?? 0);
        const jobs = Array.from({length: 100}, (_, place) => {
          const number = from + place;
          const at = new Date(1e12 - number * 1000).toISOString();
          const id = `${String(number).padStart(8, '0')}-0000`;
          return {id, status: 'succeeded', label: `job ${number}`, outputs: [], priority: 0, attempt: 1,
            created_at: at, completed_at: at, metrics: null};
        });
        return new Response(JSON.stringify({jobs, next_cursor: from + 100 < 10000 ? String(from + 100) : null}));
      };
    })()""")
    see(page, "jobs?status=succeeded")
    shows(page, "job 0")
    page.run("""new Promise((done) => {
      const box = document.querySelector('.rows');
      const timer = setInterval(() => {
        box.scrollTop = box.scrollHeight;
        if (document.querySelector('main').innerText.includes('these are all')) { clearInterval(timer); done(); }
      }, 50);
    })""")
    assert page.run("document.querySelectorAll('.row').length") < 100
    shows(page, "job 9999")
    page.close()


def test_pages_pass_axe(served: Served) -> None:
    axe = (npm_packages("axe-core@4.14.1") / "node_modules/axe-core/axe.min.js").read_text()
    job_id = made(served, label="to look at")
    page = served.open()
    for theme in ("light", "dark"):
        page.run(f"document.documentElement.dataset.theme = {json.dumps(theme)}")
        for each in (*PAGES, f"jobs/{job_id}", "playground/text2image"):
            see(page, each)
            page.run(axe + "; undefined")
            found = page.run(AXE)
            assert found == [], (theme, each)
    page.close()


def test_the_keyboard_is_enough(served: Served) -> None:
    page = served.open()
    page.run("document.activeElement.blur()")
    seen = []
    for _ in range(12):
        page.press_key("Tab")
        seen.append(page.run("document.activeElement.textContent.trim()"))
    assert seen[0] == "Skip to content"
    assert "Jobs" in seen
    page.close()
