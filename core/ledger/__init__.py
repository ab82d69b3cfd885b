"""The ledger: the database of jobs, and the only truth about them.

jobs         ledger.jobs: submit, look up, list, cancel (API)
event_log    their logs, and ledger.event_folding: one row of those of ended jobs (jobs, reconciler)
new_jobs     their rows (jobs, batches)
batches/     ledger.batches, .batch_intake and .batch_work: many jobs from one request (API, reconciler)
requests     ledger.requests: requests that come again (API)
claims       ledger.claims: claim, lease, progress, end of a prompt (GPU workers)
requeue      ledger.requeue: give back, take back, expire (GPU workers, reconciler)
pins         ledger.pins: which instances a waiting job may have (reconciler)
outputs      ledger.outputs: files into storage (io workers)
secrets      ledger.secrets: open for one purpose, wipe (workers, reconciler)
instances    ledger.instances: the fleet's GPUs and their nodes (GPU workers, API)
input_files  ledger.input_files: files that came in (API, reconciler)
direct_uploads  ledger.direct_uploads: files that clients send straight into the bucket (API, io workers)
job_logs     ledger.job_logs: what ComfyUI printed while jobs ran (GPU workers, API)
job_pages    ledger.job_pages: jobs by their places in a list (API)
user_files   ledger.user_files: what users of the editor keep (API)
durations    ledger.durations: how long jobs take (GPU workers, API)
facts        ledger.facts: what a fleet agrees on (all)
storage_ids  ledger.storage_moves: which storage is the fleet's (all)
fleet_key    ledger.fleet_key: whether a process has the fleet's secret key (all, at their start)
machines     ledger.machines: on which machines the fleet's processes run (API, io workers)
access/      ledger.tenants and ledger.keys: who may ask, and whose rows are whose (API, all of core.ledger);
             ledger.sessions: keys that browsers keep, sealed (API);
             ledger.room: what tenants have, where it is limited (API, reconciler)
removal      ledger.removal: what leaves the ledger (reconciler)
metrics/     ledger.metrics and .fleet_state: what was counted, and how the fleet is (API, reconciler, all processes)
usage/       ledger.usage: what tenants used (API, reconciler)
audit        ledger.audit: who did what (API, all that start), and the lines of acts (those of core.ledger that act)
many_jobs    ledger.bulk: many jobs at once (API)
reruns       ledger.reruns: what a job was made of (API)
timekeeping  ledger.timekeeping: whether the clock was set (reconciler)
models/      ledger.manifest, .copies and .model_tokens: model files, on hosts and to be fetched (API, GPU workers)
rollouts/    ledger.rollouts and .processes: the fleet's processes, and orders to renew them (all; reconciler)
webhooks/    ledger.outbox: webhooks out (io workers), and ledger.deliveries: what became of them (API)
batch_end    the end of a batch, noticed with that of its last job (transitions, batches)
transitions  the one way a job changes its status (all of the above)
catalogues   what instances offer (instances, scheduling)
model_sets   names of sets of model files (durations, scheduling)
resident_sets  which of them instances hold (instances, scheduling)
scheduling/  which job an instance runs next: ledger.turns, ledger.lines (claims, reconciler), and what comes of that:
             ledger.outlook (API), and what running out of memory teaches: ledger.lessons (GPU workers, reconciler);
             ledger.scaling: what pools of GPUs want (API, reconciler);
             ledger.batch_lines: batches that are paused or limited (API, reconciler)
sealing      secrets at rest (secrets, requests)
upgrade      the schema, brought to its newest version (every process at its start)
backup       a SQLite ledger as one file to keep, and back (comfyline backup, restore)
migrations/  the steps of that
database/    tables, connections, rows

Each change of a job is one transaction that also writes its event and the webhooks that tell of it.
"""

from __future__ import annotations

from collections.abc import Callable

from core.ledger.access.keys import Keys
from core.ledger.access.sessions import BrowserSessions
from core.ledger.access.tenants import Tenants
from core.ledger.audit import Audit
from core.ledger.batches.batches import Batches
from core.ledger.batches.children import BatchChildren
from core.ledger.batches.intake import BatchIntake
from core.ledger.batches.secrets import BatchSecrets
from core.ledger.batches.work import BatchWork
from core.ledger.claims import Claims
from core.ledger.database.connections import Change, Database
from core.ledger.direct_uploads import DirectUploadRows
from core.ledger.durations import Durations
from core.ledger.event_log import EventFolding
from core.ledger.facts import Facts
from core.ledger.fleet_key import FleetKey
from core.ledger.input_files import InputFiles
from core.ledger.instances import Instances
from core.ledger.job_logs import JobLogs
from core.ledger.job_pages import JobPages
from core.ledger.jobs import Jobs
from core.ledger.machines import Machines
from core.ledger.many_jobs import Bulk
from core.ledger.metrics.fleet_state import FleetStates
from core.ledger.metrics.last_hour import History
from core.ledger.metrics.sums import MetricSums
from core.ledger.metrics.waiting_templates import WaitingTemplates
from core.ledger.models.copies import Copies
from core.ledger.models.manifest import Manifest
from core.ledger.models.tokens import ModelTokens
from core.ledger.models.yields import Yields
from core.ledger.new_jobs import JobRows, Retention
from core.ledger.outputs import Outputs
from core.ledger.pins import Pins
from core.ledger.removal import Removal
from core.ledger.requests import Requests
from core.ledger.requeue import Requeue
from core.ledger.reruns import Reruns
from core.ledger.rollouts.processes import Processes
from core.ledger.rollouts.rollouts import Rollouts
from core.ledger.scheduling.batch_lines import BatchLines
from core.ledger.scheduling.choice import Chooser
from core.ledger.scheduling.file_needs import FileNeeds
from core.ledger.scheduling.gates import Gates
from core.ledger.scheduling.learned import LearnedCosts
from core.ledger.scheduling.lessons import Lessons
from core.ledger.scheduling.lines import Lines
from core.ledger.scheduling.mending import LineMender
from core.ledger.scheduling.outlook import OutlookReader
from core.ledger.scheduling.scaling_reader import ScalingReader
from core.ledger.scheduling.turns import Turns
from core.ledger.sealing import Sealer, load_keys
from core.ledger.secrets import Secrets
from core.ledger.storage_ids import StorageMoves
from core.ledger.timekeeping import Timekeeping
from core.ledger.usage.report import Usage
from core.ledger.usage.room import Room
from core.ledger.user_files import UserFiles
from core.ledger.webhooks.deliveries import Deliveries
from core.ledger.webhooks.outbox import Outbox
from core.links import LinkSigner
from core.settings import Settings


class Ledger:
    """One process's access to the ledger. Opened lazily: make it before a fork, use it after."""

    def __init__(
        self, settings: Settings, *, on_change: Callable[[Change], None] = lambda _change: None, pool_size: int = 5
    ) -> None:
        configured = settings.secret_key.get_secret_value()
        keys = load_keys(configured, settings.data_dir)
        sealer = Sealer(keys)
        #: Signs the links to files, in answers and in webhooks.
        self.links = LinkSigner(keys, lifetime_s=settings.link_s)
        self.database = Database(settings.ledger_url, pool_size=pool_size, on_change=on_change, signer=self.links)
        self.secrets = Secrets(self.database, sealer)
        self.sessions = BrowserSessions(sealer)
        self.requests = Requests(self.database, sealer)
        learned = LearnedCosts()
        self.lines = Lines(self.database)
        self.line_mender = LineMender(self.database, self.lines)
        self.batch_lines = BatchLines(self.database, self.lines)
        gates = Gates(tenant_max_running=settings.tenant_max_running)
        self.turns = Turns(self.database, self.lines, learned, gates)
        self.lessons = Lessons(self.database, self.lines)
        rows = JobRows(self.requests, Retention.from_settings(settings))
        self.jobs = Jobs(self.database, self.lines, self.lessons, self.secrets, rows)
        batch_secrets = BatchSecrets(sealer)
        self.job_logs = JobLogs(self.database)
        self.job_pages = JobPages(self.database)
        self.user_files = UserFiles(self.database)
        self.batches = Batches(self.database)
        self.batch_intake = BatchIntake(
            self.database, self.lines, self.lessons, self.secrets, batch_secrets, self.requests, rows
        )
        self.batch_work = BatchWork(self.database, self.secrets, batch_secrets)
        self.claims = Claims(self.database, Chooser(self.lines, learned, gates), lease_s=settings.lease_s)
        self.requeue = Requeue(self.database, self.lines, max_attempts=settings.max_attempts, lease_s=settings.lease_s)
        self.pins = Pins(self.database, self.lines)
        self.outputs = Outputs(self.database)
        self.outbox = Outbox(self.database, pauses_s=settings.webhook_schedule_s, limit_s=settings.webhook_limit_s)
        self.deliveries = Deliveries(self.database)
        self.instances = Instances(self.database)
        self.input_files = InputFiles(self.database)
        self.direct_uploads = DirectUploadRows(self.database)
        self.durations = Durations(self.database)
        self.file_needs = FileNeeds(self.database, self.lines, learned, gates)
        self.outlook = OutlookReader(self.database, self.lines, learned, gates, self.durations, self.file_needs)
        self.facts = Facts(self.database)
        self.scaling = ScalingReader(self.database, self.facts, settings.scaling_rules)
        self.storage_moves = StorageMoves(self.database, self.facts)
        self.fleet_key = FleetKey(self.facts, sealer, is_set=bool(configured))
        self.machines = Machines(self.database, self.facts)
        self.manifest = Manifest(self.database)
        self.copies = Copies(self.database)
        self.yields = Yields(self.database)
        self.model_tokens = ModelTokens(self.database, sealer)
        self.tenants = Tenants(self.database)
        self.keys = Keys(self.database)
        self.room = Room(self.database)
        self.removal = Removal(self.database)
        self.usage = Usage(self.database)
        self.event_folding = EventFolding(self.database, self.facts)
        self.metrics = MetricSums(self.database)
        self.fleet_state = FleetStates(self.database)
        self.waiting_templates = WaitingTemplates(self.database, self.facts)
        self.history = History(self.fleet_state, self.facts)
        self.audit = Audit(self.database)
        self.processes = Processes(self.database)
        self.rollouts = Rollouts(self.database)
        self.batch_children = BatchChildren(self.database)
        self.bulk = Bulk(self.database, sealer)
        self.reruns = Reruns(self.database, self.secrets)
        self.timekeeping = Timekeeping(self.database, self.facts, lease_s=settings.lease_s)

    def close(self) -> None:
        """Close every connection of this process."""
        self.database.dispose()


__all__ = ["Change", "Ledger"]
