"""Every error that a user can cause or encounter: one class per cause, with the exit code of the command line.

Each message gives the value, what was expected, and what to do.
"""

from __future__ import annotations


class DynvidError(Exception):
    """Base of all errors that dynvid raises on purpose; ``exit_code`` is the command line's."""

    exit_code = 70


# 2: wrong use of the command or of the API


class UsageError(DynvidError):
    """An argument or a configuration value is invalid."""

    exit_code = 2


class RouteError(UsageError):
    """A route steps back, leaves the grid, or puts a checkpoint where there is no head."""


class NetworkError(UsageError):
    """A network name or configuration is unknown, or a network breaks the protocol of ``models``."""


class StaticBundleError(UsageError):
    """Something that needs a route with exits is asked of a static bundle."""


# 3: input refused


class InputRefusedError(DynvidError):
    """An input file cannot be used."""

    exit_code = 3


class TrainingCheckpointError(InputRefusedError):
    """A file is not a training checkpoint, or not one that dynvid can read."""


class UnsafeTrainingCheckpointError(TrainingCheckpointError):
    """A training checkpoint tries to run code, or holds tensors that are not plain and dense."""


class LayoutError(TrainingCheckpointError):
    """Keys of a training checkpoint are missing, unexpected or misshapen, or its layout is not the expected one."""


class LabelsError(InputRefusedError):
    """A file of class names cannot be used, or does not fit the network."""


class NonFiniteWeightsError(TrainingCheckpointError):
    """A training checkpoint holds NaN or infinite weights."""


class IllConditionedError(InputRefusedError):
    """A network's fp32 rounding is so large that no export could be proved equal to it."""


class VideoError(InputRefusedError):
    """A video cannot be read at all."""


class DecodeTimeoutError(VideoError):
    """A video took longer to open or to read than it may; on a slow disk, it may be intact."""


class FramesError(InputRefusedError):
    """Frames given as an array have the wrong shape, dtype or values."""


class ListError(InputRefusedError):
    """A LIST of videos (CSV) cannot be used."""


class ThresholdsError(InputRefusedError):
    """A thresholds file is malformed or its thresholds do not fit the route."""


class ScoresError(InputRefusedError):
    """Scores of the exits, or their labels, cannot be used."""


class TooFewVideosError(InputRefusedError):
    """There are too few videos to support the promise; the message says how many are needed."""


class RangesError(InputRefusedError):
    """Ranges for INT8 cannot be read, or the videos give no usable ranges."""


class GuaranteeError(InputRefusedError):
    """No thresholds keep the promise on these videos, however many there are."""


class CostTableError(InputRefusedError):
    """A table of segment times is malformed or does not fit the route."""


class RequestError(InputRefusedError):
    """A request to a service is malformed, or does not hold one video."""


class ResultsError(InputRefusedError):
    """A file of classified videos is not one that ``dynvid classify -o`` writes."""


# 4: integrity or version


class IntegrityError(DynvidError):
    """Something written by dynvid has changed or does not fit."""

    exit_code = 4


class ManifestError(IntegrityError):
    """A manifest is missing, malformed, or of an unknown version."""


class ConfigurationError(IntegrityError):
    """A bundle says something else about its network than the training checkpoint that it was exported from."""


class HashError(IntegrityError):
    """A file of a bundle has changed since it was exported."""


class StaleThresholdsError(IntegrityError):
    """A thresholds file belongs to another bundle."""


class StaleScoresError(IntegrityError):
    """Kept scores belong to another bundle, other videos, labels or preprocessing, or were tampered with."""


class StaleRangesError(IntegrityError):
    """Ranges for INT8 belong to another bundle or other videos, or were tampered with."""


class StaleResultsError(IntegrityError):
    """Results belong to another run, or were changed by something else."""


class StaleCostTableError(IntegrityError):
    """A table of segment times belongs to another bundle."""


class LintError(IntegrityError):
    """An exported graph holds something that a bundle must not hold."""


class ProofError(IntegrityError):
    """The split network does not compute what the whole network computes."""


class BlindProofError(ProofError):
    """A planted fault does not change the network's answers, so a proof would not notice it."""


class CensusError(IntegrityError):
    """A graph for an engine computes in another precision than requested, or has other ports."""


class MissingEngineError(IntegrityError):
    """An engine that is needed has not been built."""


class StaleEngineError(IntegrityError):
    """No engine fits this bundle, this machine or this call."""


class UntrustedEngineError(IntegrityError):
    """Others may write the files of an engine."""


class EngineFileError(IntegrityError):
    """A file of an engine is damaged, or differs from the ledger."""


# 5: environment or backend


class EnvironmentFaultError(DynvidError):
    """A package or device that this command needs is missing."""

    exit_code = 5


class MissingPackageError(EnvironmentFaultError):
    """A Python package is not installed."""


class BackendError(EnvironmentFaultError):
    """A backend cannot run here, or failed while running."""


class DecoderFaultError(EnvironmentFaultError):
    """The process that decodes videos does not work here, for any video."""


class EngineBuildError(EnvironmentFaultError):
    """A builder refuses a graph or its profiles, or crashes on it."""


class DeviceError(EnvironmentFaultError):
    """No GPU can be used here, or it failed."""


# 6: resources


class ResourceError(DynvidError):
    """Disk or memory is exhausted."""

    exit_code = 6


class QueueFullError(ResourceError):
    """Too many videos are waiting for their answers to accept more."""


class DeadlineError(ResourceError):
    """A video passed no checkpoint by its deadline."""


class RefusedError(ResourceError):
    """A service does not take a request now; ``retry_after_s`` says when to try again."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverloadedError(RefusedError):
    """A service has more requests than it can answer in time."""


class UnavailableError(RefusedError):
    """A service has no model process just now, or is stopping."""


class LateError(RefusedError):
    """A service had no answer in the time that a request allowed."""
