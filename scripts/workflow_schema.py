"""Prints the JSON Schema of a workflow, for docs/workflow.schema.json."""

import json

from retinue.workflows import published_schema

if __name__ == "__main__":
    print(json.dumps(published_schema(), indent=2))
