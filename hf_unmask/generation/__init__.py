"""Generation: the one loop that fills a canvas, and what it does at every step.

Floor 2: may import `denoisers`. Start in `loop` (what users call), then `advancing` (one step of all rows); `canvas` is
where a row's sequence and canvas are laid out, `step` what a sampler sees and answers.
"""
