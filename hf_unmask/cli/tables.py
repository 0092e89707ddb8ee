"""``hf-unmask samplers`` and ``hf-unmask models``: what there is, with sources."""

from __future__ import annotations

from hf_unmask.cli.options import JsonFlag
from hf_unmask.cli.terminal import plain_errors, print_json, say


def samplers(as_json: JsonFlag = False) -> None:
    """List the samplers with their parameters, defaults and sources."""
    with plain_errors():
        from hf_unmask.samplers.specs import sampler_table

        rows = sampler_table()
        if as_json:
            print_json({"samplers": [row._asdict() for row in rows]})
            return
        for row in rows:
            say(f"{row.name}  ({row.parameters})", f"    {row.summary}", f"    {row.source}")


def models(as_json: JsonFlag = False) -> None:
    """List the families of denoisers, what is known of each, and what its support was tested on."""
    with plain_errors():
        from hf_unmask.denoisers.families import table

        rows = table()
        if as_json:
            print_json({"models": rows})
            return
        for row in rows:
            names = ("mask id", "stop ids", "shift", "attention", "block", "cache", "hidden states")
            facts = [f"{name} {row[name]}" for name in names]
            say(
                f"{row['family']}  (tested on: {row['tested on']})",
                f"    {', '.join(facts)}; {row['loaded by']}",
                f"    {row['checkpoints']}" + (f" ({row['note']})" if row["note"] else ""),
            )
