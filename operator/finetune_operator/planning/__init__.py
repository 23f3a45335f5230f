"""Pure: resource + facts -> Plan. Topology, batch arithmetic, memory estimate, strategy choice, run config."""

from finetune_operator.planning.plan import Locations, Plan, PlanError, make_plan
from finetune_operator.planning.run_config import prepare_config, run_config

__all__ = ["Locations", "Plan", "PlanError", "make_plan", "prepare_config", "run_config"]
