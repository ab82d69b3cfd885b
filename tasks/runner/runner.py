"""A GPU worker's place at its instance: one prompt running, and at most one more queued behind it.

ComfyUI starts a queued prompt within a millisecond, while a round trip through the broker and the ledger takes several.
So when the running prompt is about to end, the runner claims one more job and queues it: it is *on deck*. The next
turn that arrives takes up the job on deck. Should no turn arrive, because an idle worker used it up or the broker lost
it, the job runs and is recorded all the same, and others after it. A job is put on deck only if no other GPU could
start it now and the wait will be short.

Input files are fetched beside all that, and a job is posted when its files are here. Where that takes a while, more
jobs are claimed ahead, see `lineup`.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor, wait

from comfy.prompts.node_work import NodeTimes
from comfy.prompts.session import ComfySession, PromptResult
from core.background import failure_of
from core.errors import ComfylineError, ComfyUnavailable, LedgerUnavailable, PromptInterrupted, TransientError
from core.records.instance import InstanceRecord
from core.records.job import second_prompt_id
from tasks.models.uses import note_uses
from tasks.runner.attempt_end import AttemptEnd, Finished, Requeued
from tasks.runner.claimed.fetching import Fetching
from tasks.runner.claimed.lineup import Lineup
from tasks.runner.claimed.look_ahead import LookAhead
from tasks.runner.claimed.run import Run
from tasks.runner.claimed.staging import remove_staged
from tasks.runner.claiming import about_run, claim_next
from tasks.runner.collect import Collector, require_sent_pictures
from tasks.runner.connection import Connection
from tasks.runner.distress import CondemnPipe
from tasks.runner.leases import Leases
from tasks.runner.printing.follower import PrintFollower
from tasks.runner.recorder import Recorder, persistently
from tasks.runner.recovery import Recovery
from tasks.runner.reporter import ProgressReporter
from tasks.runner.run_times import Durations, Teacher, gpu_seconds, was_misjudged
from tasks.runtime import Runtime
from workflows.graphs.rewrite import for_job, names_own_files
from workflows.graphs.shape import shape_of

log = logging.getLogger(__name__)

#: Runs at once: the one on the GPU, the one on deck, and the one whose result is being recorded.
THREADS = 3
#: How long a prompt that was served from the cache waits for the files of an earlier one to be secured.
COLLECT_TIMEOUT_S = 5.0
#: A prompt that began so long after it was posted stood behind others, somebody else's if not ours: the ledger is told
#: when it began.
WAITED_S = 1.0
#: Whoever waits for a job whose files are fetched looks so often whether the GPU needs another one meanwhile.
LOOK_AGAIN_S = 0.1


class JobRunner:
    """Runs jobs on one instance for one Celery worker process. Made in that process, after the fork."""

    def __init__(self, runtime: Runtime, instance_name: str, pipe: CondemnPipe, *, worker: str | None = None) -> None:
        """Parameters:
        pipe: tells the main process when the instance has to be replaced.
        worker: its Celery node name; nothing is claimed while another worker has the instance's name.
        """
        self._runtime = runtime
        self._name = instance_name
        self._worker = worker
        self._recovery = Recovery(runtime, pipe)
        self._recorder = Recorder(runtime)
        self._leases = Leases(runtime.ledger, renew_s=runtime.settings.lease_renew_s)
        #: Hears of a prompt that is to be interrupted, and may not be posted yet.
        self.recall = self._leases.recall
        self._durations = Durations()
        self._node_times = NodeTimes()
        self._teacher = Teacher(runtime.ledger)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="run")
        self._fetching = Fetching(runtime)
        #: What neither a prompt nor a lease may wait for.
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="aside")
        self._connection = Connection(runtime, instance_name)
        #: Held from the decision to claim until what was claimed stands in the lineup.
        self._claiming = threading.Lock()
        settings = runtime.settings
        self._lineup = Lineup(self._durations, look_ahead_s=settings.look_ahead_s, most=settings.input_fetches)
        self._collector = Collector(runtime.ledger)
        self._prints = PrintFollower(runtime)
        self._closing = False
        self._look_ahead = LookAhead(
            runtime.ledger.claims,
            self._lineup,
            look_ahead_s=settings.look_ahead_s,
            aside=self._aside,
            may_claim=lambda: not self._closing and not self._fetching.rests,
            claim=lambda: self._begin(ahead=True),
        )

    @property
    def name(self) -> str:
        """gpu0@host: the instance it runs jobs on."""
        return self._name

    def work(self, named: str) -> AttemptEnd | None:
        """Use one turn: take up the job that nobody attends to, or else claim one, and wait for its end.

        Parameters:
          named: the job the turn was published for; a better one may be run instead.
        Returns: how the job ended on this GPU, or None when there was nothing to run.
        Raises: ComfyUnavailable - the instance is away; nothing was claimed.
        """
        run = self._lineup.take_unattended() or self._begin(named=named, is_attended=True)
        if run is None:
            return None
        while not run.is_posted and not wait([run.future], LOOK_AGAIN_S).done:
            # While the GPU runs nothing, nothing else tells us to look.
            self._look_ahead.fill_soon()
        return run.future.result()

    def close(self) -> None:
        """Give back what nobody attends to, and leave the instance."""
        # Whoever is claiming has it in the lineup when we look, and nobody claims afterwards.
        with self._claiming:
            self._closing = True
        for run in self._lineup.unattended():
            failure_of(functools.partial(self._leave, run), f"job {run.claim.job_id}")
        self._leases.close()
        self._prints.close()
        self._connection.close()

    def _leave(self, run: Run) -> None:
        # Given back first: the interrupt must not look like the job's own end.
        stopped = ComfyUnavailable("The worker was stopped.")
        given_back = self._recorder.give_back(run.claim, stopped, lost=False, spent=run.gpu_time())
        if run.lease is not None:
            # Also one that is only being posted now.
            run.lease.stop()
        self._recorder.move_on(given_back)

    def _begin(self, *, named: str | None = None, ahead: bool = False, is_attended: bool = False) -> Run | None:
        """Claim a job and post its prompt. A job that could not be posted comes back as a run that has ended.

        Parameters:
          is_attended: a turn waits for its end. If a job was claimed meanwhile that nobody attends to, it is that one.
        """
        instance, session = self._connection.get()
        with self._claiming:
            if is_attended and (claimed := self._lineup.take_unattended()) is not None:
                return claimed
            run = self._claim(instance, session, named=named, ahead=ahead, is_attended=is_attended)
        if run is None:
            if named is not None:
                self._connection.pass_on_if_barred()
            return None
        try:
            self._prepare(run)
        except BaseException as exc:
            self._forget(run, exc)
            raise
        if run.claim.inputs:
            self._fetching.begin(run, self._fetch)
            self._look_ahead.fill_soon()
        else:
            self._lineup.note_ready(run)
            self._post_ready()
        return run

    def _claim(
        self, instance: InstanceRecord, session: ComfySession, *, named: str | None, ahead: bool, is_attended: bool
    ) -> Run | None:
        if self._closing or (ahead and self._lineup.has_next() and not self._look_ahead.wants_more()):
            return None
        claims = self._runtime.ledger.claims
        claim = claim_next(claims, instance.name, named=named, ahead=ahead, worker=self._worker)
        if claim is None:
            return None
        run = Run(claim=claim, instance=instance, is_attended=is_attended, was_on_deck=ahead)
        run.session, run.lease, run.claimed_s = session, self._leases.hold(claim), time.monotonic()
        run.lease.on_early_stop = functools.partial(self._stop_early, run)
        self._lineup.add(run)
        if not is_attended:
            # So that a task attends to it, which Flower shows.
            own_turn = functools.partial(self._runtime.sender.own_turn, claim.job_id, self._name)
            failure_of(own_turn, f"the turn of job {claim.job_id}")
        failure_of(self._runtime.sender.wake, "waking idle instances")
        return run

    def _prepare(self, run: Run) -> None:
        run.given = graph = json.loads(run.claim.graph)
        run.shape = run.claim.shape or shape_of(graph)
        run.names_own_files = names_own_files(graph)

    @about_run
    def _fetch(self, run: Run) -> None:
        """Bring the input files of a job, whatever the GPU does meanwhile; runs in a thread of its own."""
        try:
            end = None if run.is_over else self._recorder.guard(run.claim, lambda: self._fetching.bring(run))
        except BaseException as exc:
            if self._lineup.stop_early(run):
                self._forget(run, exc)
            self._remove_staged(run)
            raise
        if end is not None and self._lineup.stop_early(run):
            self._end(run, end)
            failure_of(lambda: self._look_for_next(run), "the next job")
        elif end is not None or not self._lineup.note_ready(run):
            # It was stopped meanwhile.
            self._remove_staged(run)
        self._post_ready()

    def _stop_early(self, run: Run) -> None:
        """End a job that was cancelled, or is ours no more, before its prompt was posted. Does not wait."""
        if not self._lineup.stop_early(run):
            return

        def end_it() -> None:
            self._end(run, self._recorder.end_unbegun(run.claim, PromptInterrupted("It was stopped before it began.")))
            self._post_ready()
            self._runtime.sender.ended(run.claim)

        self._aside.submit(failure_of, end_it, f"job {run.claim.job_id}")

    def _post_ready(self) -> None:
        """Post what is next, if it is here and ComfyUI has nothing else that waits."""
        while (run := self._lineup.take_next()) is not None:
            failure_of(functools.partial(self._post, run), f"job {run.claim.job_id}")

    @about_run
    def _post(self, run: Run) -> None:
        try:
            end = self._lost_meanwhile(run) or self._recorder.guard(run.claim, lambda: self._submit_first(run))
        except BaseException as exc:
            self._forget(run, exc)
            raise
        if end is None:
            self._threads.submit(self._complete, run)
        else:
            self._end(run, end)
            self._runtime.sender.ended(run.claim)

    def _lost_meanwhile(self, run: Run) -> AttemptEnd | None:
        """Give back a job whose instance was lost while its files were fetched: it has no part in that."""
        try:
            if run.claim.inputs:
                run.instance, run.session = self._connection.get()
        except ComfyUnavailable as exc:
            lost = exc
            return persistently(lambda: self._recorder.give_back(run.claim, lost, lost=False))
        return None

    def _submit_first(self, run: Run) -> None:
        if run.claim.inputs:
            if time.monotonic() - run.claimed_s >= WAITED_S and not self._leases.is_held(run.claim):
                raise PromptInterrupted("It was stopped before it began.")
        else:
            note_uses(self._runtime.settings, run.claim.models)
        early = self._recorder.early(run.claim, run.instance, run.given).take
        on_life = functools.partial(self._show_life, run)
        run.reports = ProgressReporter(self._runtime, run.claim, run.given, on_life=on_life, early=early)
        run.sent = run.reports.sent
        self._submit(run, run.claim.prompt_id, self._collector.nodes_to_run(run.given))

    def _submit(self, run: Run, prompt_id: str, run_anew: Collection[str]) -> None:
        """Post the job's graph. Parameters: run_anew - nodes that ComfyUI's cache must not spare."""
        assert run.session is not None
        assert run.lease is not None
        job_id = run.claim.job_id
        run.graph = for_job(run.given, job_id=job_id, run_id=prompt_id, run_anew=run_anew)
        run.posted_s = time.monotonic()
        run.handle = run.session.submit(
            run.graph,
            prompt_id=prompt_id,
            extra_data=self._recorder.extra_data(run.claim),
            listener=run.reports,
            nodes_total=run.claim.nodes_total,
            work=self._node_times.expect(run.graph, run.shape),
            watchdog=self._recovery.watchdog(run.instance),
            headers=run.trace_headers(),
        )
        run.follow_prints(self._prints, secret=self._recorder.secret_of(run.claim))
        run.lease.watch(run.handle)

    @about_run
    def _complete(self, run: Run) -> None:
        """Follow a prompt to its end and record it; runs in a thread of its own."""
        timeout_s = run.claim.timeout_s or self._runtime.settings.job_timeout_s
        try:
            end = self._recorder.record(
                run.claim, run.instance, lambda: self._wait(run, timeout_s), run.sent, run.gpu_time
            )
        except BaseException as exc:
            self._forget(run, exc)
            raise
        # The job has ended, in the ledger too. What is learned from it must not keep whoever waits here from that.
        job = f"job {run.claim.job_id}"
        failure_of(lambda: run.teach(self._durations, end, now_s=time.monotonic()), job)
        self._end(run, end)
        self._post_ready()
        failure_of(lambda: self._look_for_next(run), "the next job")
        # After the end, which the next job may be waiting for.
        failure_of(lambda: self._learn(run, end), job)

    def _look_for_next(self, after: Run) -> None:
        """Claim a job, if there is none here: no turns are published for instances that are at work."""
        self._look_ahead.fill_soon()
        try:
            # Where nothing waits, a claim notes that the instance is idle: others go by when it was to be free.
            took_s = time.monotonic() - (after.started_s or after.posted_s)
            if self._closing or not self._lineup.is_empty():
                return
            if was_misjudged(after.claim, took_s) or self._runtime.ledger.claims.anything_waits():
                self._begin()
        except TransientError as exc:
            log.info("no next job was claimed; the next turn will do: %s", exc)
        finally:
            # Others are woken after this GPU was asked: it holds the models.
            self._runtime.sender.ended(after.claim)

    def _learn(self, run: Run, end: AttemptEnd) -> None:
        if isinstance(end, Finished):
            self._teacher.tell(run.claim, run.instance, run.gpu_s)
            if run.handle is not None:
                self._node_times.learn(run.graph, run.shape, run.handle.node_seconds)

    def _forget(self, run: Run, fault: BaseException) -> None:
        """A fault of ours: with its lease the job would hold this GPU for ever, without it the reconciler finds it."""
        self._leases.drop(run.claim)
        self._lineup.remove(run)
        run.future.set_exception(fault)
        self._aside.submit(failure_of, self._post_ready, "the next prompt")

    def _wait(self, run: Run, timeout_s: float) -> PromptResult:
        try:
            result, gone = self._collect(run, run.wait(timeout_s))
            run.gpu_s = gpu_seconds(result, run.graph)
            if gone:
                log.info(
                    "job %s: ComfyUI's cache named files that are gone; nodes %s run again", run.claim.job_id, gone
                )
                run.sent.clear()
                self._submit(run, second_prompt_id(run.claim.prompt_id), gone)
                result, _ = self._collect(run, run.wait(timeout_s))
                run.gpu_s = None
            require_sent_pictures(run.graph, run.sent, result)
        except ComfylineError as exc:
            if self._recovery.after(exc, run.instance):
                self._connection.lose()
                if run.instance.kind == "attached":
                    # It is not ended, and may take notice in the end.
                    run.interrupt_quietly()
            raise
        finally:
            run.collected.set()
        self._recovery.is_well()
        return result

    def _collect(self, run: Run, result: PromptResult) -> tuple[PromptResult, set[str]]:
        """Secure a prompt's files; also what the cache would have to make again, see `Collector`."""
        if result.cached_nodes:
            # What the cache has may be a file that an earlier prompt of ours is about to secure.
            for other in self._lineup.posted_before(run):
                other.collected.wait(COLLECT_TIMEOUT_S)
        assert run.session is not None
        return self._collector.collect(result, run.graph, run.instance, run.session.client, run.claim.job_id)

    def _end(self, run: Run, end: AttemptEnd) -> None:
        self._leases.drop(run.claim)
        is_attended = self._lineup.remove(run)
        run.finish(end)
        if not is_attended:
            self._recorder.report(end)
            self._recorder.move_on(end)
        if not isinstance(end, (Finished, Requeued)):
            self._recovery.remove_files(run.instance, run.claim.job_id)
        if run.claim.inputs:
            self._remove_staged(run)

    def _remove_staged(self, run: Run) -> None:
        if run.session is not None:
            remove_staged(run.claim, run.instance, run.session.client, self._runtime.settings)

    def _show_life(self, run: Run) -> None:
        """At each sign of life of the running prompt: has it begun, and is it time to queue the next one behind it?"""
        if run.started_s is None and run.handle is not None and run.handle.started.is_set():
            run.started_s = time.monotonic()
            self._post_ready()
            if run.was_on_deck or run.started_s - run.claimed_s >= WAITED_S:
                self._note_begun(run)
        if not self._closing:
            self._look_ahead.consider(run)

    def _note_begun(self, run: Run) -> None:
        try:
            self._runtime.ledger.claims.begun(run.claim, behind_s=self._lineup.waiting_s())
        except LedgerUnavailable as exc:
            log.info("job %s has begun, which the ledger was not told: %s", run.claim.job_id, exc)
