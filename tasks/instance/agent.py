"""The main process of a GPU worker: keeps the instance alive, and the ledger informed about it."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import threading
import time
from collections.abc import Callable

from comfy.client.client import ComfyClient
from comfy.liveness.muteness import MuteLimits
from comfy.process.instance import Instance
from comfy.process.spec import InstanceSpec
from comfy.process.supervisor import InstanceUnfit, Supervisor
from comfy.process.vram import VramWatch
from comfy.prompts.event_socket import problem_of
from core.background import Loop, failure_of, in_background, lives
from core.errors import ComfylineError, ComfyUnavailable
from core.ledger.instances import QUARANTINED, UNHEALTHY
from core.metrics.counted import QUARANTINES
from core.metrics.tally import process_tally
from core.rollouts.gpu_renewal import GpuRenewal
from core.scheduling.reasons import named
from core.settings import Settings
from tasks.instance.admission import Admission, Condition
from tasks.instance.catalogue_watch import CatalogueWatch, folders_to_learn
from tasks.instance.first_turn import publish_first_turn
from tasks.instance.housekeeping import Housekeeper
from tasks.instance.probe import read_info
from tasks.instance.release import JobRelease
from tasks.instance.reporting import StateReporter
from tasks.instance.tenure import Tenure
from tasks.instance.warmup import WarmUp
from tasks.models.fetcher import ModelFetcher, fetches_models
from tasks.runner.distress import CondemnPipe, RecallPipe

log = logging.getLogger(__name__)

#: Failures within this time count towards a quarantine.
WINDOW_S = 600.0
#: A job that must leave an attached instance gets this long to react to the interrupt.
LEAVE_S = 3.0


class InstanceAgent:
    """Owns one instance for as long as the worker lives."""

    def __init__(self, settings: Settings, spec: InstanceSpec, tenure: Tenure) -> None:
        """Parameters:
        tenure: this worker's hold on the instance's name.
        """
        self._settings = settings
        self._spec = spec
        self._instance = Instance(spec)
        self._supervisor = Supervisor(
            self._instance,
            on_up=self._up,
            on_down=self._down,
            on_wait=self._wait,
            on_mute=self._note_mute,
            on_quarantine=self._quarantine,
            mute_limits=MuteLimits(idle_s=settings.mute_idle_s, busy_s=settings.mute_s),
            quarantine_after=settings.quarantine_after,
            quarantine_s=settings.quarantine_s,
            # Starts that time out one after the other must count, too.
            quarantine_window_s=max(WINDOW_S, 2 * settings.quarantine_after * spec.start_timeout_s),
        )
        self._warmup = WarmUp(settings, self._instance)
        self._housekeeper = Housekeeper(settings, self._instance)
        self._stopping = threading.Event()
        #: A restart waits no longer than `drain_grace_s` for the running job: an operator wants it.
        self._gives_back = threading.Event()
        self._heartbeat = Loop("heartbeat", self._beat, pause_s=settings.lease_renew_s)
        self._admission = Admission()
        self._vram = VramWatch(spec, lambda: self._instance.base_url)
        self._reporter = StateReporter(
            settings,
            tenure,
            self._admission,
            restarts=lambda: self._supervisor.restarts,
            vram_used=self._vram.used_bytes,
        )
        #: Prompts that made an attached instance useless; None: it has to be asked which, as soon as it answers.
        self._in_the_way: set[str] | None = set()
        #: Whether it took jobs when the ledger was told last.
        self._took_jobs = False
        #: How long the warm-up took after the last start.
        self._warmup_s: float | None = None
        #: Through which the pool process says why the instance is to be replaced.
        self.condemn_pipe = CondemnPipe()
        #: Through which that one hears of what is cancelled: a prompt that is not posted yet is nowhere else.
        self.recall_pipe = RecallPipe()
        #: gpu0@host: how the ledger and other machines call this instance.
        self.name = tenure.name
        self._release = JobRelease(settings, self.name)
        #: What a rollout wants of this worker.
        self.renewal = GpuRenewal(self.name, turn_away=self._begin_renewal, take_again=self._end_renewal)
        self._catalogue = CatalogueWatch(self.name, record=self._reporter.offers, tell=self._reporter.has_looked)
        has_models = fetches_models(settings)
        self._models = ModelFetcher(settings, arrived=self._catalogue.look_again) if has_models else None

    @property
    def takes_jobs(self) -> bool:
        """Whether turns may be taken; read by the consumer's gate."""
        return self._admission.takes_jobs

    def start(self) -> None:
        """Register in the ledger, start the instance, and keep both alive."""
        self._reporter.open(self._stopping, self.renewal.follow)
        self.condemn_pipe.listen(self._replace)
        self._supervisor.start()
        self._heartbeat.start()
        self._catalogue.start()
        self._vram.start()
        if self._models is not None:
            self._models.start()

    def begin_to_stop(self) -> None:
        """Take no more jobs, since the worker was told to end; the running one gets `drain_grace_s` to finish."""
        if not self._admission.is_stopping:
            self._admission.is_stopping = True
            in_background("let-go", self._let_go)

    def stop(self) -> None:
        """End the instance and say so. Idempotent."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._gives_back.set()
        self._admission.is_stopping = True
        self._heartbeat.end()
        self._catalogue.end()
        self._vram.end()
        if self._models is not None:
            self._models.end()
        self._end_instance()
        self._reporter.close()

    # What operators ask for, through Celery's remote control. None of these waits for anything.

    def interrupt(self, prompt_id: str) -> None:
        """Interrupt one prompt, or have it not posted."""
        self.recall_pipe.say(prompt_id)
        in_background("interrupt", lambda: self._try("interrupt", lambda: self._interrupt(prompt_id)))

    def look_again(self) -> None:
        """Look for files that were added to the instance's folders, and for model files that jobs wait for."""
        self._catalogue.look_again()
        if self._models is not None:
            self._models.wake()

    def drain(self) -> None:
        """Take no more jobs until `resume`, also after a restart of the worker; the running job goes on."""
        self._admission.is_drained = True
        in_background("drain", self._turn_away_if_drained)

    def resume(self) -> None:
        """End a drain, or a quarantine."""
        self._admission.is_drained = False
        self._heartbeat.wake()
        self._supervisor.release()

    def _begin_renewal(self) -> None:
        self._admission.is_renewing = True
        in_background("renewal", lambda: self._try("renewal", self._turn_away))

    def _end_renewal(self) -> None:
        self._admission.is_renewing = False
        self._heartbeat.wake()

    def restart(self) -> None:
        """Start the instance anew when its running job is done, or has been given back after `drain_grace_s`."""
        self._gives_back.set()
        self._begin_restart("It is being restarted by an operator.")

    def _begin_restart(self, reason: str) -> None:
        if not self._admission.is_restarting:
            self._admission.is_restarting = True
            in_background("restart", lambda: self._restart(reason))

    def lose_jobs(self) -> None:
        """Give back the jobs of the pool process that died, now and not when their leases lapse."""
        if not self._admission.taken_by:
            in_background("lose-jobs", self._release.of_dead_process)

    # Called by the supervisor, in its thread.

    def _up(self) -> None:
        """Record what the instance is and offers; called again until it succeeds. The ledger shows why it does not."""
        try:
            self._come_up()
        except InstanceUnfit:
            raise
        except ComfyUnavailable as exc:
            self._wait(exc.message)
            raise

    def _come_up(self) -> None:
        assert self._instance.base_url is not None
        if self._instance.is_attached:
            self._look_at_queue(self._instance.base_url)
        self._warm_up(self._instance.base_url)
        self._record(self._instance.base_url)

    def _warm_up(self, base_url: str) -> None:
        # One that fails while a file comes into its place has failed for want of it, too.
        lacked = [] if self._models is None else self._models.lacking(self._warmup.files)
        try:
            self._warmup_s = self._warmup.run(base_url)
        except InstanceUnfit as exc:
            # No further start helps before they are there.
            if self._models is not None and (missing := self._models.missing(self._warmup.files) or lacked):
                raise ComfyUnavailable(f"The warm-up waits for {named(missing)} to be fetched.") from exc
            raise

    def _record(self, base_url: str) -> None:
        info = read_info(base_url)
        self._admission.note = _websocket_note(base_url) if self._instance.is_attached else None
        self._look_at_storage()
        self._look_at_disk()
        self._reporter.up(
            base_url,
            info,
            output_dir=self._instance.output_dir,
            warmup_s=self._warmup_s,
            held=self._warmup.loaded,
        )
        self._warmup.is_recorded()
        self._catalogue.watch(base_url, info.object_info)
        self._begin_to_take()

    def _look_at_queue(self, base_url: str) -> None:
        """Raise ComfyUnavailable while the instance runs a prompt that made it useless; only its owner can end that."""
        if self._in_the_way == set():
            return
        with contextlib.closing(ComfyClient(base_url)) as client:
            running = client.running_prompts()
        self._in_the_way = running if self._in_the_way is None else self._in_the_way & running
        if self._in_the_way:
            raise ComfyUnavailable(f"{self._spec.name} still runs a prompt that is stuck; restart that ComfyUI.")

    def _wait(self, reason: str) -> None:
        if self._admission.away.reason != reason:
            self._go_away(Condition(state=UNHEALTHY, reason=reason))

    def _note_mute(self, is_mute: bool) -> None:
        self._admission.is_mute = is_mute
        self._heartbeat.wake()

    def _down(self, reason: str) -> None:
        self._admission.is_mute = False
        # What follows the first line is ComfyUI's log, with paths of this host: clients see the ledger's copy.
        self._go_away(Condition(state=UNHEALTHY, reason=reason.partition("\n")[0]))

    def _quarantine(self, reason: str, until_s: float) -> None:
        until = time.strftime("%H:%M:%S", time.gmtime(until_s))
        headline = f"Quarantined until {until} UTC after too many failures; comfyline resume ends it. The last: "
        process_tally.add(QUARANTINES)
        reason = headline + reason.partition("\n")[0]
        self._go_away(Condition(state=QUARANTINED, reason=reason, quarantined_until_ms=int(until_s * 1000)))

    def _go_away(self, condition: Condition) -> None:
        self._catalogue.forget()
        self._reporter.go_away(condition)

    # The heartbeat's thread.

    def _beat(self) -> None:
        # Whatever is wrong with the disk or with another thread, the ledger hears that this worker lives.
        self._try("storage", self._look_at_storage)
        self._try("disk", self._look_at_disk)
        self._reporter.beat(trouble=_trouble(), stopping=self._stopping)
        if self._reporter.is_unrecorded:
            self._record_again()
        self._begin_to_take()
        self._try("folders", self._learn_folders)
        self._housekeeper.keep(self._reporter.unstored)

    def _begin_to_take(self) -> None:
        """Have a first turn published where the ledger has just been told that the instance takes jobs."""
        has_begun = self.takes_jobs and not self._took_jobs
        self._took_jobs = self.takes_jobs
        if has_begun:
            publish = functools.partial(publish_first_turn, self._settings, self.name)
            in_background("first-turn", lambda: self._try("first turn", publish))

    def _learn_folders(self) -> None:
        """Have the instance started again, once it is idle, where a model file came to a folder that is new to it."""
        if self.takes_jobs and (folders := folders_to_learn(self._spec)):
            reason = f"It is started again, to look for models in {named(folders)}."
            log.info("%s: %s", self.name, reason)
            self._begin_restart(reason)

    def _look_at_storage(self) -> None:
        self._admission.storage_problem = self._reporter.storage_problem()

    def _look_at_disk(self) -> None:
        self._admission.disk_problem = self._housekeeper.disk_problem()

    def _record_again(self) -> None:
        try:
            self._record(self._instance.base_url or "")
        except ComfylineError as exc:
            log.warning("%s: is up, but saying so failed: %s", self.name, exc)

    # Threads of their own.

    def _replace(self, reason: str) -> None:
        """Have the instance replaced, which the pool process has found to be of no use."""
        if self._instance.is_attached:
            # It is not ours to end, so it will answer as before, with the same prompt in the way.
            self._in_the_way = self._running_prompts()
        self._supervisor.replace(reason)

    def _running_prompts(self) -> set[str] | None:
        client = ComfyClient(self._instance.base_url or "", read_timeout_s=10.0)
        with contextlib.closing(client), contextlib.suppress(ComfyUnavailable):
            return client.running_prompts()
        return None

    def _let_go(self) -> None:
        """Have the running job end in time, or go on elsewhere."""
        self._try("let go", self._turn_away)
        if self._stopping.wait(self._settings.drain_grace_s):
            return
        if not self._admission.taken_by:
            self._try("let go", lambda: self._release.everything(self._interrupt))
        if self._stopping.wait(LEAVE_S if self._instance.is_attached else 0.0):
            return
        # Its pool process waits for a prompt that is nobody's any more; with the instance gone it stops waiting.
        self._end_instance()

    def _end_instance(self) -> None:
        # The supervisor's thread would wait for it.
        self._warmup.call_off()
        self._supervisor.stop()

    def _turn_away(self) -> None:
        """Take no more jobs, and have what waits behind the running one go elsewhere now."""
        if not self._reporter.is_open:
            return  # Told to end before it began.
        # The ledger first, or the pool process would put another job on deck.
        self._reporter.tell()
        # Jobs are known by the instance's name, so those of a worker that has taken it look like ours.
        if not self._admission.taken_by:
            self._release.what_waits(self._interrupt)

    def _turn_away_if_drained(self) -> None:
        # Tried again for as long as the ledger is away, by which time an operator may have changed his mind.
        if self._admission.is_drained:
            self._turn_away()

    def _restart(self, reason: str) -> None:
        # Whatever goes wrong with handing jobs back, which the reconciler mends, what was asked for comes about.
        self._try("restart", self._turn_away)
        if not self._admission.taken_by:
            self._try("restart", self._have_it_idle)
        self._gives_back.clear()
        self._admission.is_restarting = False
        self._go_away(Condition(state=UNHEALTHY, reason=reason))
        self._warmup.call_off()
        self._supervisor.restart()

    def _have_it_idle(self) -> None:
        if self._release.wait_until_idle(math.inf, self._gives_back):
            return
        if not self._release.wait_until_idle(self._settings.drain_grace_s, self._stopping):
            self._release.everything(self._interrupt)

    def _try(self, what: str, step: Callable[[], None]) -> None:
        """Do a step whose failure must not keep the next one from being done."""
        failure_of(step, f"{self.name}: {what}")

    def _interrupt(self, prompt_id: str) -> None:
        if self._instance.base_url is None:
            return
        client = ComfyClient(self._instance.base_url, read_timeout_s=10.0)
        try:
            client.interrupt(prompt_id)
        except ComfyUnavailable as exc:
            log.warning("%s: interrupt of %s failed: %s", self.name, prompt_id, exc)
        finally:
            client.close()


def _trouble() -> str | None:
    """What an operator should know of this worker, though its instance takes jobs."""
    failing = [f"{life.name} ({life.last_error})" for life in lives() if life.failures or not life.is_alive]
    return f"Parts of its worker fail, see its log: {', '.join(failing)}." if failing else None


def _websocket_note(base_url: str) -> str | None:
    problem = problem_of(base_url)
    return None if problem is None else f"Its prompts are polled, without progress and previews: {problem}."
