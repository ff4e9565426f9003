"""MLflow tracking: a run per training phase and per evaluation, under a parent run per experiment.

An experiment begins with pre-training. A phase or an evaluation that is run later joins the experiment of the
checkpoint that it starts from, and a phase that is resumed continues its own run. Phases log the same metrics
and parameters under the same names, so that MLflow can compare them; the first equal error rates are also
logged to the parent run, so that experiments can be compared. Nothing logged is overwritten.
"""

from speaker_verification.hooks.tracking.hook import PhaseTracker, TrackingHook, begin
from speaker_verification.hooks.tracking.settings import TrackingSettings

__all__ = ["PhaseTracker", "TrackingHook", "TrackingSettings", "begin"]
