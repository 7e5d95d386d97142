"""The plugins as they are staged for the builder: FUEL_PLUGIN_STAGES is the folder with v2 and v4 in it."""

import os
import pathlib

import yaml

HERE = pathlib.Path(__file__).resolve().parent
SECTION = "fuel-plugin-calico"


def stage(generation):
    """Returns the folder of one generation, "v2" or "v4"."""
    stages = os.environ.get("FUEL_PLUGIN_STAGES")
    if not stages:
        raise SystemExit("FUEL_PLUGIN_STAGES is not set: run `cargo xtask fuel-plugin check`")
    return pathlib.Path(stages) / generation


def load(path):
    with open(path, encoding="utf-8") as stream:
        return yaml.safe_load(stream)


def of_stage(generation, name):
    return load(stage(generation) / name)


def beside(name):
    return load(HERE / name)


def settings(generation):
    """Returns the settings of the section by name, without its metadata."""
    attributes = dict(of_stage(generation, "environment_config.yaml")["attributes"])
    attributes.pop("metadata")
    return attributes
