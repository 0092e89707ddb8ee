"""Evaluation: samplers compared on the same prompts, with the statistics that the comparison needs.

Floor 7: may import everything below. Start in `running`, which carries an evaluation out; `planning` is what it
consists of, `worker` one unit of it, `storage` what makes it survive a crash, `tuning` which dials are worth trying.
What is computed from its files afterwards lies in `hf_unmask.results`, reports in `hf_unmask.report`; ``from
hf_unmask.evaluation import statistics`` finds them too.
"""

from __future__ import annotations

import importlib
from typing import Any

#: Modules that can be imported from here by the names they always had.
_ELSEWHERE = {
    "aggregation": "results.aggregation",
    "budgets": "results.best_per_budget",
    "contents": "results.folder",
    "contest": "results.policy_against_heuristics",
    "frontier": "results.frontier",
    "groups": "results.comparable",
    "markdown": "results.markdown",
    "order": "results.opening_order",
    "orders": "report.order_tables",
    "page": "report.html",
    "plots": "report.frontier_plots",
    "prompts": "evaluation.prompt_templates",
    "records": "results.records",
    "report": "report.writing",
    "sections": "report.sections",
    "statistics": "results.statistics",
    "tables": "results.summary_tables",
    "transfer": "results.transfer_matrix",
    "viewer": "results.trajectories",
    "working": "evaluation.worker",
}


def __getattr__(name: str) -> Any:
    """Modules that live in other rooms (PEP 562)."""
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"hf_unmask.{_ELSEWHERE[name]}")
