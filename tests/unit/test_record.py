"""The record on disk of what is ours is what an agent that starts anew finds: it is never behind for long."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from lvsagent.adapters.statefile import OWNED, StateFileError
from lvsagent.core.diff import Owned
from lvsagent.core.state import KernelState
from lvsagent.runtime import record
from lvsagent.runtime.loop import POLL_SECONDS, Loop
from lvsagent.runtime.view import View
from tests.unit.test_agent_loop import ADDRESS, Rig

pytestmark = pytest.mark.unit


def test_a_record_that_was_lost_is_written_anew_although_nothing_is_to_be_done(tmp_path: Path) -> None:
    """Who undid this node later found no record, and left the tables and the address on lo."""

    async def act() -> None:
        first = Rig(tmp_path)
        await first.turn()
        (tmp_path / OWNED).write_text("half of it")
        second = Rig(tmp_path)
        with pytest.raises(StateFileError):
            second.files.load_owned()
        second.kernel.state = first.kernel.state
        second.loop = Loop(
            source=second.source,
            worker=second.worker,
            view=View(node="node1", version="test"),
            election=second.election,
            standalone=False,
            owned=Owned(),
            adopt=True,
        )
        await second.turn()
        assert second.kernel.applied == []
        assert second.files.load_owned() == first.loop.owned
        assert second.files.load_owned().loopback == {ADDRESS}
        for rig in (first, second):
            await rig.worker.close()

    asyncio.run(act())


def test_what_somebody_else_took_away_is_ours_no_longer_on_disk_either(tmp_path: Path) -> None:
    """A service of somebody else that came to stand there would be ours for an agent that starts anew."""

    async def act() -> None:
        rig = Rig(tmp_path)
        await rig.turn()
        rig.source.current = replace(rig.source.current, virtual_services=())  # type: ignore[type-var]
        rig.confirm()
        kernel = rig.kernel.state
        rig.kernel.state = KernelState(sysctls=kernel.sysctls)
        await rig.turn(POLL_SECONDS)
        assert rig.files.load_owned() == rig.loop.owned == Owned()
        await rig.worker.close()

    asyncio.run(act())


def test_a_disk_that_has_room_again_gets_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "AGAIN", 0.0)

    async def act() -> None:
        rig = Rig(tmp_path / "state")
        (tmp_path / "state").write_text("in the way")
        await rig.turn()
        await rig.turn()
        failed = rig.loop.view.state_errors
        assert failed >= 2
        (tmp_path / "state").unlink()
        before = len(rig.kernel.applied)
        await rig.turn()
        assert rig.files.load_owned().loopback == {ADDRESS}
        assert len(rig.kernel.applied) == before
        await rig.turn()
        assert rig.loop.view.state_errors == failed
        await rig.worker.close()

    asyncio.run(act())


def test_a_full_disk_is_not_tried_with_every_pass(tmp_path: Path) -> None:
    async def act() -> None:
        rig = Rig(tmp_path / "state")
        (tmp_path / "state").write_text("in the way")
        for _ in range(20):
            await rig.turn()
        assert rig.loop.view.state_errors == 1
        await rig.worker.close()

    asyncio.run(act())
