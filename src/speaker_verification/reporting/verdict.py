"""Circumstances of an evaluation: recipe, code, model and corpora, and whether its error rates compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from speaker_verification.reporting.numbers import joined
from speaker_verification.scoring.summary import Metrics


@dataclass(frozen=True)
class EvaluatedModel:
    """Model of an evaluation.

    Attributes:
        name: epoch of the last phase, or the folder of a model from elsewhere.
        encoder: pre-trained encoder, or the architecture of one of random weights.
        pretrained: whether the encoder was pre-trained; None where it is not known.
        layer_aggregation: kind of the layer aggregation.
        speaker_network: kind of the speaker network.
        embedding_size: E.
        seed: seed of the training; None where it is not known.
    """

    name: str
    encoder: str
    pretrained: bool | None
    layer_aggregation: str
    speaker_network: str
    embedding_size: int
    seed: int | None = None

    @classmethod
    def of(cls, folder: Path, embedding_size: int, trained_here: bool) -> EvaluatedModel:
        """Model in a folder, whose weights are not read.

        Args:
            folder: folder of a saved model.
            embedding_size: E.
            trained_here: whether this project has trained it, so that an encoder without a checkpoint started
                from random weights.

        Raises:
            DataError: the folder holds no saved model.
        """
        from speaker_verification.models.settings import read_saved_configuration
        from speaker_verification.models.weight_files import read_json
        from speaker_verification.training.kept_epochs import RUN_FILE

        saved = read_saved_configuration(folder)
        run = read_json(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
        checkpoint, parts = saved.model.frontend.checkpoint, saved.encoder
        blocks = f"{parts['model_type']} of {parts['num_hidden_layers']} blocks"
        if checkpoint is not None:
            encoder, pretrained = Path(checkpoint).name if checkpoint.startswith("/") else checkpoint, True
        elif trained_here:
            encoder, pretrained = f"{blocks} of random weights", False
        else:
            encoder, pretrained = blocks, None
        return cls(
            name=folder.name,
            encoder=encoder,
            pretrained=pretrained,
            layer_aggregation=saved.model.layer_aggregation.kind,
            speaker_network=saved.model.speaker_network.kind,
            embedding_size=embedding_size,
            seed=run.get("seed"),
        )


@dataclass(frozen=True)
class Difference:
    """A parameter that a run has changed, as YAML has its values; empty where one side lacks it."""

    parameter: str
    published: str
    used: str


@dataclass(frozen=True)
class Verdict:
    """Circumstances of an evaluation.

    Attributes:
        recipe: recipe that trained the model; None for a model or embeddings from elsewhere.
        environment: configuration environment of the run; None where it is not known.
        commit: commit of the code that trained; None outside of git.
        clean: whether the code was that of the commit; None outside of git.
        version: version of this package.
        llr: scoring that decides.
        model: evaluated model; None where it is not there any more.
        corpora: corpora with their subsets, by use.
        synthetic: whether the speech is synthetic.
        unofficial: lists that are not the published ones of their names.
        differences: parameters that differ from the recipe's.
        parameters: values as YAML of all parameters that bear on the results, by dotted name.
        reported_by: `commit` and `clean` of the code that wrote the report, where they are others.
        system: another toolkit's system whose embeddings were evaluated; None for a model of this project.
    """

    recipe: str | None
    environment: str | None
    commit: str | None
    clean: bool | None
    version: str
    llr: str
    model: EvaluatedModel | None
    corpora: Mapping[str, Sequence[str]]
    synthetic: bool
    unofficial: Sequence[str]
    differences: Sequence[Difference] = field(default_factory=list)
    parameters: Mapping[str, str] = field(default_factory=dict)
    reported_by: Mapping[str, Any] | None = None
    system: str | None = None

    @property
    def title(self) -> str:
        """Title of a report."""
        if self.recipe is not None:
            return f"Evaluation of {self.recipe}"
        if self.system is not None:
            return f"Evaluation of {self.system}"
        return f"Evaluation of {self.model.name}" if self.model else "Evaluation of a model from elsewhere"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """Verdict from the plain values that `to_dict` gave."""
        model = values["model"]
        return cls(
            **{
                **values,
                "model": None if model is None else EvaluatedModel(**model),
                "differences": [Difference(**difference) for difference in values["differences"]],
            }
        )

    def cautions(self) -> Iterator[str]:
        """Reasons why the error rates do not compare with published ones; none where they do."""
        if self.synthetic:
            yield "The speech is synthetic: the error rates show that the project works, and nothing more."
        if self.unofficial:
            one = len(self.unofficial) == 1
            end = "is not the published list of that name" if one else "are not the published lists"
            yield f"{joined(self.unofficial)} {end}."
        if self.model is not None and self.model.pretrained is False:
            yield "The encoder started from random weights; published systems start from pre-trained ones."


def equal_error_rates(metrics: Metrics) -> dict[str, dict[str, float]]:
    """Equal error rates in % by trial list and scoring, by which a saved verdict tells whose it is."""
    return {
        trial_list: {scoring: values["eer"] for scoring, values in scorings.items()}
        for trial_list, scorings in metrics.items()
    }


def unofficial_lists(metrics: Metrics) -> list[str]:
    """Trial lists whose record says that they are not the published ones."""
    records = {trial_list: next(iter(scorings.values())) for trial_list, scorings in metrics.items()}
    return [name for name, record in records.items() if not record.get("list_official", True)]
