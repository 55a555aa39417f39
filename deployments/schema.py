"""The project file as JSON Schema, for editors: `python -m deployments.schema > deployments/project.schema.json`."""

from __future__ import annotations

import json

from coreimage.project.config import ProjectConfig


def project_schema() -> str:
    """Return the JSON Schema of project files."""
    schema = ProjectConfig.model_json_schema()
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A project of coreimage"}
    return json.dumps({**schema, **head}, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(project_schema(), end="")  # noqa: T201
