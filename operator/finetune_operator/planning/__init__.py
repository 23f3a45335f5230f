"""Pure: resource + facts -> Plan. Topology, batch arithmetic, memory estimate, strategy choice, run config."""

from finetune_operator.planning.memory import MemoryLine
from finetune_operator.planning.plan import Locations, Plan, PlanError, make_plan
from finetune_operator.planning.refusals import check_limits
from finetune_operator.planning.run_config import prepare_config, run_config
from finetune_operator.planning.secrets import InputSecret, input_secrets
from finetune_operator.planning.summary import plan_status, render_plan

__all__ = [
    "InputSecret",
    "Locations",
    "MemoryLine",
    "Plan",
    "PlanError",
    "check_limits",
    "input_secrets",
    "make_plan",
    "plan_status",
    "prepare_config",
    "render_plan",
    "run_config",
]
