"""Keys: told once, kept as hashes, two secrets while one is rotated, none once it is revoked."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from core.errors import InvalidRequest, NotFound
from core.ledger import Ledger
from core.ledger.access.keys import PREFIX, digest_of
from core.ledger.database.access_tables import key_secrets, keys
from core.records.access import ALL_TENANTS, Key, Limits
from tests.makers import StoppedClock


def made(ledger: Ledger, *scopes: str, tenant: str = "default") -> tuple[Key, str]:
    return ledger.keys.create(tenant, name="ci", scopes=scopes or ("submit", "read"))


def opens(ledger: Ledger, secret: str) -> bool:
    return digest_of(secret) in ledger.keys.live().callers


class TestCreate:
    def test_it_opens_as_its_tenant_with_its_scopes(self, ledger: Ledger) -> None:
        ledger.tenants.create("acme")
        limits = Limits(max_priority=3, templates=("a",), pools=("x", "y"))
        key, secret = ledger.keys.create("acme", name="ci", scopes=("submit", "read"), limits=limits, ends_in_s=8)
        caller, end_ms = ledger.keys.live().callers[digest_of(secret)], key.created_at_ms + 8_000
        assert (caller.tenant, caller.sees, caller.key_id, caller.ends_at_ms) == ("acme", "acme", key.id, end_ms)
        assert (caller.scopes, caller.limits) == (frozenset({"submit", "read"}), limits)
        assert ledger.keys.get(key.id) == key
        assert (key.scopes, key.limits, key.ends_at_ms) == (("read", "submit"), limits, end_ms)

    @pytest.mark.parametrize("scope", ["operate", "admin"])
    def test_operators_see_all(self, ledger: Ledger, scope: str) -> None:
        _, secret = made(ledger, scope)
        assert ledger.keys.live().callers[digest_of(secret)].sees == ALL_TENANTS

    def test_secrets_are_long_and_known_by_their_beginning(self, ledger: Ledger) -> None:
        secrets = [made(ledger)[1] for _ in range(3)]
        assert len(set(secrets)) == 3
        assert all(secret.startswith(PREFIX) and len(secret) >= len(PREFIX) + 43 for secret in secrets)

    def test_nothing_of_a_secret_is_kept_but_its_hash(self, ledger: Ledger) -> None:
        _, secret = made(ledger)
        with ledger.database.read() as connection:
            rows = [*connection.execute(select(keys)), *connection.execute(select(key_secrets))]
        kept = " ".join(str(value) for row in rows for value in row)
        assert digest_of(secret) in kept
        assert secret not in kept
        assert secret.removeprefix(PREFIX)[:8] not in kept

    def test_there_must_be_its_tenant(self, ledger: Ledger) -> None:
        with pytest.raises(NotFound, match="no tenant nobody"):
            made(ledger, tenant="nobody")
        assert ledger.keys.all() == []


class TestRotate:
    def test_the_one_before_goes_on_for_a_while(self, ledger: Ledger, clock: StoppedClock) -> None:
        key, old = made(ledger)
        rotated, new = ledger.keys.rotate(key.id, keep_s=60)
        assert rotated.secrets == 2
        callers = ledger.keys.live().callers
        ends = callers[digest_of(old)].ends_at_ms
        assert ends is not None
        assert callers[digest_of(new)].ends_at_ms is None
        clock.pass_ms(61_000)
        assert ends < clock.now_ms
        assert ledger.keys.get(key.id).secrets == 1

    def test_no_more_than_two_open_it(self, ledger: Ledger, clock: StoppedClock) -> None:
        key, first = made(ledger)
        clock.pass_ms(1_000)
        _, second = ledger.keys.rotate(key.id, keep_s=60)
        clock.pass_ms(1_000)
        rotated, third = ledger.keys.rotate(key.id, keep_s=60)
        assert [opens(ledger, secret) for secret in (first, second, third)] == [False, True, True]
        assert rotated.secrets == 2

    def test_the_key_s_own_end_stays(self, ledger: Ledger) -> None:
        key, _ = ledger.keys.create("default", name="ci", scopes=("read",), ends_in_s=2**30)
        _, new = ledger.keys.rotate(key.id, keep_s=60)
        assert ledger.keys.live().callers[digest_of(new)].ends_at_ms == key.created_at_ms + 2**30 * 1000

    def test_what_has_ended_is_not_brought_back(self, ledger: Ledger) -> None:
        ended, _ = ledger.keys.create("default", name="ci", scopes=("read",), ends_in_s=0)
        revoked, _ = made(ledger)
        ledger.keys.revoke(revoked.id)
        for key in (ended, revoked):
            with pytest.raises(InvalidRequest):
                ledger.keys.rotate(key.id, keep_s=60)
        with pytest.raises(NotFound):
            ledger.keys.rotate("none", keep_s=60)


class TestRevoke:
    def test_no_secret_opens_it_any_more(self, ledger: Ledger) -> None:
        key, old = made(ledger)
        _, new = ledger.keys.rotate(key.id, keep_s=60)
        _, other = made(ledger)
        revoked = ledger.keys.revoke(key.id)
        assert [opens(ledger, secret) for secret in (old, new, other)] == [False, False, True]
        assert revoked.revoked_at_ms is not None
        assert revoked.secrets == 0

    def test_again_it_changes_nothing(self, ledger: Ledger, clock: StoppedClock) -> None:
        key, _ = made(ledger)
        first = ledger.keys.revoke(key.id)
        clock.pass_ms(5_000)
        assert ledger.keys.revoke(key.id) == first
        with pytest.raises(NotFound):
            ledger.keys.revoke("none")

    def test_a_fleet_that_had_a_key_asks_for_one_ever_after(self, ledger: Ledger) -> None:
        assert not ledger.keys.live().has_any
        key, _ = made(ledger)
        ledger.keys.revoke(key.id)
        assert ledger.keys.live().has_any


class TestLive:
    def test_what_has_not_changed_is_not_read_again(self, ledger: Ledger) -> None:
        made(ledger)
        known = ledger.keys.live()
        assert ledger.keys.live(known) is known

    @pytest.mark.parametrize("change", ["create", "rotate", "revoke"])
    def test_each_change_is_seen(self, ledger: Ledger, change: str) -> None:
        key, _ = made(ledger)
        known = ledger.keys.live()
        if change == "create":
            made(ledger)
        elif change == "rotate":
            ledger.keys.rotate(key.id, keep_s=0)
        else:
            ledger.keys.revoke(key.id)
        assert ledger.keys.live(known) is not known

    def test_who_was_there_before_the_first_key_learns_of_it(self, ledger: Ledger) -> None:
        known = ledger.keys.live()
        assert ledger.keys.live(known) is known
        made(ledger)
        assert ledger.keys.live(known).has_any


class TestUsed:
    def test_the_latest_use_is_kept(self, ledger: Ledger) -> None:
        key, _ = made(ledger)
        ledger.keys.used({key.id: (20, "192.0.2.1")})
        ledger.keys.used({key.id: (10, "192.0.2.2"), "gone": (10, "192.0.2.3")})
        found = ledger.keys.get(key.id)
        assert (found.last_used_at_ms, found.last_used_by) == (20, "192.0.2.1")

    def test_lists_are_the_newest_first_and_of_one_tenant(self, ledger: Ledger, clock: StoppedClock) -> None:
        ledger.tenants.create("acme")
        first, _ = made(ledger)
        clock.pass_ms(1_000)
        second, _ = made(ledger, tenant="acme")
        assert ledger.keys.all() == [second, first]
        assert ledger.keys.all(tenant="acme") == [second]
