"""Which GPUs are found, with an object that behaves like NVML's module in place of a driver."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pynvml
import pytest

from comfy.process.discovery import Gpu, GpuSurvey, survey_gpus, used_memory


@dataclass(frozen=True, kw_only=True)
class Card:
    """A card of the fake driver; a field that is an error is raised when it is asked for."""

    uuid: Any = "GPU-11111111-2222-3333-4444-555555555555"
    name: Any = "NVIDIA L4"
    memory: Any = 24 * 1024**3
    used: Any = 5 * 1024**3
    handle: Any = None


class Driver:
    """As much of `pynvml` as discovery uses."""

    NVMLError = pynvml.NVMLError
    NVMLError_LibraryNotFound = pynvml.NVMLError_LibraryNotFound
    NVMLError_NotSupported = pynvml.NVMLError_NotSupported

    def __init__(self, *cards: Card, on_init: Any = None, on_count: Any = None, on_shutdown: Any = None) -> None:
        self.cards = cards
        self.on_init, self.on_count, self.on_shutdown = on_init, on_count, on_shutdown
        #: Calls of nvmlInit that are not matched by one of nvmlShutdown.
        self.users = 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        given(self.on_init)
        self.users += 1

    def nvmlShutdown(self) -> None:  # noqa: N802 - NVML's name
        self.users -= 1
        given(self.on_shutdown)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - NVML's name
        given(self.on_count)
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802 - NVML's name
        given(self.cards[index].handle)
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:  # noqa: N802 - NVML's name
        found = [card for card in self.cards if card.uuid == uuid]
        return found[0] if found else given(pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND))

    def nvmlDeviceGetUUID(self, card: Card) -> str | bytes:  # noqa: N802 - NVML's name
        return cast("str | bytes", given(card.uuid))

    def nvmlDeviceGetName(self, card: Card) -> str | bytes:  # noqa: N802 - NVML's name
        return cast("str | bytes", given(card.name))

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> SimpleNamespace:  # noqa: N802 - NVML's name
        return SimpleNamespace(total=given(card.memory), used=given(card.used))


def given(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


def test_cards_are_read_in_the_drivers_order() -> None:
    driver = Driver(Card(), Card(uuid="GPU-6", name="NVIDIA H200", memory=141 * 1024**3))
    assert survey_gpus(driver).gpus == (
        Gpu(index=0, uuid="GPU-11111111-2222-3333-4444-555555555555", name="NVIDIA L4", memory_bytes=24 * 1024**3),
        Gpu(index=1, uuid="GPU-6", name="NVIDIA H200", memory_bytes=141 * 1024**3),
    )
    assert driver.users == 0


def test_an_older_module_returns_bytes() -> None:
    [gpu] = survey_gpus(Driver(Card(uuid=b"GPU-6", name=b"NVIDIA L4"))).gpus
    assert (gpu.uuid, gpu.name) == ("GPU-6", "NVIDIA L4")


def test_a_card_that_shares_memory_has_no_size_of_its_own() -> None:
    [gpu] = survey_gpus(Driver(Card(name="NVIDIA GB10", memory=pynvml.NVMLError_NotSupported()))).gpus
    assert (gpu.name, gpu.memory_bytes) == ("NVIDIA GB10", 0)


def test_no_driver_library_means_no_gpu_and_no_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert survey_gpus(Driver(Card(), on_init=pynvml.NVMLError_LibraryNotFound())) == GpuSurvey()
    assert caplog.text == ""


@pytest.mark.parametrize("error", [pynvml.NVMLError_DriverNotLoaded, pynvml.NVMLError_LibRmVersionMismatch])
def test_a_driver_that_does_not_work_is_logged(error: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    assert survey_gpus(Driver(Card(), on_init=error())) == GpuSurvey()
    assert str(error()) in caplog.text


def test_a_driver_that_lists_nothing_is_logged_and_let_go(caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver(Card(), on_count=pynvml.NVMLError_Unknown())
    assert survey_gpus(driver) == GpuSurvey()
    assert str(pynvml.NVMLError_Unknown()) in caplog.text
    assert driver.users == 0


@pytest.mark.parametrize("field", ["handle", "uuid", "name", "memory"])
def test_a_lost_card_is_left_out_and_the_others_keep_their_numbers(
    field: str, caplog: pytest.LogCaptureFixture
) -> None:
    driver = Driver(Card(uuid="GPU-a"), Card(**{field: pynvml.NVMLError_GpuIsLost()}), Card(uuid="GPU-c"))
    found = survey_gpus(driver)
    assert [(gpu.index, gpu.uuid) for gpu in found.gpus] == [(0, "GPU-a"), (2, "GPU-c")]
    assert found.unreadable == (1,)
    assert f"GPU 1 cannot be read, so it is left out: {pynvml.NVMLError_GpuIsLost()}" in caplog.text
    assert driver.users == 0


def test_what_was_learned_outlives_a_failing_goodbye() -> None:
    assert len(survey_gpus(Driver(Card(), on_shutdown=pynvml.NVMLError_Unknown())).gpus) == 1


def test_memory_in_use_is_that_of_the_card_that_is_named() -> None:
    driver = Driver(Card(), Card(uuid="GPU-6", used=7))
    assert [used_memory(gpu, driver) for gpu in ("0", "1", "GPU-6")] == [5 * 1024**3, 7, 7]
    assert driver.users == 0


@pytest.mark.parametrize("gpu", [None, "GPU-none"])
def test_memory_of_a_card_that_is_not_there_is_not_known(gpu: str | None) -> None:
    driver = Driver(Card())
    assert used_memory(gpu, driver) is None
    assert driver.users == 0


def test_memory_is_not_known_where_the_driver_does_not_work() -> None:
    broken = pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)
    assert used_memory("0", Driver(Card(), on_init=broken)) is None
    assert used_memory("0", Driver(Card(used=broken))) is None
