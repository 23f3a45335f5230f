"""Pure: what is true of a run, and what is to be done about it.

`decide_pass` reads the previous status and an observation, and answers with the next status and with acts. The files
tell it in this order: `memory` adds to the durable records (`preparation`, `attempts`, `orders`, `recovery`, `finals`,
`push`) after `mending` has taken away what cannot be true of them, `decisions` derives the acts from the records,
`conditions` the conditions and the phase (with `waiting`), `cost` what it has cost, `events` what to tell.
A resource that cannot be understood gets no decision, only `invalid_status`.
"""

from finetune_operator.lifecycle.attempts import suspect_nodes
from finetune_operator.lifecycle.decision import (
    Action,
    ClearPreparation,
    Decision,
    DeleteRun,
    Event,
    Planning,
    StartAttempt,
    StartPreparation,
    StartPush,
    StopAttempt,
    StopPush,
)
from finetune_operator.lifecycle.decisions import decide_pass
from finetune_operator.lifecycle.events import events_between
from finetune_operator.lifecycle.finals import is_final, reopened
from finetune_operator.lifecycle.invalid import invalid_status
from finetune_operator.lifecycle.preparation import known_facts

__all__ = [
    "Action",
    "ClearPreparation",
    "Decision",
    "DeleteRun",
    "Event",
    "Planning",
    "StartAttempt",
    "StartPreparation",
    "StartPush",
    "StopAttempt",
    "StopPush",
    "decide_pass",
    "events_between",
    "invalid_status",
    "is_final",
    "known_facts",
    "reopened",
    "suspect_nodes",
]
