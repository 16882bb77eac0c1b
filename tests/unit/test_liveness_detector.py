"""Who is silent, and who only seems so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lvsagent.liveness.beat import Beat, DropReason, node_id
from lvsagent.liveness.detector import ASK_AGAIN, GRACE, LATE, Detector, Standing

pytestmark = pytest.mark.unit

INTERVAL = 0.1
TICK = 0.02
TICKS = 5
NAMES = ("a", "b", "c")


class Observer:
    """A detector with virtual time, and the nodes that it listens to."""

    def __init__(self, *names: str) -> None:
        self.detector = Detector()
        self.detector.configure(names)
        self.now = 100.0
        self.sequence = 0
        self.answering: set[str] = set()
        """Nodes whose kernels answer."""
        self.beating: dict[str, bool] = dict.fromkeys(names, True)
        """Nodes that beat, and whether they serve."""
        self.asked: list[str] = []
        self.incarnation = dict.fromkeys(names, 1)
        self.ticks = 0

    def beat(self, name: str, *, serving: bool = True, leaving: bool = False, **other: int) -> DropReason | None:
        self.sequence += 1
        fields = {"incarnation": self.incarnation.get(name, 1), "sequence": self.sequence, **other}
        beat = Beat(node_id(name), fields["incarnation"], fields["sequence"], INTERVAL, serving, leaving)
        return self.detector.beat(name, beat, self.now)

    def run(self, seconds: float) -> None:
        """Tick by tick; every node beats at every fifth."""
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            self.detector.wake(self.now)
            for name in self.asked:
                if name in self.answering:
                    self.detector.answered(name, self.now)
            if self.ticks % TICKS == 0:
                for name, serving in self.beating.items():
                    self.beat(name, serving=serving)
            self.ticks += 1
            self.detector.judge(self.now)
            self.asked = self.detector.to_ask(self.now)

    def standing(self, name: str) -> Standing:
        return self.detector.standing(name)

    def until_silent(self, name: str, limit: float = 2.0) -> float:
        begin = self.now
        while self.standing(name) is not Standing.SILENT:
            self.run(TICK)
            assert self.now - begin < limit, self.standing(name)
        return self.now - begin


def test_a_node_that_never_beat_is_good() -> None:
    observer = Observer(*NAMES)
    observer.beating = {}
    observer.run(60.0)
    assert set(observer.detector.standings().values()) == {Standing.UNKNOWN}
    assert not Standing.UNKNOWN.suspected
    assert not observer.detector.is_talking("a")
    assert observer.asked == []


def test_a_node_that_stops_is_silent_within_350_ms_and_the_others_are_not() -> None:
    observer = Observer(*NAMES)
    observer.run(1.0)
    del observer.beating["b"]
    assert observer.until_silent("b") <= 0.35
    assert [observer.standing(name) for name in "ac"] == [Standing.SERVING] * 2
    assert not observer.detector.is_talking("b")


def test_two_lost_beats_are_nothing() -> None:
    observer = Observer(*NAMES)
    observer.run(1.0)
    del observer.beating["b"]
    observer.run(0.2)
    assert observer.standing("b") is Standing.SERVING
    observer.beating["b"] = True
    observer.run(1.0)
    assert observer.standing("b") is Standing.SERVING


def test_a_silent_node_stays_suspected_until_it_says_that_it_serves() -> None:
    observer = Observer(*NAMES)
    observer.run(1.0)
    del observer.beating["b"]
    observer.until_silent("b")
    observer.answering.add("b")
    observer.detector.answered("b", observer.now)
    observer.run(30.0)
    assert observer.standing("b") is Standing.SILENT, "a kernel that was started anew is not enough"
    observer.incarnation["b"] = 2
    observer.beating["b"] = False
    observer.run(1.0)
    assert observer.standing("b") is Standing.UNREADY
    assert observer.standing("b").suspected
    observer.beating["b"] = True
    observer.run(0.1)
    assert observer.standing("b") is Standing.SERVING


def test_an_election_that_dies_on_a_living_node_is_no_dead_node() -> None:
    observer = Observer(*NAMES)
    observer.answering = {*NAMES}
    observer.run(1.0)
    del observer.beating["b"]
    observer.run(60.0)
    assert observer.standing("b") is Standing.SERVING
    assert observer.detector.mute(observer.now) == {"b"}
    observer.answering.remove("b")
    assert observer.until_silent("b") <= 0.35 + 2 * INTERVAL, "now its kernel is dead as well"
    assert observer.detector.mute(observer.now) == frozenset()


def test_a_kernel_is_asked_when_a_beat_is_missing_and_now_and_then_whether_it_answers() -> None:
    observer = Observer("a", "b")
    observer.run(TICK)
    assert observer.asked == ["a", "b"], "does it answer at all?"
    observer.run(1.0)
    asked = 0
    for _ in range(round(2 * ASK_AGAIN / TICK)):
        observer.run(TICK)
        asked += len(observer.asked)
    assert asked in (4, 5), "nobody answers"
    observer.answering = {"a", "b"}
    observer.run(ASK_AGAIN)
    asked = 0
    for _ in range(round(2 * ASK_AGAIN / TICK)):
        observer.run(TICK)
        asked += len(observer.asked)
    assert asked == 0, "it is known, and no beat is missing"
    del observer.beating["b"]
    questions = []
    for _ in range(50):
        observer.run(TICK)
        questions += observer.asked
    assert set(questions) == {"b"}
    assert 3 <= len(questions) <= 6, "an answer is good for a while"


def test_an_election_that_left_is_waited_for_where_kernels_do_not_answer() -> None:
    observer = Observer(*NAMES)
    observer.run(1.0)
    del observer.beating["b"]
    observer.beat("b", leaving=True)
    observer.run(GRACE - 1.0)
    assert observer.standing("b") is Standing.SERVING
    observer.run(1.5)
    assert observer.standing("b") is Standing.SILENT


def test_a_node_that_left_and_whose_kernel_stops_answering_is_silent_at_once() -> None:
    observer = Observer(*NAMES)
    observer.answering = {*NAMES}
    observer.run(1.0)
    del observer.beating["b"]
    observer.beat("b", leaving=True)
    observer.run(3.0)
    assert observer.standing("b") is Standing.SERVING
    observer.answering.remove("b")
    assert observer.until_silent("b") <= 0.35 + 2 * INTERVAL


def test_a_successor_in_time_ends_the_waiting() -> None:
    observer = Observer(*NAMES)
    observer.run(1.0)
    observer.beat("b", leaving=True)
    observer.run(1.0)
    del observer.beating["b"]
    assert observer.until_silent("b") <= 0.35


def test_who_hears_nobody_any_more_is_cut_off_and_blames_nobody() -> None:
    observer = Observer(*NAMES)
    observer.run(1.0)
    kept, observer.beating = observer.beating, {}
    observer.run(60.0)
    assert observer.detector.cut_off
    assert {observer.standing(name) for name in NAMES} == {Standing.SERVING}
    observer.beating = {"a": True}
    observer.run(0.2)
    assert not observer.detector.cut_off
    assert {observer.standing(name) for name in NAMES} == {Standing.SERVING}, "the others have their time anew"
    observer.beating = kept
    observer.run(1.0)
    assert {observer.standing(name) for name in NAMES} == {Standing.SERVING}
    del observer.beating["c"]
    assert observer.until_silent("c") <= 0.35


def test_who_is_cut_off_keeps_what_it_thought_before() -> None:
    observer = Observer(*NAMES)
    observer.run(1.0)
    del observer.beating["c"]
    observer.until_silent("c")
    observer.beating = {}
    observer.run(10.0)
    assert observer.detector.cut_off
    assert observer.standing("c") is Standing.SILENT
    assert observer.standing("a") is Standing.SERVING


def test_of_two_nodes_the_other_one_is_dead() -> None:
    observer = Observer("a")
    observer.run(1.0)
    observer.beating = {}
    assert observer.until_silent("a") <= 0.35
    assert not observer.detector.cut_off


def test_a_pause_of_ours_makes_nobody_silent() -> None:
    observer = Observer(*NAMES)
    observer.run(1.0)
    observer.now += 30.0
    observer.run(TICK)
    assert {observer.standing(name) for name in NAMES} == {Standing.SERVING}
    observer.run(1.0)
    assert {observer.standing(name) for name in NAMES} == {Standing.SERVING}


def test_who_died_in_a_pause_of_ours_is_found_after_it() -> None:
    observer = Observer(*NAMES)
    observer.run(1.0)
    del observer.beating["a"]
    observer.now += 30.0
    observer.run(2 * TICK)
    assert observer.standing("a") is Standing.SERVING
    assert observer.until_silent("a") <= 0.35


def test_a_repeated_or_overtaken_beat_counts_for_nothing() -> None:
    observer = Observer("a")
    assert observer.beat("a", sequence=10) is None
    assert observer.beat("a", sequence=10) is DropReason.SEQUENCE
    assert observer.beat("a", sequence=9, serving=False) is DropReason.SEQUENCE
    assert observer.standing("a") is Standing.SERVING
    assert observer.beat("a", sequence=11) is None
    assert observer.beat("a", sequence=(11 + 2**31 - 1) % 2**32) is None
    assert observer.beat("a", sequence=3) is None, "the sequence wraps round"


def test_the_beat_of_an_earlier_start_counts_only_when_the_later_one_is_heard_no_more() -> None:
    observer = Observer("a")
    observer.run(1.0)
    assert observer.beat("a", incarnation=5, sequence=1) is None
    assert observer.beat("a", incarnation=4, sequence=99) is DropReason.SEQUENCE
    observer.now += 0.4
    assert observer.beat("a", incarnation=4, sequence=99) is None, "its clock was set back"


def test_a_node_that_is_not_listened_to_has_no_standing_and_one_that_stays_keeps_its_own() -> None:
    observer = Observer(*NAMES)
    observer.run(1.0)
    observer.beat("b", serving=False)
    observer.detector.configure(("b", "d"))
    assert observer.beat("a") is DropReason.UNKNOWN_NODE
    observer.detector.answered("a", observer.now)
    assert observer.detector.standings() == {"b": Standing.UNREADY, "d": Standing.UNKNOWN}
    with pytest.raises(KeyError):
        observer.standing("a")


def test_a_cut_off_observer_that_is_given_one_node_only_is_cut_off_no_longer() -> None:
    observer = Observer(*NAMES)
    observer.run(1.0)
    observer.beating = {}
    observer.run(1.0)
    assert observer.detector.cut_off
    observer.detector.configure(("a",))
    observer.run(TICK)
    assert not observer.detector.cut_off
    assert observer.until_silent("a") <= 0.35


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), max_size=40), st.floats(0.0, LATE))
def test_whoever_beats_is_never_silent_whatever_the_others_do(beats: list[tuple[str, bool]], step: float) -> None:
    observer = Observer(*NAMES)
    observer.beat("a")
    for name, serving in beats:
        observer.now += step
        observer.detector.wake(observer.now)
        observer.beat(name, serving=serving)
        observer.beat("a")
        observer.detector.judge(observer.now)
        assert observer.standing("a") is Standing.SERVING


class AnyStory(RuleBasedStateMachine):
    """Whatever happens in whatever order, the rules of the description hold."""

    def __init__(self) -> None:
        super().__init__()
        self.observer = Observer(*NAMES)
        self.last: dict[str, tuple[float, bool]] = {}
        """When each node beat last, and whether it served."""
        self.evidence: dict[str, float] = {}
        self.was_silent: set[str] = set()

    @rule(seconds=st.sampled_from((0.0, 0.02, 0.1, 0.3, 0.5, 5.0)))
    def time_passes(self, seconds: float) -> None:
        self.observer.now += seconds
        self.observer.detector.wake(self.observer.now)
        self.observer.detector.judge(self.observer.now)

    @rule(name=st.sampled_from(NAMES), serving=st.booleans())
    def beats(self, name: str, serving: bool) -> None:
        if self.observer.beat(name, serving=serving) is None:
            self.last[name] = (self.observer.now, serving)
            self.evidence[name] = self.observer.now

    @rule(name=st.sampled_from(NAMES))
    def answers(self, name: str) -> None:
        self.observer.detector.answered(name, self.observer.now)

    @precondition(lambda self: self.last)
    @rule()
    def is_asked(self) -> None:
        assert set(self.observer.detector.to_ask(self.observer.now)) <= set(self.last)

    @invariant()
    def the_rules_hold(self) -> None:
        for name, standing in self.observer.detector.standings().items():
            if name not in self.last:
                assert standing is Standing.UNKNOWN
                continue
            beat, serving = self.last[name]
            if beat == self.observer.now:
                assert standing is (Standing.SERVING if serving else Standing.UNREADY)
                self.was_silent.discard(name)
            if name in self.was_silent:
                assert standing is Standing.SILENT, "nothing but a beat takes the suspicion away"
            if standing is Standing.SILENT:
                assert self.observer.now - beat >= 3 * INTERVAL
                self.was_silent.add(name)


TestAnyStory = AnyStory.TestCase
