"""Jobs that some instances can run, and others could if their hosts fetched the files: their pins say so."""

from __future__ import annotations

from typing import Any

import pytest

from api.service.catalogues import Catalogues
from core.errors import InvalidWorkflow
from core.ledger import Ledger
from core.records.model_file import AWAITS_FILES, ModelFile
from core.records.requirements import Requirements
from tests.ledger_moves import digest_of
from tests.unit.catalogue_literals import CATALOGUE, loading, with_checkpoints

HAS, LACKS = "gpu0@has", "gpu0@lacks"


def come_up(ledger: Ledger, name: str, object_info: dict[str, Any], **fields: Any) -> None:
    known: dict[str, Any] = {"worker": f"w-{name}", "pool": fields.pop("pool", None)}
    ledger.instances.register(name=name, host=name.partition("@")[2], kind="simulator", gpu=None, **known)
    seen: dict[str, Any] = {
        "url": "http://127.0.0.1:1",
        "output_dir": None,
        "version": None,
        "device": None,
        "restarts": 0,
    }
    ledger.instances.up(name, object_info=object_info, **seen, **known, **fields)


def pins(ledger: Ledger, graph: Any, **asked: Any) -> tuple[str, ...] | None:
    return Catalogues(ledger, lambda: False).check(graph, **asked).catalogues


def enter(ledger: Ledger, path: str) -> None:
    ledger.manifest.put([ModelFile(path=path, source="https://a.example/x", sha256="0" * 64)])


def test_a_host_that_could_fetch_what_it_lacks_may_help(ledger: Ledger) -> None:
    come_up(ledger, HAS, with_checkpoints("a.sft"), fetches_models=True, pool="p")
    come_up(ledger, LACKS, with_checkpoints("b.sft"), fetches_models=True, pool="q")
    has, graph = digest_of(ledger, HAS), loading("a.sft")
    assert pins(ledger, graph) == (has,), "it is in no manifest"
    enter(ledger, "loras/a.sft")
    assert pins(ledger, graph) == (has,), "it is another kind of file"
    enter(ledger, "checkpoints/a.sft")
    assert pins(ledger, graph) == (has, AWAITS_FILES)
    assert pins(ledger, graph, requires=Requirements(pool="p")) is None, "all that are as required have it"


def test_hosts_that_fetch_nothing_or_lack_more_than_files_do_not(ledger: Ledger) -> None:
    enter(ledger, "checkpoints/a.sft")
    come_up(ledger, HAS, with_checkpoints("a.sft"), fetches_models=True)
    come_up(ledger, LACKS, with_checkpoints("b.sft"), fetches_models=False)
    come_up(ledger, "gpu0@other", {"ImageInvert": CATALOGUE["ImageInvert"]}, fetches_models=True)
    assert pins(ledger, loading("a.sft")) == (digest_of(ledger, HAS),)


def test_a_graph_waits_for_files_only_where_one_gpu_has_its_nodes_and_fetches(ledger: Ledger) -> None:
    enter(ledger, "checkpoints/a.sft")
    come_up(ledger, LACKS, with_checkpoints("b.sft"), fetches_models=False)
    come_up(ledger, "gpu0@other", {"ImageInvert": CATALOGUE["ImageInvert"]}, fetches_models=True)
    with pytest.raises(InvalidWorkflow, match=r"a\.sft"):
        pins(ledger, loading("a.sft"))
    come_up(ledger, HAS, with_checkpoints("c.sft"), fetches_models=True)
    assert pins(ledger, loading("a.sft")) == (AWAITS_FILES,)
