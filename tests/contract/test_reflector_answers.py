"""The reflector and what surrounds the API server: answers that are no lists, volumes that are written anew."""

import asyncio
import os
from pathlib import Path

import pytest
from aiohttp import web

from lvsagent.adapters import reflector as module
from lvsagent.adapters.kubeconfig import KubeConfig
from tests.contract.test_reflector import PATH, Rig, item, started, story

pytestmark = pytest.mark.contract


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(module, "LONGEST_DELAY", 0.05)


@pytest.mark.parametrize(
    "answer", ["{}", '{"metadata": {"resourceVersion": "9"}}', '{"items": {}, "metadata": {"resourceVersion": "9"}}']
)
def test_an_answer_that_is_no_list_is_an_error_and_no_more(answer: str) -> None:
    """One without items ended the agent."""

    async def act(rig: Rig) -> None:
        rig.api.fault = lambda _, watch: None if watch else web.Response(text=answer)
        rig.api.gone(PATH)
        await rig.until(lambda: rig.reflector.health.errors["protocol"] >= 2)
        assert rig.names == {"a", "b", "c"}
        assert not rig.reflector.cache.held
        rig.api.fault = None
        await rig.until(lambda: rig.reflector.health.connected)

    story(act)


@pytest.mark.parametrize("content", ["the same", "another"])
def test_files_that_are_written_anew_cut_no_watch_and_make_none_deaf(tmp_path: Path, content: str) -> None:
    """The kubelet writes a whole volume anew when the token in it rotates, every hour or so: until their longest time
    was over, 7 minutes, the other watches heard nothing."""
    authority = tmp_path / "ca.crt"
    authority.write_text("the same")

    async def run() -> None:
        async with started(KubeConfig(server="", ca_file=authority)) as rig:
            for number, name in enumerate("def"):
                authority.write_text(content)
                os.utime(authority, ns=(number, number))
                await rig.client.list_page(PATH, {})
                rig.api.put(PATH, item(name))
                await rig.until(lambda name=name: name in rig.names)  # type: ignore[misc]
            assert not rig.reflector.health.errors
            assert rig.api.requests[f"watch {PATH}"] == 1
            assert len(rig.client._users) == (2 if content == "another" else 1)
            rig.api.end(PATH)
            await rig.until(lambda: rig.api.requests[f"watch {PATH}"] == 2)
            assert len(rig.client._users) == 1

    asyncio.run(run())
