"""What the rig says when it cannot go on."""


class RigError(Exception):
    """A sentence for a person: what was wanted, what was found, what to do."""


class CommandFailed(RigError, AssertionError):
    """A command ended with a status other than 0 or ran into its time limit. ``output`` is what it printed."""

    def __init__(self, message: str, output: str = "", status: int | None = None) -> None:
        super().__init__(f"{message}\n{output[-4000:].rstrip()}" if output.strip() else message)
        self.output = output
        self.status = status
