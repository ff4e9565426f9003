"""Regularisation of an encoder in training mode, as options of its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from speaker_verification.common.errors import ParameterError
from speaker_verification.models.encoder_settings import RegularisationSettings
from speaker_verification.models.encoders import adapter_class
from speaker_verification.models.encoders.base import TIME_MASK_SWITCH, EncoderAdapter
from speaker_verification.models.encoders.configuration import configuration_of, read_configuration
from speaker_verification.models.settings import (
    FrontendSettings,
    is_saved_model,
    read_saved_configuration,
)

OF_MODEL = "model.frontend.regularisation"


def regularisation_options(
    settings: RegularisationSettings, config: PreTrainedConfig, family: type[EncoderAdapter], group: str
) -> dict[str, Any]:
    """Options of an encoder that replace those of its configuration; time masks are switched on with a share.

    Args:
        settings: None keeps the option of the configuration.
        config: configuration of the encoder.
        family: adapter of the encoder.
        group: dotted name of the settings, for messages.

    Raises:
        ParameterError: the encoder lacks an option.
    """
    values = settings.model_dump(exclude_none=True)
    for name, value in values.items():
        options = family.regularisation.get(name, ())
        if not options or not all(hasattr(config, option) for option in options):
            raise ParameterError(
                f"parameter '{group}.{name}' is {value}: the encoder ({config.model_type}) has no such "
                "option, set it to null"
            )
    found = {option: value for name, value in values.items() for option in family.regularisation[name]}
    if settings.mask_time_probability and hasattr(config, TIME_MASK_SWITCH):
        found[TIME_MASK_SWITCH] = True
    return found


def phase_regularisation(
    settings: RegularisationSettings, frontend: FrontendSettings, origin: Path
) -> dict[str, Any]:
    """All options of an encoder's regularisation in a phase: those of the phase, and else those of the model.

    Args:
        settings: settings of the phase.
        frontend: settings of the model's frontend.
        origin: folder of the encoder that training began from, or of the saved model, whose own options are
            taken instead of those of `frontend`.

    Raises:
        ParameterError: the encoder lacks an option.
        DataError: the configuration cannot be read.
    """
    if is_saved_model(origin):
        config = configuration_of(
            read_saved_configuration(origin).encoder, f"'{origin}': encoder.", adapter=frontend.adapter
        )
        of_model = RegularisationSettings()
    else:
        config, of_model = read_configuration(origin, frontend.adapter), frontend.regularisation
    family = adapter_class(config.model_type, frontend.adapter)
    names = {TIME_MASK_SWITCH, *(option for options in family.regularisation.values() for option in options)}
    own = {name: getattr(config, name) for name in sorted(names) if hasattr(config, name)}
    own |= regularisation_options(of_model, config, family, OF_MODEL)
    return own | regularisation_options(settings, config, family, "regularisation")
