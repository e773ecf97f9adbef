"""The page on JSON and its schemas are those of the models that real files are held against."""

import pytest
from pydantic import ValidationError

from json_docs import PAGE, SCHEMAS, page_with_tables, schemas
from secateur.files.result_files import COMPARED, IMPORTANCE, METRICS, PLAN, SWEEP
from secateur.runs.written import FILES


def test_the_page_and_the_schemas_are_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == page_with_tables(page), "run make schemas"
    assert SCHEMAS.read_text(encoding="utf-8") == schemas(), "run make schemas"


def test_every_result_file_is_described() -> None:
    assert {COMPARED, IMPORTANCE, METRICS, PLAN, SWEEP} <= FILES.keys()


def test_a_schema_refuses_another_shape() -> None:
    _, model = FILES["sweep.json"]
    model.model_validate({"name": "a", "recipe": "", "cells": []})
    for other in ({"name": "a", "recipe": ""}, {"name": "a", "recipe": "", "cells": [], "more": 1}):
        with pytest.raises(ValidationError):
            model.model_validate(other)
