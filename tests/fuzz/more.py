"""A pytest plugin: only the properties, each with many more examples than a run of all tests can afford.

``python -m pytest -p tests.fuzz.more --times 20 tests/unit tests/sim``, or ``make fuzz``. What is found rarely is found
here first; a failure says the example, which then becomes a test of its own.
"""

import pytest
from hypothesis import settings

HYPOTHESIS = "_hypothesis_internal_use_settings"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--times", type=int, default=20, help="examples of a property, times those that it asks for")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    times = config.getoption("--times")
    properties = [item for item in items if hasattr(function(item), HYPOTHESIS)]
    for item in properties:
        usual: settings = getattr(function(item), HYPOTHESIS)
        more = settings(usual, max_examples=usual.max_examples * times, deadline=None, database=None)
        setattr(function(item), HYPOTHESIS, more)
    items[:] = properties


def function(item: pytest.Item) -> object:
    return getattr(item, "obj", None)
