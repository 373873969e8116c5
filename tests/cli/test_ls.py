"""``raycl ls`` tells of every key of the blocks of a sweep file, and of every metric."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, Field
from typer.testing import CliRunner, Result

from raycl.catalog import catalog
from raycl.cli.app import app
from raycl.cli.ls import KINDS, LISTED_BLOCKS, options
from raycl.matrix import METRICS
from raycl.spec.options import ModelConfig, Options, StreamConfig
from raycl.spec.schema import BLOCKS as SHARED
from raycl.spec.sweep_options import ResourcesConfig, SearchConfig


def ls(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["ls", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize("kind", LISTED_BLOCKS)
def test_a_block_shows_every_key_and_each_alone(kind: str) -> None:
    shown = ls(kind).output
    for key in LISTED_BLOCKS[kind].model_fields:
        assert key in shown
        assert key in ls(kind, key).output
        assert ls(kind, f"{kind}.{key}").output == ls(kind, key).output


def test_keys_come_with_bounds_defaults_and_what_they_mean() -> None:
    shown = " ".join(ls("training").output.split())
    assert "batch_size whole number >= 1 128 new examples per update" in shown
    assert "adam | adamw | sgd | adagrad | rmsprop" in shown
    seeds = next(option for option in options(SearchConfig) if option.key == "seeds")
    assert seeds.value == "list of whole number >= 0 < 2^63, at least 1, at most 1,000, or keys"
    assert seeds.default == "[0]"
    gpus = next(option for option in options(ResourcesConfig) if option.key == "gpus")
    assert gpus.value == "number >= 0 <= 1,024", "the shares of a GPU are a rule, told in its description"


def test_keys_of_a_block_inside_a_block_stand_below_it() -> None:
    keys = [option.key for option in options(SearchConfig)]
    assert keys[keys.index("finalists") :][:3] == ["finalists", "finalists.top", "finalists.seeds"]
    shown = ls("search", "finalists").output
    assert "finalists.top" in shown
    assert "trials " not in shown


def test_metrics_say_what_they_are() -> None:
    listed = ls("metrics").output
    for metric in METRICS:
        assert metric in listed
        assert metric in ls("metrics", metric).output
    assert "Chaudhry et al. 2018 take the maximum over all rows" in ls("metrics", "forgetting").output
    assert ":meth:" not in ls("metrics", "forgetting").output


def test_unknown_keys_are_told_with_the_nearest_one() -> None:
    assert "unknown key of search 'trial'; did you mean 'trials'?" in ls("search", "trial", code=2).stderr
    assert "unknown metric 'forgeting'; did you mean 'forgetting'?" in ls("metrics", "forgeting", code=2).stderr
    assert all(kind in " ".join(ls("methods", code=2).stderr.split()) for kind in KINDS)


@pytest.mark.parametrize("kind", ["strategies", "streams", "models"])
def test_options_of_every_entry_are_listed_once_each(kind: str) -> None:
    registry = getattr(catalog(), kind)
    for name in registry.names():
        block: type[BaseModel] = registry.get(name).Config
        keys = [option.key for option in options(block)]
        assert [key for key in keys if "." not in key] == list(block.model_fields)
        assert len(set(keys)) == len(keys)


# -- what is said of an option ---------------------------------------------------------------------------------------


def classes() -> dict[str, type[BaseModel]]:
    """Every options class that a sweep file may be written for, by where it stands."""
    known = catalog()
    registered = {
        f"{kind} {name}": getattr(known, kind).get(name).Config
        for kind in ("strategies", "models", "streams")
        for name in getattr(known, kind).names()
    }
    return {**SHARED, "stream": StreamConfig, "model": ModelConfig, **registered}


def undescribed(block: type[BaseModel]) -> list[str]:
    """The keys of which neither they nor their type say anything."""
    return [option.key for option in options(block) if not option.about.strip()]


@pytest.mark.parametrize("where", classes())
def test_every_option_says_what_it_means(where: str) -> None:
    assert undescribed(classes()[where]) == []


class Silent(Options):
    """A block."""

    told: int = Field(1, description="a number")
    silent: int = 1


class Anew(ModelConfig):
    """A mutant: a key declared anew without what the base says of it, and one inside a block of its own."""

    pretrained: bool = False
    head: Literal["single"] = "single"
    inner: Silent = Silent()


def test_an_option_without_a_description_is_found() -> None:
    assert undescribed(Anew) == ["head", "pretrained", "inner.silent"]
