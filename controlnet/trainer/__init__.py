"""Training: shards in, a ControlNet out.

Reading order: `config` (what can be asked for), `train` (the loop), `setup` (its parts); the way of
a batch: `index`, `loader`, `batch`, `step`; and what comes of it: `log`, `probe`, `figures`,
`checkpoint`, `run_folder`. The whole way, network included: docs/architecture.md.
Shape letters as in `controlnet.architecture`.
"""
