"""Pure: resource + facts -> Plan. Topology, batch arithmetic, memory estimate, strategy choice, run config."""

from finetune_operator.planning.ladder import Planner, remedied, remedy_words
from finetune_operator.planning.memory import MemoryLine
from finetune_operator.planning.pins import with_host_memory
from finetune_operator.planning.plan import Locations, Plan, PlanError, make_plan
from finetune_operator.planning.push import push_config, push_request, push_target
from finetune_operator.planning.refusals import check_limits, check_push
from finetune_operator.planning.run_config import prepare_config, run_config
from finetune_operator.planning.secrets import InputSecret, input_secrets, push_own_variable
from finetune_operator.planning.summary import plan_status, render_plan

__all__ = [
    "InputSecret",
    "Locations",
    "MemoryLine",
    "Plan",
    "PlanError",
    "Planner",
    "check_limits",
    "check_push",
    "input_secrets",
    "make_plan",
    "plan_status",
    "prepare_config",
    "push_config",
    "push_own_variable",
    "push_request",
    "push_target",
    "remedied",
    "remedy_words",
    "render_plan",
    "run_config",
    "with_host_memory",
]
