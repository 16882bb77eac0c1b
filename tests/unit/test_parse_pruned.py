"""Objects that an API server with a newer schema gives."""

import pytest

from lvsapi.errors import SpecError
from lvsapi.parse import parse_class, parse_virtual_service
from tests.gen import raw_class, raw_virtual_service

pytestmark = pytest.mark.unit


def test_a_field_of_a_newer_schema_is_passed_over_where_the_api_server_has_let_it_through() -> None:
    """A misspelt one never gets so far; and the defaults of the next release stand in every object before we do."""
    newer = raw_virtual_service(afterMyTime="x", ports=[{"port": 80, "afterMyTime": {"a": 1}}])
    assert parse_virtual_service(newer, pruned=True) == parse_virtual_service(raw_virtual_service(ports=[{"port": 80}]))
    with pytest.raises(SpecError, match=r"spec\.scheduler"):
        parse_virtual_service(raw_virtual_service(afterMyTime="x", scheduler="new"), pruned=True)
    raw = raw_class(vrrp={"afterMyTime": 1}, afterMyTime=[])
    assert parse_class(raw, pruned=True) == parse_class(raw_class(vrrp={}))
    for parse, obj in ((parse_virtual_service, newer), (parse_class, raw)):
        with pytest.raises(SpecError, match="afterMyTime"):
            parse(obj)
