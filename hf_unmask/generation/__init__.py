"""Generation: the one loop that fills a canvas, and what it does at every step.

Floor 2: may import `denoisers`. Start in `loop` (what users call), then `advancing`, one step of all rows: it looks
through a `window`, asks the denoiser, does the `reading` (`ties`: which of equals is the largest), asks the sampler
(`step`: what that sees and answers), checks for `faults` and writes. `prompts` checks what was passed, `canvas` is
where a row's sequence and canvas are laid out, `run` what a call settles before the first step, `pool` which rows are
at work, `plan` what the host knows before a step, `cache_refresh` what is computed anew when keys and values are kept.
"""
