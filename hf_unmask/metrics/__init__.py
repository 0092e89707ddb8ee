"""The package's metrics: modules of the ``evaluate`` library, loadable offline by path.

Each returns ``{"score": float, "per_sample": [float]}``; ``compute`` of some takes further keywords, see their
``inputs_description``. Each module stands alone, so that it can be loaded from a copy or pushed to the Hub; what they
repeat, they repeat for that. ``code_tests`` runs the predicted programs on this machine: it is off unless asked for,
and a sandbox only where bubblewrap is installed.

Floor 1: may import no other room. Start in `load_metric` below; then one folder per metric.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
#: The packaged metrics, and what an answer must be to count as right.
METRICS = {
    "answer_match": "the final answer is right, whatever is written before it",
    "code_tests": "the program passes its tests",
    "exact_match": "the text is that of the reference",
    "sudoku": "the grid is a valid completion of the puzzle",
    "well_formed": "the final answer is right, every written step is an equation that holds and follows from the one "
    "before, and no number stands elsewhere; words are free",
}


def metric_path(name: str) -> Path:
    """Folder of a packaged metric, for ``evaluate.load(str(metric_path("exact_match")), keep_in_memory=True)``.

    Raises:
        ValueError: no such metric; the message lists those there are.
    """
    if name not in METRICS:
        raise ValueError(f"no packaged metric {name!r}; there are {', '.join(METRICS)}")
    return _HERE / name


def load_metric(name_or_path: str | Path, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """An ``evaluate`` module: a packaged metric, a local folder or script, or by opt-in one of the Hub.

    Args:
        name_or_path: name of a packaged metric, else a path that exists, else a name on the Hub.
        revision: commit (or tag) of a metric on the Hub. Needed there, because what is downloaded is executed.
        trust_remote_code: allow that.

    Raises:
        ValueError: a metric of the Hub without opt-in.
        ImportError: the extra ``evaluate`` is not installed.
    """
    name = str(name_or_path)
    try:
        import evaluate  # type: ignore[import-untyped]

        if name in METRICS:
            # never the bare name: evaluate would prefer a folder of that name in the working directory
            return evaluate.load(str(metric_path(name)), keep_in_memory=True)
    except ImportError as error:
        raise ImportError(f"metrics need more libraries ({error}): pip install 'hf_unmask[evaluate]'") from error
    if Path(name).exists():
        return evaluate.load(name, keep_in_memory=True)
    if not trust_remote_code or revision is None:
        raise ValueError(
            f"{name!r} is neither a packaged metric ({', '.join(METRICS)}) nor a local path. A metric of the Hub runs "
            "code that is downloaded: allow it with trust_remote_code=True and revision=<commit>"
        )
    return evaluate.load(name, revision=revision, keep_in_memory=True)
