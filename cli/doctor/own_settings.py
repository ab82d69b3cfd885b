"""The settings of this machine, and its data directory."""

from __future__ import annotations

from collections.abc import Iterator

from cli.doctor.findings import Check, Said, advice, ok, unknown
from cli.local.credentials import flower_credentials
from cli.local.data_dir import try_data_dir
from core.ledger import Ledger
from core.ledger.sealing import KEY_FILE, load_keys
from core.settings import Settings
from core.settings.neighbours import is_one_machine
from core.startup import check_api, data_dir_advice
from tasks.instance.tenure import check_host_name


def settings_checks(settings: Settings) -> list[Check]:
    """Return the checks of settings that could be read."""
    late = "The file system of COMFYLINE_DATA_DIR does not answer: it has to be on a local disk."
    return [
        Check(subject="settings", look=lambda: _settings(settings), if_late=late),
        Check(subject="data directory", look=lambda: _data_dir(settings), if_late=late),
    ]


def name_check(settings: Settings, ledger: Ledger) -> Check:
    """Return the check of this machine's name in the fleet."""
    return Check(subject="name", look=lambda: _name(settings, ledger), if_late="The database is slow: see its load.")


def _settings(settings: Settings) -> Iterator[Said]:
    check_api(settings)
    if settings.flower_basic_auth.get_secret_value():
        flower_credentials(settings)
    is_alone = is_one_machine(settings)
    keys = settings.secret_key.get_secret_value()
    if keys or (settings.data_dir / KEY_FILE).exists():
        load_keys(keys, settings.data_dir)
    if not keys and not is_alone:
        yield advice(
            "COMFYLINE_SECRET_KEY is not set, so this machine has a key of its own: links to files and secrets of jobs "
            "of other machines do not open here. Set one key on all machines.",
        )
    if settings.storage_dir is None and not settings.storage_url and not is_alone:
        yield advice(
            f"COMFYLINE_STORAGE_DIR is not set, so files are in {settings.data_dir}, which other machines do not see. "
            "Name a directory that all machines of the fleet share.",
        )
    yield ok("Read, and in order.")


def _data_dir(settings: Settings) -> Iterator[Said]:
    if not settings.data_dir.exists():
        yield unknown(f"COMFYLINE_DATA_DIR={settings.data_dir} is not there yet; the first process makes it.")
        return
    try_data_dir(settings)
    if (is_open := data_dir_advice(settings)) is not None:
        yield advice(is_open)
    yield ok(f"{settings.data_dir} can be written.")


def _name(settings: Settings, ledger: Ledger) -> Iterator[Said]:
    check_host_name(settings, ledger)
    yield ok(f"This machine is {settings.host}, and no other has that name.")
