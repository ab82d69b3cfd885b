"""A graph judged again by the catalogues that there are now."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.errors import InvalidWorkflow, NodeErrors
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.database.tables import jobs
from core.ledger.instances import Instances
from core.ledger.pins import PinnedGraph
from core.records.model_file import AWAITS_FILES, ModelFile
from tasks.judging import Judge, pin_elsewhere
from tests.ledger_moves import claimed, digest_of, register, submit
from tests.unit.catalogue_literals import Nodes, loading, with_checkpoints
from workflows.graphs.checks import check_graph

HERE, THERE, ELSEWHERE = "gpu0@here", "gpu1@here", "gpu2@here"


def wanted(ledger: Ledger, graph: Nodes) -> PinnedGraph:
    job = submit(ledger, graph_text=json.dumps(graph))
    return ledger.pins.graphs([job.id])[job.id]


class TestJudge:
    def test_those_that_accept_it_and_what_the_first_other_says(self, ledger: Ledger) -> None:
        register(ledger, HERE, with_checkpoints("a"))
        register(ledger, THERE, with_checkpoints("b"))
        register(ledger, ELSEWHERE, with_checkpoints("c"))
        here, there, elsewhere = (digest_of(ledger, name) for name in (HERE, THERE, ELSEWHERE))
        graph = wanted(ledger, loading("b"))
        accepting, refusal = Judge(ledger).accepting(graph, [here, there, elsewhere])
        assert accepting == [there]
        _, first = Judge(ledger).accepting(graph, [here])
        assert refusal is not None
        assert first is not None
        assert refusal.node_errors == first.node_errors
        _, last = Judge(ledger).accepting(graph, [elsewhere])
        assert last is not None
        assert refusal.node_errors != last.node_errors
        assert Judge(ledger).accepting(graph, [there]) == ([there], None)

    def test_a_catalogue_that_nobody_has_any_more_says_nothing(self, ledger: Ledger) -> None:
        assert Judge(ledger).accepting(wanted(ledger, loading("a")), ["0" * 64]) == ([], None)

    def test_each_catalogue_is_read_once(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        register(ledger, HERE, with_checkpoints("a"))
        digest, read = digest_of(ledger, HERE), []
        catalogue = Instances.catalogue

        def note(self: Instances, digest: str) -> Any:
            read.append(digest)
            return catalogue(self, digest)

        monkeypatch.setattr(Instances, "catalogue", note)
        judge, graph = Judge(ledger), wanted(ledger, loading("a"))
        for _ in range(2):
            assert judge.accepting(graph, [digest, "0" * 64]) == ([digest], None)
        assert read == [digest, "0" * 64]


class TestPinning:
    def refused(self, ledger: Ledger, graph: Nodes) -> Claim:
        """A job whose instance did not take it."""
        return claimed(ledger, HERE, graph_text=json.dumps(graph))

    def pins_of(self, ledger: Ledger, claim: Claim) -> str | None:
        with ledger.database.read() as connection:
            found: str | None = connection.execute(jobs.select().where(jobs.c.id == claim.job_id)).one().catalogues
        return found

    def test_to_those_that_accept_it(self, ledger: Ledger) -> None:
        register(ledger, HERE, with_checkpoints("a"))
        register(ledger, THERE, with_checkpoints("b"))
        register(ledger, ELSEWHERE, with_checkpoints("c"))
        claim = self.refused(ledger, loading("b"))
        assert pin_elsewhere(ledger, claim, {})
        assert self.pins_of(ledger, claim) == digest_of(ledger, THERE)

    def test_not_where_its_own_accepts_it(self, ledger: Ledger) -> None:
        register(ledger, HERE, with_checkpoints("a", "b"))
        register(ledger, THERE, with_checkpoints("b"))
        claim = self.refused(ledger, loading("b"))
        assert pin_elsewhere(ledger, claim, {}) is False
        assert self.pins_of(ledger, claim) is None

    def test_not_where_no_other_does(self, ledger: Ledger) -> None:
        register(ledger, HERE, with_checkpoints("a"))
        register(ledger, THERE, with_checkpoints("b"))
        claim = self.refused(ledger, loading("c"))
        assert pin_elsewhere(ledger, claim, {}) is False
        assert self.pins_of(ledger, claim) is None

    @pytest.mark.parametrize("names", [(HERE,), (THERE,), (HERE, THERE)])
    def test_not_where_there_is_nothing_to_compare(self, ledger: Ledger, names: tuple[str, ...]) -> None:
        for name in names:
            register(ledger, name, with_checkpoints("a" if len(names) > 1 or name == HERE else "b"))
        claim = self.refused(ledger, loading("b"))
        assert pin_elsewhere(ledger, claim, {}) is False
        assert self.pins_of(ledger, claim) is None


def enter(ledger: Ledger, *paths: str) -> None:
    """Have the manifest hold files."""
    source = "https://models.example/x"
    ledger.manifest.put([ModelFile(path=path, source=source, sha256="0" * 64) for path in paths])


def lacking(graph: Nodes) -> NodeErrors:
    """What an instance with another checkpoint says against a graph."""
    with pytest.raises(InvalidWorkflow) as caught:
        check_graph(graph, with_checkpoints("other.safetensors"))
    return caught.value.node_errors


def test_a_graph_awaits_files_that_the_manifest_has_for_its_loader(ledger: Ledger) -> None:
    register(ledger, HERE, with_checkpoints("other.safetensors"))
    digests = [digest_of(ledger, HERE)]
    graph = wanted(ledger, loading("a.safetensors"))
    assert Judge(ledger).awaits_files(graph, digests) is False
    enter(ledger, "loras/a.safetensors", "checkpoints/b.safetensors")
    assert Judge(ledger).awaits_files(graph, digests) is False
    enter(ledger, "checkpoints/a.safetensors")
    assert Judge(ledger).awaits_files(graph, digests) is True
    wrong = wanted(ledger, {**loading("a.safetensors"), "x": {"class_type": "Nope", "inputs": {}}})
    assert Judge(ledger).awaits_files(wrong, digests) is False


def test_a_job_whose_file_has_just_gone_waits_for_it(ledger: Ledger) -> None:
    """What the instance offers is known from before the file was sent away to make room."""
    register(ledger, HERE, with_checkpoints("a.safetensors"))
    graph = loading("a.safetensors")
    claim = claimed(ledger, HERE, graph_text=json.dumps(graph))
    assert pin_elsewhere(ledger, claim, lacking(graph)) is False
    enter(ledger, "checkpoints/a.safetensors")
    assert pin_elsewhere(ledger, claim, lacking(graph)) is True
    with ledger.database.read() as connection:
        pins = connection.execute(jobs.select().where(jobs.c.id == claim.job_id)).one().catalogues
    assert pins == AWAITS_FILES
