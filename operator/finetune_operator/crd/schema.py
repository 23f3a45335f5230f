"""Pydantic models -> the structural schemas that a CustomResourceDefinition holds.

apiextensions/v1 knows no `$ref`, no `null`, no closed objects and only draft 4's boolean `exclusiveMinimum`
(KEP-2335, structural schemas); what it adds instead are list types, int-or-string and CEL rules.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from finetune_operator.crd.cel import Schema, keys_rule, pattern_rule, rule_schema
from finetune_operator.resource import ResourceModel, Rule

_DROPPED = frozenset({"title", "additionalProperties", "propertyNames", "patternProperties", "remedy"})
"""Titles repeat the names; unknown fields are pruned or refused by the API server itself; the rest becomes CEL."""


def structural_schema(model: type[BaseModel], *, with_defaults: bool = True) -> Schema:
    """The structural schema of `model`: types, bounds, descriptions, rules and perhaps defaults of all below it."""
    flat = model.model_json_schema(schema_generator=_Generator if with_defaults else _WithoutDefaults)
    return _structural(flat, flat.pop("$defs", {}))


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, where it knows more than the JSON schema that it writes would tell."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        written = super().model_schema(schema)
        rules = [rule_schema(rule) for rule in _rules(schema["cls"])]
        return {**written, "x-kubernetes-validations": rules} if rules else written

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])  # an optional field is absent, never null

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        written = self.generate_inner(schema["schema"])
        default = schema.get("default")
        if default is None or default == ():
            return written  # an absent field and an empty list say the same
        encoded = _block(default) if isinstance(default, BaseModel) else self.encode_default(default)
        return {**written, "default": encoded}


def _block(default: BaseModel) -> Schema:
    """The default of a block: empty, since the API server fills it from its fields' own defaults.

    Not so where the block has rules: when a CRD is applied they are tried on the default as it stands, unfilled.
    """
    assert default == type(default)(), "a block's default is made of its fields' defaults"
    return default.model_dump(mode="json", by_alias=True, exclude_none=True) if _rules(type(default)) else {}


def _rules(model: type[BaseModel]) -> tuple[Rule, ...]:
    return model.rules if issubclass(model, ResourceModel) else ()


class _WithoutDefaults(_Generator):
    """For what is written by a program that writes every field."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def _structural(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        return _structural({**target, **{key: value for key, value in schema.items() if key != "$ref"}}, definitions)
    result = {key: value for key, value in schema.items() if key not in _DROPPED}
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    if "properties" in schema:
        result["properties"] = {name: _structural(each, definitions) for name, each in schema["properties"].items()}
    if "items" in schema:
        result["items"] = _structural(schema["items"], definitions)
        result["x-kubernetes-list-type"] = "atomic"  # a list has one owner; see `definition` for the exception
    if "remedy" in schema:
        rule = pattern_rule(schema["pattern"], schema["remedy"], or_integer="integer" in schema["type"])
        result["x-kubernetes-validations"] = [rule]
    if "patternProperties" in schema:
        result |= _map(schema, definitions)
    return _with_type(_with_bounds(result))


def _map(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """A map from patterned keys to values: only the values have a schema, the keys become a rule."""
    ((pattern, values),) = schema["patternProperties"].items()
    keys = schema["propertyNames"]
    rule = keys_rule(pattern, keys["maxLength"], keys["remedy"])
    return {"additionalProperties": _structural(values, definitions), "x-kubernetes-validations": [rule]}


def _with_bounds(schema: Schema) -> Schema:
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in schema:
            schema = {**schema, bound: schema[exclusive], exclusive: True}
    return schema


def _with_type(schema: Schema) -> Schema:
    """A string that may be written as a bare number has a form of its own."""
    if schema["type"] != ["integer", "string"]:
        return schema
    rest = {key: value for key, value in schema.items() if key != "type"}
    either = [{"type": "integer"}, {"type": "string"}]
    return {**rest, "x-kubernetes-int-or-string": True, "anyOf": either, "minimum": 1}
