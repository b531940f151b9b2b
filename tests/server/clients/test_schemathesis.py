"""schemathesis over /openapi.json: whatever it makes up is answered as the description says."""

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
EXAMPLES = 8  # of every operation


@pytest.fixture(scope="module")
def schema(live):
    return schemathesis.openapi.from_url(live.url + "/openapi.json", headers=_key(live))


def _key(live):
    return {"Authorization": f"Bearer {live.key}"}


@pytest.mark.shows(client="schemathesis", endpoint="every path", what="conformance")
def test_every_operation_answers_as_described(schema, live):
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:

        @hypothesis.settings(max_examples=EXAMPLES, database=None)
        @hypothesis.given(case=operation.as_strategy())
        def check(case):
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = live.model  # else most of what it makes up ends at the name
            response = case.call(headers=_key(live), timeout=60)
            case.validate_response(response, checks=CHECKS)

        check()
