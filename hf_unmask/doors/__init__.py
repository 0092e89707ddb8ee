"""Doors: how a model comes in, and who decodes it where the loop is not ours.

Floor 5: may import everything below: `samplers`, `policy`, `generation`, `denoisers`. Start in `loading` (from a
checkpoint) or `attaching` (a model that is there); `generating` is what users call, for samplers that may be text;
`block` is what engines with a loop of their own call, `random_canvas` a model of transformers that has one; `sources`
looks at a model's name, and `check` proves from weights what is taken for granted.
"""
