"""A trained model's decisions on recordings, as they were measured."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "building": ["build_verifier"],
        "comparison": ["Comparison"],
        "enrolment_store": ["EnrolledRecording", "Enrolment", "EnrolmentStore"],
        "identification": ["Candidate", "Identification", "identify", "side_scorer"],
        "onnx_export": ["export_onnx"],
        "origin": ["Origin", "UsedCorpus"],
        "recordings": ["Recording", "RecordingError", "RecordingLimits", "read_recording"],
        "settings": ["VerifierSettings"],
        "verifier": ["Verifier"],
    },
)
