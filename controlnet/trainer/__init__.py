"""Training: shards in, a ControlNet out.

Reading order: `config` (what can be asked for), `index` `order` `draws` `batch` `prefetch` (data),
`texts` `loss` `learner` (one step), `optimizers`, `checkpoint`, `probe` `snap` `curves` (does it
obey yet?), `loop` (all of it). Shape letters as in `controlnet.architecture`.
"""
