"""What becomes of each flag of ms-swift in a Citrus-V run: it works, is refused, is warned of, or does not matter.

`sorts` has the flags of training that work or do not matter, `rules` (with `loss_rules`, `evaluation_rules` and
`tuner_rules`) those that are refused or warned of, and when; `inference_rules` has both for inference. `setting_rules`
and `names` do the same for the plugin's own settings. `given` finds what was given, and `check` applies the rules where
arguments are read. The tables of docs/compatibility.md are made from all of these.
"""
