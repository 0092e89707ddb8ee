"""Reports: pictures, tables and one page that explains itself, from the files of an evaluation.

Floor 2: may import `results`. Start in `writing`, which writes all of them; `sections` is what the page says, `html`
and `frontier_plots` how it looks (`styles` colours and markers, `labels` texts beside points), `assets/` its style and
the script of its viewer.
"""
