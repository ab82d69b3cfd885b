"""What is put down as used is what the jobs themselves say, whatever becomes of them; on both databases."""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clock import DAY_MS, now_ms
from core.errors import LedgerUnavailable, StaleAttempt
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.upgrade import migrate
from core.ledger.usage import report
from core.ledger.usage.report import gpu_ms_ended_today
from core.records.job import CANCELING, RUNNING, TERMINAL, Job
from core.records.usage import GpuTime
from tests.ledger_moves import ERROR, lapse, produced, set_columns, stored, submit
from tests.makers import come_up
from tests.services import make_settings
from tests.usage_sums import wrong_sums

GPUS = ("gpu0@here", "gpu1@here")
#: By which a job is put down, beside its tenant.
KEYS, TEMPLATES = (None, "key-1", "key-2"), (None, "sd3")
TIMES = ("run_ms", "load_ms", "lost_ms")
#: So few that jobs fail for it.
MAX_ATTEMPTS = 3


class Life(NamedTuple):
    """What a job had of its client, and what it said of itself when it was last seen."""

    job: Job
    claims: list[Claim]


class Fleet:
    """Jobs of one tenant that live at random, and what is expected of the books."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.tenant = f"t-{uuid.uuid4().hex[:12]}"
        self.lives: list[Life] = []
        self.is_removed: dict[str, Job] = {}
        self.bytes_out = 0

    def submit(self, _job: int, amount: int) -> None:
        key_id, template = KEYS[amount % len(KEYS)], TEMPLATES[amount % len(TEMPLATES)]
        job = submit(self.ledger, tenant=self.tenant, key_id=key_id, template=template)
        self.lives.append(Life(job, []))

    def claim(self, number: int, amount: int) -> None:
        if (life := self._life(number)) is not None:
            claim = self.ledger.claims.claim(GPUS[amount % 2], named=life.job.id, ahead=amount % 7 == 0)
            for each in self.lives:
                if claim is not None and each.job.id == claim.job_id:
                    each.claims.append(claim)

    def begin(self, number: int, amount: int) -> None:
        if (claim := self._claim(number, amount)) is not None:
            self.ledger.claims.begun(claim)
            self._pass_ms(claim.job_id, amount)

    def generate(self, number: int, amount: int) -> None:
        if (claim := self._claim(number, amount)) is not None:
            with contextlib.suppress(StaleAttempt):
                self.ledger.claims.generated(
                    claim, [produced(claim)], outputs_reused=False, spent=_spent(amount), may_run_again=True
                )

    def store(self, number: int, amount: int) -> None:
        if (claim := self._claim(number, amount)) is not None:
            with contextlib.suppress(StaleAttempt):
                pending = self.ledger.outputs.pending(claim.job_id, claim.attempt).files
                done = [stored(file) for file in pending]
                self.ledger.outputs.succeed(claim.job_id, claim.attempt, done)
                self.bytes_out += sum(file.size_bytes for file in done)

    def succeed(self, number: int, amount: int) -> None:
        if (claim := self._claim(number, amount)) is not None:
            with contextlib.suppress(StaleAttempt):
                file = stored(produced(claim))
                self.ledger.outputs.succeed_at_once(claim, [file], outputs_reused=False, spent=_spent(amount))
                self.bytes_out += file.size_bytes

    def fail(self, number: int, amount: int) -> None:
        if (claim := self._claim(number, amount)) is not None:
            self.ledger.claims.fail(claim, ERROR, spent=_spent(amount))

    def cancel(self, number: int, _amount: int) -> None:
        if (life := self._life(number)) is not None:
            self.ledger.jobs.cancel(life.job.id)

    def let_go(self, number: int, amount: int) -> None:
        claim = self._claim(number, amount)
        if claim is not None and self.ledger.jobs.get(claim.job_id).status == CANCELING:
            self.ledger.claims.canceled(claim, spent=_spent(amount))

    def release(self, number: int, amount: int) -> None:
        if (claim := self._claim(number, amount)) is not None:
            self.ledger.requeue.release(claim, reason="lost", lost=amount % 2 == 0, spent=_spent(amount))

    def lose(self, number: int, amount: int) -> None:
        """Its worker dies: nobody says how long it had the GPU."""
        if (claim := self._claim(number, amount)) is not None:
            self._pass_ms(claim.job_id, amount)
            lapse(self.ledger, claim.job_id)
            self.ledger.requeue.take_back_lapsed()

    def lose_files(self, number: int, amount: int) -> None:
        if (claim := self._claim(number, amount)) is not None:
            self.ledger.requeue.lose_files(claim.job_id, claim.attempt)

    def remove(self, number: int, _amount: int) -> None:
        life = self._life(number)
        if life is not None:
            job = self.ledger.jobs.get(life.job.id)
            if self.ledger.removal.delete_job(job.id):
                self.is_removed[job.id] = job

    def fold(self, _job: int, amount: int) -> None:
        self.ledger.usage.fold(limit=1 + amount % 3)

    def stumble(self, _job: int, amount: int) -> None:
        """A process that folds dies before it is done."""

        def die(*_arguments: Any) -> None:
            raise LedgerUnavailable("killed")

        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(LedgerUnavailable):
            patch.setattr(report, "_add_up", die)
            self.ledger.usage.fold(limit=1 + amount % 3)

    def jobs(self) -> Iterator[Job]:
        """Every job, as it is or was when it was removed."""
        for life in self.lives:
            yield self.is_removed.get(life.job.id) or self.ledger.jobs.get(life.job.id)

    def _life(self, number: int) -> Life | None:
        here = [life for life in self.lives if life.job.id not in self.is_removed]
        return here[number % len(here)] if here else None

    def _claim(self, number: int, amount: int) -> Claim | None:
        """A claim of the job, a new one if it waits; now and then a stale one, whose holder writes all the same."""
        self.claim(number, amount)
        life = self._life(number)
        if life is None or not life.claims:
            return None
        return life.claims[-1 if amount % 4 else number % len(life.claims)]

    def _pass_ms(self, job_id: str, amount: int) -> None:
        if self.ledger.jobs.get(job_id).status in (RUNNING, CANCELING):
            set_columns(self.ledger, job_id, started_at_ms=now_ms() - amount)


def _spent(amount: int) -> GpuTime | None:
    return None if amount % 5 == 0 else GpuTime(run_ms=amount, load_ms=amount // 2)


MOVES: dict[str, Callable[[Fleet, int, int], None]] = {
    name: getattr(Fleet, name)
    for name in (
        *("submit", "claim", "begin", "generate", "store", "succeed", "fail", "cancel", "let_go"),
        *("release", "lose", "lose_files", "remove", "fold", "stumble"),
    )
}
LIVES = st.lists(
    st.tuples(st.sampled_from(sorted(MOVES)), st.integers(0, 5), st.integers(0, 9000)), min_size=8, max_size=40
)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def books(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger for all examples: each has a tenant of its own."""
    url = request.getfixturevalue("postgres").create() if request.param == "postgres" else ""
    made = make_settings(tmp_path_factory.mktemp("books"), database_url=url, max_attempts=MAX_ATTEMPTS)
    migrate(made)
    with contextlib.closing(Ledger(made)) as ledger:
        for name in GPUS:
            come_up(ledger, name, device="RTX 4090" if name == GPUS[0] else "H100")
        yield ledger


def sums_of(ledger: Ledger, tenant: str, by: Sequence[str] = ()) -> dict[tuple[Any, ...], Counter[str]]:
    today = now_ms() // DAY_MS
    found: dict[tuple[Any, ...], Counter[str]] = {}
    for each in ledger.usage.sums(by, since=today - 1, until=today, of=tenant):
        found.setdefault(each.group, Counter()).update(each.amounts)
    return found


def check(fleet: Fleet) -> None:
    """Sums equal the jobs' own figures: in all, and by key and template."""
    expected: dict[tuple[Any, ...], Counter[str]] = {}
    for job in fleet.jobs():
        own = expected.setdefault((job.key_id or "", job.template or ""), Counter())
        own.update({name: getattr(job, name) for name in TIMES})
        if job.status in TERMINAL:
            own[job.status] += 1
    told = sums_of(fleet.ledger, fleet.tenant, ("key_id", "template"))
    for group, amounts in told.items():
        bytes_out = amounts.pop("bytes_out")
        assert +amounts == +expected.get(group, Counter()), group
        assert bytes_out >= 0
    assert {group for group, own in expected.items() if +own} <= told.keys()
    assert sum(amounts["bytes_out"] for amounts in sums_of(fleet.ledger, fleet.tenant).values()) == fleet.bytes_out
    with fleet.ledger.database.read() as connection:
        today_ms = gpu_ms_ended_today(connection, of=fleet.tenant).get(fleet.tenant, 0)
    assert today_ms == sum(job.run_ms + job.load_ms for job in fleet.jobs())


@given(moves=LIVES)
@settings(max_examples=25, deadline=None)
def test_whatever_happens_to_jobs_the_books_are_theirs(books: Ledger, moves: list[tuple[str, int, int]]) -> None:
    fleet = Fleet(books)
    for _ in range(3):
        fleet.submit(0, len(moves))
    for name, number, amount in moves:
        MOVES[name](fleet, number, amount)
    check(fleet)
    while books.usage.fold(limit=7):
        pass
    check(fleet)
    for life in fleet.lives:
        # What waits still must not be claimed by the next example.
        if life.job.id not in fleet.is_removed:
            books.jobs.cancel(life.job.id)


def test_books_that_are_wrong_are_noticed(ledger: Ledger) -> None:
    """A check that never complains would prove nothing."""
    come_up(ledger, GPUS[0])
    submit(ledger)
    claim = ledger.claims.claim(GPUS[0])
    assert claim is not None
    ledger.outputs.succeed_at_once(claim, [stored(produced(claim))], outputs_reused=False, spent=GpuTime(run_ms=7))
    assert list(wrong_sums(ledger)) == []
    set_columns(ledger, claim.job_id, run_ms=8)
    [problem] = wrong_sums(ledger)
    assert "'run_ms': 7" in problem
    assert "'run_ms': 8" in problem
