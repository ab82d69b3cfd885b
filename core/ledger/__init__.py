"""The ledger: the database of jobs, and the only truth about them.

jobs         ledger.jobs: submit, look up, list, cancel (API)
requests     ledger.requests: requests that come again (API)
claims       ledger.claims: claim, lease, progress, end of a prompt (GPU workers)
requeue      ledger.requeue: give back, take back, expire (GPU workers, reconciler)
pins         ledger.pins: which instances a waiting job may have (reconciler)
outputs      ledger.outputs: files into storage (io workers)
secrets      ledger.secrets: open for one purpose, wipe (workers, reconciler)
instances    ledger.instances: the fleet's GPUs and their nodes (GPU workers, API)
input_files  ledger.input_files: files that came in (API, reconciler)
direct_uploads  ledger.direct_uploads: files that clients send straight into the bucket (API, io workers)
durations    ledger.durations: how long jobs take (GPU workers, API)
facts        ledger.facts: what a fleet agrees on (all)
fleet_key    ledger.fleet_key: whether a process has the fleet's secret key (all, at their start)
machines     ledger.machines: on which machines the fleet's processes run (API, io workers)
access/      ledger.tenants and ledger.keys: who may ask, and whose rows are whose (API, all of core.ledger)
removal      ledger.removal: what leaves the ledger (reconciler)
timekeeping  ledger.timekeeping: whether the clock was set (reconciler)
models/      ledger.manifest, .copies and .model_tokens: model files, on hosts and to be fetched (API, GPU workers)
webhooks/    ledger.outbox: webhooks out (io workers), and ledger.deliveries: what became of them (API)
transitions  the one way a job changes its status (all of the above)
catalogues   what instances offer (instances, scheduling)
model_sets   names of sets of model files (durations, scheduling)
resident_sets  which of them instances hold (instances, scheduling)
scheduling/  which job an instance runs next: ledger.turns, ledger.lines (claims, reconciler), and what comes of that:
             ledger.outlook (API), and what running out of memory teaches: ledger.lessons (GPU workers, reconciler)
sealing      secrets at rest (secrets, requests)
upgrade      the schema, brought to its newest version (every process at its start)
migrations/  the steps of that
database/    tables, connections, rows

Each change of a job is one transaction that also writes its event and the webhooks that tell of it.
"""

from __future__ import annotations

from collections.abc import Callable

from core.ledger.access.keys import Keys
from core.ledger.access.tenants import Tenants
from core.ledger.claims import Claims
from core.ledger.database.connections import Change, Database
from core.ledger.direct_uploads import DirectUploadRows
from core.ledger.durations import Durations
from core.ledger.facts import Facts
from core.ledger.fleet_key import FleetKey
from core.ledger.input_files import InputFiles
from core.ledger.instances import Instances
from core.ledger.jobs import Jobs, Retention
from core.ledger.machines import Machines
from core.ledger.models.copies import Copies
from core.ledger.models.manifest import Manifest
from core.ledger.models.tokens import ModelTokens
from core.ledger.outputs import Outputs
from core.ledger.pins import Pins
from core.ledger.removal import Removal
from core.ledger.requests import Requests
from core.ledger.requeue import Requeue
from core.ledger.scheduling.choice import Chooser
from core.ledger.scheduling.file_needs import FileNeeds
from core.ledger.scheduling.learned import LearnedCosts
from core.ledger.scheduling.lessons import Lessons
from core.ledger.scheduling.lines import Lines
from core.ledger.scheduling.mending import LineMender
from core.ledger.scheduling.outlook import OutlookReader
from core.ledger.scheduling.turns import Turns
from core.ledger.sealing import Sealer, load_keys
from core.ledger.secrets import Secrets
from core.ledger.timekeeping import Timekeeping
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
        self.requests = Requests(self.database, sealer)
        learned = LearnedCosts()
        self.lines = Lines(self.database)
        self.line_mender = LineMender(self.database, self.lines)
        self.turns = Turns(self.database, self.lines, learned)
        self.lessons = Lessons(self.database, self.lines)
        self.jobs = Jobs(
            self.database, self.lines, self.lessons, self.secrets, self.requests, Retention.from_settings(settings)
        )
        self.claims = Claims(self.database, Chooser(self.lines, learned), lease_s=settings.lease_s)
        self.requeue = Requeue(self.database, self.lines, max_attempts=settings.max_attempts)
        self.pins = Pins(self.database, self.lines)
        self.outputs = Outputs(self.database)
        self.outbox = Outbox(self.database, pauses_s=settings.webhook_schedule_s, limit_s=settings.webhook_limit_s)
        self.deliveries = Deliveries(self.database)
        self.instances = Instances(self.database)
        self.input_files = InputFiles(self.database)
        self.direct_uploads = DirectUploadRows(self.database)
        self.durations = Durations(self.database)
        self.file_needs = FileNeeds(self.database, self.lines, learned)
        self.outlook = OutlookReader(self.database, self.lines, learned, self.durations, self.file_needs)
        self.facts = Facts(self.database)
        self.fleet_key = FleetKey(self.facts, sealer, is_set=bool(configured))
        self.machines = Machines(self.database, self.facts)
        self.manifest = Manifest(self.database)
        self.copies = Copies(self.database)
        self.model_tokens = ModelTokens(self.database, sealer)
        self.tenants = Tenants(self.database)
        self.keys = Keys(self.database)
        self.removal = Removal(self.database)
        self.timekeeping = Timekeeping(self.database, self.facts, lease_s=settings.lease_s)

    def close(self) -> None:
        """Close every connection of this process."""
        self.database.dispose()


__all__ = ["Change", "Ledger"]
