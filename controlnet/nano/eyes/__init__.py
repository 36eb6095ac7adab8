"""Small annotators that have learned the drawn world, in the file formats of the released ones.

`python -m controlnet.nano.eyes hed --output FOLDER` trains one of them, `benchmarks.nano_eyes` says
how often it is right. What is right often enough lies in `annotators/nano`, where `--weights nano`
finds it.
"""
