"""The routers of this node on the wire: does what their machines say, tells them what others said. One thread."""

import ipaddress
import math
from collections.abc import Callable, Container, Iterable
from dataclasses import replace
from typing import Final, assert_never

from lvsagent import ipc
from lvsagent.election import router as routers
from lvsagent.election import settle
from lvsagent.election.blocked import Blocked
from lvsagent.election.conflict import Conflicts
from lvsagent.election.fence import Fence
from lvsagent.election.keys import Credentials, Keys
from lvsagent.election.log import Log
from lvsagent.election.receive import Receiver
from lvsagent.election.router import Router
from lvsagent.election.transmit import Transmitter
from lvsagent.election.wire import Wire
from lvsagent.ipc import Finding
from lvsagent.vrrp import auth, events, group, packet

RETRY: Final = 0.2
"""Seconds until an interface or an address that made trouble is tried again."""
PATIENCE: Final = 1.0
"""Seconds for which an Active that is to end serves on until a successor is heard."""


class Engine:
    """Owner of the routers."""

    def __init__(
        self,
        *,
        wire: Wire,
        fence: Fence,
        keys: Keys,
        clock: auth.Clock,
        log: Log,
        report: Callable[[ipc.StateChanged], None],
        failures: tuple[float, ...] = (),
        lacking: str = "",
    ) -> None:
        """``failures``: when processes before this one were started that did not end in order. ``lacking``: why no
        router can run in this process (``permission``)."""
        self._wire = wire
        self._keys = keys
        self._clock = clock
        self._failures = failures
        self._lacking = lacking
        self._fence = fence
        self._log = log
        self._report = report
        self.routers: dict[str, Router] = {}
        self._transmitter = Transmitter(wire, log)
        self._receiver = Receiver(wire, log, self._heard)
        self._blocked = Blocked(wire, log)
        self._conflicts = Conflicts(wire, log, self._contested, self._freed)
        self._virtual: frozenset[bytes] = frozenset()
        self._next_retry = math.inf
        self._some_refused = False
        """An Active lacked addresses when that was last looked at."""
        self._ending = False
        self._resuming: frozenset[str] = frozenset()
        """Routers that the process before this one said it would come back for."""

    @property
    def deadline(self) -> float:
        """When to call ``turn``; infinite when nothing is to be done by itself."""
        times = [router.machine.deadline for router in self.routers.values()]
        times += [self._fence.deadline, self._next_retry, self._blocked.deadline]
        times.append(self._conflicts.deadline(self.routers.values()))
        return min((moment for moment in times if moment is not None), default=math.inf)

    @property
    def dropped(self) -> dict[str, int]:
        """Adverts not acted on, by reason."""
        return self._receiver.dropped

    @property
    def unasked(self) -> int:
        """Adverts not acted on, and claims of addresses: of these strangers can send as many as they like."""
        return self._receiver.refused + self._conflicts.heard

    @property
    def in_force(self) -> bool:
        """Nothing is held that should not be."""
        unwanted = (router.machine.leaving and not router.config.ready for router in self.routers.values())
        return not (self._fence.releasing or any(unwanted))

    @property
    def serving_on(self) -> bool:
        """Successors have not been heard yet."""
        return any(router.machine.leaving for router in self.routers.values())

    def turn(self, ready: set[int], now: float) -> None:
        """One round. The order matters: our own lateness first, then what others said, then silence."""
        self._tick(now, active=True)
        readable = self._receiver.read(ready, self.routers.values(), now)
        self._tick(now, active=False)
        if self._look_at_keys(now):
            self._settle_all(now)
        # After the adverts, which must not wait for a kernel that is busy with its links.
        if (renewal := self._fence.deadline) is not None and now >= renewal:
            self._fence.renew(now)
            if self._fence.refusing or self._some_refused:
                self._judge_refusals(now)
        if self._wire.monitor.fileno() in ready:
            self._read_monitor(now)
        if not (self._conflicts.read(ready, self.routers.values(), now) and readable):
            self._next_retry = min(self._next_retry, now + RETRY)
        self._conflicts.step(self.routers.values(), now)
        self._blocked.turn(ready, self.routers.values(), now)
        if now >= self._next_retry:
            self._next_retry = math.inf
            self._fence.retry()
            self._wire.refresh()
            self._settle_all(now)
        self._coordinate(now)

    def configure(self, wish: ipc.Configure, now: float) -> None:
        """Make the wish true: what is no longer wanted first."""
        self._look_at_keys(now)
        wanted = routers.by_name(wish.routers)
        for name, current in tuple(self.routers.items()):
            config, reason = wanted.get(name, (None, None))
            if config is None or current.is_another(config) or current.refused != (self._lacking or reason):
                self._run(current, events.Shutdown(), now)
                self._disown(current)
                if current.virtual_mac is not None:
                    self._wire.remove(current.carrier)
                del self.routers[name]
        for name, (config, reason) in wanted.items():
            refused = self._lacking or reason
            if name not in self.routers:
                credentials = Credentials(config, self._keys, self._clock, now)
                self.routers[name] = Router.of(config, refused, credentials)
                self.routers[name].machine.damping.failures.extend(self._failures)
                if refused is not None:
                    self._log("the router is refused", router=name, reason=refused)
            router = self.routers[name]
            router.config = config
            if not router.credentials.is_for(config):
                router.credentials = Credentials(config, self._keys, self._clock, now)
        accepted = [router for router in self.routers.values() if router.refused is None]
        self._virtual = frozenset(
            address for router in accepted for address in routers.virtual_addresses(router.config)
        )
        others = [each.name for router in accepted for each in router.config.track_interfaces]
        others += [router.carrier for router in accepted]
        self._wire.watch([router.place for router in accepted], [router.vip_place for router in accepted], others)
        self._settle_all(now)
        self._coordinate(now)

    def resume(self, names: frozenset[str]) -> None:
        """Be Active for these at once: the process before this one said that it comes back."""
        self._resuming = names

    def suspend(self, now: float) -> dict[str, float]:
        """Announce a restart where that is wanted. Returns until when each of those routers is waited for."""
        waited: dict[str, float] = {}
        for name, router in self.routers.items():
            seconds = router.config.graceful_restart_ms / 1000
            if router.active and seconds and not router.config.standby:
                waited[name] = now + seconds
                self._run(router, events.Suspend(seconds), now)
                self._fence.prolong(router.index, router.machine.parameters.addresses, seconds)
        return waited

    def end(self, now: float, suspended: Container[str] = ()) -> None:
        """Begin an orderly end: say farewell, but serve until a successor is heard. Not for those suspended."""
        self._ending = True
        for name, router in self.routers.items():
            if name not in suspended:
                self._run(router, events.Shutdown(patience=PATIENCE), now)

    def close(self, now: float, suspended: Container[str] = ()) -> None:
        """Release what is still held, but by those suspended and not replaced meanwhile."""
        self._blocked.close()
        for name, router in self.routers.items():
            if name not in suspended:
                self._run(router, events.Shutdown(), now)
                self._disown(router)
                if router.virtual_mac is not None:
                    self._wire.remove(router.carrier)
            elif not router.active:
                self._fence.discard(router.index, router.machine.parameters.addresses, router.prefixes)

    def statistics(self, now: float) -> tuple[ipc.RouterStatistics, ...]:
        """Of every router of the wish, the refused included."""
        return tuple(router.statistics(self._fence.holds, now) for router in self.routers.values())

    def _look_at_keys(self, now: float) -> bool:
        """True: there are others."""
        if changed := self._keys.refresh(now):
            for router in self.routers.values():
                router.credentials.refresh(self._keys, now)
        return changed

    def _settle_all(self, now: float) -> None:
        for router in self.routers.values():
            self._settle(router, now)
        for router in self.routers.values():
            # Given up by another router after this one had acquired it, or by whoever had put it on the interface.
            mine = router.machine.parameters.addresses if router.active and not self._ending else ()
            if missing := [address for address in mine if not self._fence.wants(router.index, address)]:
                self._acquire(router, missing, now)
        deaf = settle.listen(self._wire, tuple(self.routers.values()))
        self._receiver.renew()
        self._conflicts.renew()
        for interface in deaf:
            self._log.seldom(now, interface, "the kernel takes no filter for what is to be heard", interface=interface)
        if self._wire.trouble:
            self._log.seldom(now, "", "links and addresses cannot be read; tried again", error=self._wire.trouble)
        unsettled = any(router.problem or router.carrier_lost is not None for router in self.routers.values())
        if self._fence.releasing or unsettled or deaf or self._wire.trouble:
            self._next_retry = now + RETRY

    def _settle(self, router: Router, now: float) -> None:
        """Run the router with its present wish, or not."""
        if router.refused is not None or not router.config.ready or self._ending:
            router.carrier_lost = None
            if not self._ending:
                self._run(router, events.Shutdown(patience=PATIENCE), now)
            return
        untracked = settle.lost_track(router, self._wire)
        found = router.credentials.problem or untracked or settle.ground(router, self._wire, self._virtual, now)
        problem = found if isinstance(found, str) else None
        if problem != router.problem and problem is not None:
            self._log("the router cannot run now; tried again", router=router.config.name, reason=problem)
        router.problem = problem
        if isinstance(found, str):
            # The interface that serves may be well although another one is not: nobody notices the hand-over then.
            patience = PATIENCE if found == untracked else 0.0
            self._run(router, events.Shutdown(events.Cause.INTERFACE_LOST, patience), now)
            settle.leave_alone(router, self._wire, self.routers.values())
            return
        if router.index not in (0, found.index):  # deleted and created anew between two looks
            self._run(router, events.Shutdown(events.Cause.INTERFACE_LOST), now)
            self._fence.forget(router.index)
        moved = router.mac not in (b"", found.mac)
        router.index, router.mac = found.index, found.mac
        wanted = routers.parameters(router.config, found.source)
        self._reconfigure(router, replace(wanted, priority=settle.priority(router, self._wire)), now)
        resume = router.config.name in self._resuming
        if router.machine.state is events.State.INITIALIZE:
            router.adopted = settle.leftovers(router, self._wire)
            if not router.adopted:
                self._switch(router, on=False)
            if not resume:
                router.probing.start(frozenset(router.machine.parameters.addresses) - frozenset(router.adopted), now)
        self._resuming -= {router.config.name}
        self._run(router, events.Startup(resume), now)
        if moved:
            self._run(router, events.Claimed(), now)  # clients look for the addresses where they were

    def _reconfigure(self, router: Router, wanted: events.Parameters, now: float) -> None:
        """Other parameters in place. Addresses that are new are asked for first."""
        router.probing.stop(kept=wanted.addresses)
        if router.machine.state is not events.State.INITIALIZE:
            router.probing.start(frozenset(wanted.addresses) - frozenset(router.machine.parameters.addresses), now)
        self._run(router, events.Reconfigure(wanted), now)

    def _coordinate(self, now: float) -> None:
        """Routers of one sync group are Active together."""
        by_machine = {id(router.machine): router for router in self.routers.values() if router.config.sync_group}
        for name in {router.config.sync_group for router in by_machine.values()}:
            members = (router.machine for router in by_machine.values() if router.config.sync_group == name)
            for member, event in group.decisions(members):
                self._run(by_machine[id(member)], event, now)

    def _disown(self, router: Router) -> None:
        """Take away what an earlier process left and nobody took over."""
        if router.adopted:
            self._fence.discard(router.index, router.adopted, router.prefixes)
            router.adopted = ()
            self._switch(router, on=False)

    def _run(self, router: Router, event: events.Event, now: float) -> None:
        """Give the machine an event and do what it says."""
        for output in router.machine.handle(event, now):
            match output:
                case events.SendAdvert():
                    if output.priority > 0:
                        self._fence.renew_if_overdue(now, router.index, output.addresses)
                    self._transmitter.advertise(router, output, now)
                case events.Acquire(addresses):
                    router.adopted = ()
                    self._acquire(router, addresses, now)
                case events.Release(addresses):
                    self._fence.release(router.index, addresses)
                    # No notice of our own doing comes: they are no leftovers.
                    gone = ((router.index, address, router.prefix_length(address)) for address in addresses)
                    self._wire.fenced.difference_update(gone)
                case events.Announce(addresses):
                    withheld, at = router.probing.withheld, router.index
                    free = tuple(a for a in addresses if not (a in withheld or self._fence.lacks(at, a)))
                    self._transmitter.announce(router, free, now)
                case events.StateChanged(previous, state, cause):
                    self._changed(router, previous, state, cause)
                case _:
                    assert_never(output)

    def _acquire(self, router: Router, addresses: Iterable[bytes], now: float) -> None:
        """Hold these, but for those that may be a foreign host's."""
        self._switch(router, on=True)
        withheld = router.probing.withheld
        free = [address for address in addresses if address not in withheld]
        left = self._fence.acquire(router.index, free, self._wire.foreign(router.index), router.prefixes, now)
        router.address_errors += len(frozenset(left) - router.left_alone)
        router.left_alone = router.left_alone.difference(free).union(left)
        for text in map(str, map(ipaddress.ip_address, left)):
            fields = {"address": text, "interface": router.carrier}
            self._log.seldom(now, text, "the address is on the interface already and not ours", **fields)

    def _judge_refusals(self, now: float) -> None:
        """Addresses that the kernel refuses an Active: say so, and hand over when it lasts; announce what it took."""
        self._some_refused = False
        for router in self.routers.values():
            if not router.active:
                continue
            refused = self._fence.refused(router.index, router.machine.parameters.addresses)
            fresh, taken = router.lack.update(refused, now)
            router.address_errors += fresh
            if taken:
                self._run(router, events.Claimed(), now)
            if not refused:
                router.findings.forget(Finding.ADDRESS_REFUSED)
                continue
            self._some_refused = True
            name, text = router.config.name, router.lack.sentence(router.carrier)
            router.findings.note(Finding.ADDRESS_REFUSED, text, now)
            self._log.seldom(now, name, "the kernel refuses addresses; tried again", router=name, reason=text)
            if router.lack.hands_over(now, 0.0 if router.preempted else router.machine.damping.wait(now)):
                self._run(router, events.Resign(events.Cause.ADDRESS_LOST), now)

    def _switch(self, router: Router, *, on: bool) -> None:
        """A Backup sends nothing from the virtual MAC: switches would look for the Active here."""
        if router.virtual_mac is not None:
            try:
                self._wire.switch(router.index, on=on)
            except OSError as error:
                self._log("the interface cannot be switched", interface=router.carrier, on=on, error=error)

    def _freed(self, router: Router, addresses: list[bytes], now: float) -> None:
        if router.active:
            self._acquire(router, addresses, now)
            self._contested(router, now)

    def _contested(self, router: Router, now: float) -> None:
        self._run(router, events.Claimed(), now)

    def _changed(self, router: Router, previous: events.State, state: events.State, cause: events.Cause) -> None:
        router.transitions[f"{previous},{state},{cause}"] += 1
        router.preempted = cause is events.Cause.PREEMPTION
        router.lack.clear()
        if state is events.State.INITIALIZE:
            router.probing.stop()
        if previous is events.State.ACTIVE:
            self._switch(router, on=False)
        active = router.active_address()
        name = router.config.name
        self._log("state", router=name, previous=previous, state=state, cause=cause, active=active)
        self._report(ipc.StateChanged(router=name, previous=previous, state=state, cause=cause, active_address=active))

    def _tick(self, now: float, *, active: bool) -> None:
        for router in self.routers.values():
            deadline = router.machine.deadline
            if deadline is not None and now >= deadline and router.active is active:
                if router.carrier_lost is not None and not router.active:
                    self._settle(router, now)  # whoever hears nothing because of its own cable does not take over
                self._run(router, events.Tick(), now)

    def _heard(self, router: Router, advert: packet.Advertisement, now: float) -> None:
        if not router.active and advert.priority > 0 and router.probing.asking:
            router.probing.stop(kept=self._conflicts.undecided(router, advert.source, now))
        self._run(router, events.Received(advert, advert.authenticated), now)
        if router.adopted and router.machine.state is events.State.BACKUP and advert.priority > 0:
            self._disown(router)

    def _read_monitor(self, now: float) -> None:
        taken, changed = self._wire.changes(self._fence.holds)
        for router in self.routers.values():
            mine = router.machine.parameters.addresses
            gone = [each.address.address for each in taken if each.address.index == router.index]
            if router.active and (addresses := [address for address in gone if address in mine]):
                self._put_back(router, addresses, now)
        if changed:
            self._wire.refresh()
            self._settle_all(now)

    def _put_back(self, router: Router, addresses: list[bytes], now: float) -> None:
        name, first = router.config.name, ipaddress.ip_address(addresses[0])
        self._log.seldom(now, name, "somebody deleted the address; put back", router=name, address=first)
        router.address_errors += len(addresses)
        self._fence.acquire(router.index, addresses, (), router.prefixes, now)
        self._run(router, events.Claimed(), now)
        if router.removed(now):
            self._run(router, events.Resign(events.Cause.ADDRESS_LOST), now)
