"""The graph of every pipeline, as Kedro-Viz lays it out."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import pytest
import yaml
from kedro.io import DataCatalog
from kedro_viz.api.rest.responses.pipelines import get_pipeline_response
from kedro_viz.data_access import data_access_manager
from kedro_viz.server import populate_data

from speaker_verification.config.loader import RecipeConfigLoader
from speaker_verification.pipeline_registry import register_pipelines
from speaker_verification.settings import CONFIG_LOADER_ARGS
from tests.support.config import CONF

PIPELINES = register_pipelines()
CATALOG: dict[str, Any] = {
    name: entry
    for file in sorted(CONF.glob("base/catalog*.yml"))
    for name, entry in yaml.safe_load(file.read_text()).items()
}


@pytest.fixture(scope="module")
def graphs() -> dict[str, dict[str, Any]]:
    """Answers of `/api/pipelines/NAME`."""
    loader = RecipeConfigLoader(str(CONF), env="demo", **CONFIG_LOADER_ARGS)
    catalog = DataCatalog.from_config(loader["catalog"], {"download": {}})
    populate_data(data_access_manager, catalog, PIPELINES, {})
    return {name: get_pipeline_response(name).model_dump() for name in PIPELINES}


def boxes(graph: dict[str, Any], parent: str = "__root__") -> set[str]:
    children = graph["modular_pipelines"][parent]["children"]
    return {child["id"] for child in children if child["type"] == "modularPipeline"}


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if "filepath" in entry])
def test_the_layer_of_a_dataset_is_the_folder_of_its_file(name: str) -> None:
    root, layer, *_ = PurePath(CATALOG[name]["filepath"]).parts
    assert root == "${globals:data_root}"
    assert CATALOG[name]["metadata"]["kedro-viz"]["layer"] == layer


@pytest.mark.parametrize("name", PIPELINES)
def test_layers_stand_in_the_order_of_their_numbers(name: str, graphs: dict[str, dict[str, Any]]) -> None:
    drawn = {node["layer"] for node in graphs[name]["nodes"] if node.get("layer")}
    layers = [layer for layer in graphs[name]["layers"] if layer in drawn]
    assert layers
    assert layers == sorted(drawn)


def test_the_road_is_folded_into_five_boxes(graphs: dict[str, dict[str, Any]]) -> None:
    road = graphs["__default__"]
    assert boxes(road) == {"prepare", "training", "scoring", "package", "report"}
    assert boxes(road, "training") == {"training.pretrain", "training.finetune", "training.lmft"}
    assert boxes(road, "scoring") == {"scoring.embed", "scoring.score"}
