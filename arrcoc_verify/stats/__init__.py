"""Statistics of verdicts: arrays in, small frozen results out; no torch, no global random state.

Modules: `sample` (what counts as a sample), `interval`, `flips`, `permutation`, `trend`,
`equivalence`, `multiplicity`, `sequential`, `power`, `decide` (the rules that claims use),
`decomposition`, `description`, `calibration` (how far all of this can be trusted, by simulation).
Everything that decides is written as "reject unless inside", so a NaN never passes.
"""
