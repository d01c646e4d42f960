"""The examples of the schema, run against a real daemon: each answers what it says it answers."""

import json
import os
import shutil

import pytest

import harness
from rpc import KINDS, RpcError, configuration

IMAGES = "/var/lib/images"


def examples():
    """(method, title, example) of every example in the schema."""
    schema = harness.schema()
    if schema is None:
        return
    for method, spec in schema.methods.items():
        for example in spec.get("examples", []):
            yield pytest.param(method, example, id=f"{method}: {example['title']}")


def moved(value, folder):
    """The value with the examples' folder of images, and other places, moved to ours."""
    text = json.dumps(value)
    for place in (IMAGES, "/run/nbdd", "/var/lib/nbdd", "/etc/nbdd"):
        text = text.replace(place, folder)
    return json.loads(text)


def private(path, flags):
    """Keys are refused when others can read them."""
    return os.open(path, flags, 0o600)


def forget(schema, value, volatile_of):
    """The value without the fields that the schema calls volatile."""
    schema = resolve(schema, volatile_of)
    if isinstance(value, dict):
        kept = {}
        for key, item in value.items():
            field = resolve(schema.get("properties", {}).get(key, {}), volatile_of)
            raw = schema.get("properties", {}).get(key, {})
            if field.get("volatile") or raw.get("volatile"):
                continue
            kept[key] = forget(field, item, volatile_of)
        return kept
    if isinstance(value, list):
        return [forget(schema.get("items", {}), item, volatile_of) for item in value]
    return value


def resolve(schema, definitions):
    while True:
        if "$ref" in schema:
            schema = {**definitions[schema["$ref"].rsplit("/", 1)[1]],
                      **{k: v for k, v in schema.items() if k != "$ref"}}
            continue
        options = [s for s in schema.get("anyOf", schema.get("oneOf", [])) if s.get("type") != "null"]
        if len(options) == 1:
            schema = {**options[0],
                      **{k: v for k, v in schema.items() if k not in ("anyOf", "oneOf")}}
            continue
        return schema


@pytest.fixture
def empty(server):
    """The daemon, cleared of what an earlier example left; and a fresh folder for images."""
    folder = server.root / "examples"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield server, str(folder)
    for export in server.rpc.plain("export.list")["exports"]:
        server.rpc.plain("export.remove", name=export["name"], mode="hard")
    for disk in server.rpc.plain("disk.list")["disks"]:
        server.rpc.plain("disk.remove", name=disk["name"], force=True)
    for listener in server.rpc.plain("listener.list")["listeners"]:
        if listener["persistent"]:
            server.rpc.plain("listener.remove", name=listener["name"])
    for credential in server.rpc.plain("tls.list")["credentials"]:
        server.rpc.plain("tls.remove", name=credential["name"])


@pytest.fixture(scope="module")
def server():
    """Without a listener of the command line: examples show lists of listeners."""
    instance = harness.Daemon(listen=False)
    try:
        yield instance.start()
    finally:
        instance.finish()


@pytest.mark.parametrize("method,example", examples())
def test_example(empty, method, example):
    daemon, folder = empty
    schema = harness.schema()
    for image in example.get("images", []):
        path = moved(image["path"], folder)
        with open(path, "wb") as file:
            file.truncate(image["size"])
    for written in example.get("files", []):
        path = moved(written["path"], folder)
        with open(path, "w", encoding="utf-8", opener=private) as file:
            file.write(written["text"])
    for step in example.get("setup", []):
        daemon.call(step["method"], **moved(step["params"], folder))
    params = moved(example.get("params", {}), folder)
    before = configuration(daemon.rpc)
    try:
        # invalid-params examples are against the schema on purpose
        result = daemon.rpc.call(method, check=example.get("error") != "invalid-params", **params)
    except RpcError as error:
        assert error.kind == example.get("error"), error
        assert configuration(daemon.rpc) == before, "a refused call changed something"
        assert error.kind in {*schema.methods[method]["errors"], "invalid-params"}, (
            f"{method} does not declare {error.kind}")
        return
    assert "error" not in example, f"should have been refused, answered {result}"
    if "result" not in example:
        return
    definitions = schema.document["$defs"]
    expected = moved(example["result"], folder)
    if method == "rpc.discover":  # the example shows the beginning
        assert {key: result[key] for key in expected} == expected
    elif method == "transaction":
        assert len(result["results"]) == len(expected["results"])
        for step, one, other in zip(params["actions"], result["results"], expected["results"]):
            shape = schema.methods[step["method"]]["result"]
            assert forget(shape, one, definitions) == forget(shape, other, definitions)
    else:
        shape = schema.methods[method]["result"]
        assert forget(shape, result, definitions) == forget(shape, expected, definitions)


def test_every_method_has_an_example_that_works():
    """But for the one that needs somebody to be connected."""
    schema = harness.schema()
    for method, spec in schema.methods.items():
        works = any("error" not in example for example in spec.get("examples", []))
        assert works or method == "client.disconnect", method
        assert spec["access"] in ("read", "operate", "admin")


def test_the_comparison_notices_a_difference():
    """forget() drops what is volatile and nothing else."""
    definitions = {"d": {"properties": {"name": {}, "generation": {"volatile": True}}}}
    shape = {"properties": {"items": {"items": {"$ref": "#/$defs/d"}}}}
    one = {"items": [{"name": "a", "generation": "1"}]}
    assert forget(shape, one, definitions) == {"items": [{"name": "a"}]}


def test_schema_covers_every_error_of_the_contract():
    assert os.path.exists(harness.BUILD / "schema" / "api.schema.json")
    declared = {kind for spec in harness.schema().methods.values() for kind in spec["errors"]}
    assert declared <= set(KINDS)
