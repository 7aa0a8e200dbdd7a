"""What a worker finds and the user must change."""


class CannotTrain(RuntimeError):
    """The training cannot go on, for a reason that its message explains: the driver shows the sentence alone."""
