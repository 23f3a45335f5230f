"""Rules -> `x-kubernetes-validations`: what the API server itself refuses, with the value seen and a remedy."""

import json
import re
from typing import Any

from finetune_operator.resource import Rule

Schema = dict[str, Any]

_PLACEHOLDER = re.compile(r"\{(.+?)\}")


def rule_schema(rule: Rule, reason: str = "FieldValueInvalid") -> Schema:
    """The CEL form of `rule`; a message with `{expressions}` becomes a messageExpression."""
    field = {"fieldPath": rule.field} if rule.field else {}
    return {"rule": rule.expression, **_message(rule.message), "reason": reason, **field}


def pattern_rule(pattern: str, remedy: str, *, or_integer: bool = False) -> Schema:
    """On a string: says `remedy` where the schema's own `pattern` would only show the regular expression."""
    matches = f"self.matches({literal(pattern)})"
    return rule_schema(Rule(f"type(self) == int || {matches}" if or_integer else matches, remedy))


def keys_rule(pattern: str, max_length: int, remedy: str) -> Schema:
    """On a map: bounds its keys, for which structural schemas have no words."""
    rule = f"self.all(key, key.size() <= {max_length} && key.matches({literal(pattern)}))"
    return rule_schema(Rule(rule, f"every key {remedy} (at most {max_length} characters)"))


def literal(text: str) -> str:
    """`text` as a CEL string."""
    return json.dumps(text)


def _message(text: str) -> Schema:
    """`{expressions}` are put in by `format`, which costs the same for a number, whose text has no known length."""
    expressions = ", ".join(_PLACEHOLDER.findall(text))
    if not expressions:
        return {"message": text}
    template = _PLACEHOLDER.sub("%s", text.replace("%", "%%"))
    return {"messageExpression": f"{literal(template)}.format([{expressions}])"}
