"""The rules that need the whole object: its name, and what may change once the run has started."""

from finetune_operator.crd.cel import Schema, literal, rule_schema
from finetune_operator.resource import MAX_NAME_LENGTH, Metadata, Rule, Spec

_FREE = {
    "suspend": (),
    "output": ("push",),
    "scheduling": ("ttlSecondsAfterFinished",),
    "recovery": ("maxRestarts",),
}
"""What may change at any time: a whole field of the spec, or fields of a block."""

_REMEDY = (
    "cannot change once the run has started (status.startTime is set): only suspend, mode from Plan to Run,"
    " output.push, scheduling.ttlSecondsAfterFinished and recovery.maxRestarts may; create a run under another name"
    " instead"
)


def root_rules() -> list[Schema]:
    """CEL rules of the root. Only there are `metadata` and, beside the spec, `status` in sight."""
    blocks = [str(field.alias) for field in Spec.model_fields.values()]
    frozen = [_frozen_rule(block) for block in blocks if _FREE.get(block) != ()]
    return [*_name_rules(), *frozen]


def _name_rules() -> list[Schema]:
    """The API server allows 253 characters and dots; a run's name becomes part of DNS labels, which do not."""
    name = "self.metadata.name"
    text = Metadata.model_json_schema()["properties"]["name"]
    length = Rule(
        f"{name}.size() <= {MAX_NAME_LENGTH}",
        f"metadata.name has {{{name}.size()}} characters; use at most {MAX_NAME_LENGTH}, since pods are named after it",
    )
    letters = Rule(
        f"{name}.matches({literal(text['pattern'])})", f"metadata.name {text['remedy']}, and it is {{{name}}}"
    )
    return [rule_schema(length), rule_schema(letters)]


def _frozen_rule(block: str) -> Schema:
    """One rule per block, so that the message can name it."""
    started = "has(oldSelf.status) && has(oldSelf.status.startTime)"
    rule = Rule(f"!({started}) || ({_is_unchanged(block)})", f"spec.{block} {_REMEDY}", f".spec.{block}")
    return rule_schema(rule, "FieldValueForbidden")


def _is_unchanged(block: str) -> str:
    new, old = f"self.spec.{block}", f"oldSelf.spec.{block}"
    if block == "mode":
        return f"{new} == {old} || {new} == 'Run'"
    if block not in _FREE:
        return f"{new} == {old}"
    model = type(Spec.model_fields[block].default)
    fields = [str(field.alias) for field in model.model_fields.values() if field.alias not in _FREE[block]]
    return " && ".join(
        f"has({new}.{field}) == has({old}.{field}) && (!has({new}.{field}) || {new}.{field} == {old}.{field})"
        for field in fields
    )
