"""What a worker finds and the user must change."""


class CannotTrain(RuntimeError):
    """The training cannot go on, for a reason that its message explains: the driver shows the sentence alone."""


class NonFiniteLoss(CannotTrain):
    """The loss became NaN or infinite; the message names the step."""


class ReplicasDiffer(CannotTrain):
    """Variables that must be the same on all replicas are not; the message names one."""


class UnfitWeights(CannotTrain):
    """The given weights are of another model."""
