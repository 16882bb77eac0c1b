"""The same lab with keepalived, in its own configuration of the lab, as one of the two directors."""

from tests.claims import Claims
from tests.lab.place import Place
from tests.lab.story import FIRST, SECOND, SEED, Anchor, Story

# keepalived gives the VIP up before it says so; ours takes it after Skew_Time, (256 - 50)/256 s in RFC 3768.
LETS_GO = Anchor(f"{FIRST} is stopped in order", "0.93 s", 1.3, "skew 0.8 s of RFC 3768, and 0.5 s")
SERVES_ON = Anchor(f"{FIRST} is stopped in order", "0.93 s", 0.5, "the old one serves until it hears the new one")


class MixedStory(Story):
    """Stop, start, crash and repair of the better director, of whichever make."""

    def __init__(self, place: Place, claims: Claims) -> None:
        super().__init__(place, claims)
        self.anchors = {**SEED, "stop": LETS_GO if place.keepalived == FIRST else SERVES_ON}

    def who_runs_what(self) -> str:
        ours = SECOND if self.place.keepalived == FIRST else FIRST
        return f"{self.place.keepalived} runs keepalived, {ours} lvs-agent; VRRPv2, PASS, VRID 51"

    def steps(self) -> None:
        self.begin()
        self.who_answers()
        self.stop("stop", self.anchors)
        self.start("start", self.anchors)
        self.crash("crash", self.anchors)
        self.repair("repair", self.anchors)
