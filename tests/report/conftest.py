"""A run with SEA, a plain one beside it, and the reports of both, made once."""

import pytest

from llava_sea.report.__main__ import main
from tests.report.report_world import make_baseline, make_world
from tests.worlds import command_line


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The flags of the report command for one run."""
    return make_world(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def pair(world):
    """The flags for two runs."""
    return {**world, "baseline": make_baseline(world)}


@pytest.fixture(scope="session")
def page(world):
    """The report of one run, without a map."""
    return main(command_line({**world, "map_points": 0})).read_text()


@pytest.fixture(scope="session")
def pair_page(pair):
    """The report of two runs."""
    return main(command_line({**pair, "output": pair["run"].parent / "pair.html"})).read_text()
